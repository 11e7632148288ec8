"""`ebrl repair "It is one of best films."`: correct sentences by a few edits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebrl.command.arguments import Count, Parser, Seed, Strength
from ebrl.command.errors import RunError, UsageError, extra
from ebrl.command.sentences import Judge, add_language, complain, judge, sentences
from ebrl.command.wording import counted

if TYPE_CHECKING:
    from jsonargparse import Namespace

HELP = """
Corrects a sentence: chains of substitutions, insertions and deletions search for the sentence of
lowest energy plus --cost nats for each changed token. A higher cost changes less. The energy is the
language model's, less that of a typical sentence with equally rare tokens, so that shorter
sentences are no better. A sentence unlike the texts that the language was trained on is drawn
towards them. Prints the sentence, how many tokens were edited, and its energy before and after. A
file has one sentence a line, in UTF-8; - reads standard input. A line that cannot be judged does
not stop the others; the exit code is then 1. The same seed gives the same result.

examples:
  ebrl repair "This is one of best films of the year."
  ebrl repair "This is one of best films of the year." --cost 9      changes less
  ebrl repair "This is one of best films of the year." --steps 400   searches longer
  ebrl repair essay.txt                                              line by line
"""


def main(arguments: list[str]) -> int:
    """Repair the sentences; return 0 if all could be judged, else 1."""
    parser = Parser("repair", HELP)
    parser.add_argument("source", metavar="TEXT", help="a file, -, or a sentence in quotes")
    add_language(parser, "causal less the usual energy of such tokens")
    parser.add_argument(
        "--cost", type=Strength, default=6.0, help="nats that an edited token costs"
    )
    parser.add_argument("--steps", type=Count, default=64, help="edits that each chain tries")
    parser.add_argument("--chains", type=Count, default=16, help="independent searches")
    parser.add_argument("--seed", type=Seed, default=0, help="the seed of the chains")
    given = parser.read(arguments)
    with extra("sequences", "tokenizers"):
        by = judge(given)
        repaired, refused = 0, 0
        for place, text, error in sentences(given.source, by.language):
            error = error or _repair(text, by, given)
            if error is None:
                repaired += 1
            else:
                complain(place, error)
                refused += 1
    if not repaired and not refused:
        raise RunError("expected a sentence a line, got no text.")
    if repaired + refused > 1:
        print(f"Done: {counted(repaired, 'sentence')} searched, {refused:,} not.")
    return 1 if refused else 0


def _repair(text: str, by: Judge, given: Namespace) -> Exception | None:
    """Print a sentence as it is after its repair; return why it cannot be judged, if it cannot.

    Raises:
        UsageError: If an option is out of its range.
    """
    from ebrl.sequences.editing import repair
    from ebrl.sequences.text import SentenceError

    try:
        found = repair(
            text,
            language=by.language,
            energy=by.energy,
            cost=given.cost,
            steps=given.steps,
            chains=given.chains,
            seed=given.seed,
        )
    except SentenceError as error:
        return error
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    print(found.text)
    change = f"{found.original_energy:.1f} to {found.energy:.1f} nats"
    edits = f"{counted(found.edits, 'token')} edited, {change}"
    print(f"  {edits}" if found.edits else "  nothing to repair")
    return None
