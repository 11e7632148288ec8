"""`ebrl repair "the cat sat in on mat"`: correct a sentence by a few edits."""

from __future__ import annotations

from jsonargparse.typing import NonNegativeFloat

from ebrl.command.arguments import Count, Parser, Seed
from ebrl.command.errors import RunError, UsageError, extra
from ebrl.command.sentences import add_language, judge

HELP = """
Corrects a sentence: chains of substitutions, insertions and deletions search for the sentence of
lowest energy plus --cost nats for each changed token. A higher cost changes less. The energy is the
language model's, less what typical sentences of such tokens have, so that shorter sentences are no
better. Prints the sentence, how many tokens were edited, and its energy before and after. The same
seed gives the same result.

examples:
  ebrl repair "The cat sat in on mat."
  ebrl repair "The cat sat in on mat." --cost 9                changes less
  ebrl repair "The cat sat in on mat." --steps 400             searches longer
"""


def main(arguments: list[str]) -> int:
    """Repair one sentence."""
    parser = Parser("repair", HELP)
    parser.add_argument("text", metavar="SENTENCE", help="the sentence, in quotes")
    add_language(parser, "causal less the usual energy of such tokens")
    parser.add_argument(
        "--cost", type=NonNegativeFloat, default=6.0, help="nats that an edited token costs"
    )
    parser.add_argument("--steps", type=Count, default=96, help="edits that each chain tries")
    parser.add_argument("--chains", type=Count, default=16, help="independent searches")
    parser.add_argument("--seed", type=Seed, default=0, help="the seed of the chains")
    given = parser.read(arguments)
    if not given.text.strip():
        raise UsageError("expected a sentence, got an empty text.")
    with extra("sequences", "tokenizers"):
        from ebrl.sequences.editing import repair
        from ebrl.sequences.text import SentenceError

        by = judge(given)
        try:
            found = repair(
                given.text,
                language=by.language,
                energy=by.energy,
                cost=given.cost,
                steps=given.steps,
                chains=given.chains,
                seed=given.seed,
            )
        except SentenceError as error:
            raise RunError(f"{error}.") from error
        except ValueError as error:
            raise UsageError(f"{error}.") from error
    print(found.text)
    change = f"{found.original_energy:.1f} to {found.energy:.1f} nats"
    print(f"  {found.edits} tokens edited, {change}" if found.edits else "  nothing to repair")
    return 0
