"""`ebrl rank`: candidates in order, the most likely first."""

from __future__ import annotations

from ebrl.command.arguments import Parser
from ebrl.command.errors import RunError, extra
from ebrl.command.sentences import Lines, add_language, coloured, complain, judge, sentences
from ebrl.command.wording import counted

HELP = """
Orders sentences by their energy, the most likely first, and prints for each its rank, its energy in
nats and the sentence, its unlikely tokens red on a terminal. The candidates are sentences on the
command line, or the lines of a file (UTF-8; - reads standard input). By default the energy is a
weighted sum of the language's energies, with weights chosen on held-out sentences; `ebrl score`
takes the language model alone. A line that cannot be judged does not stop the others; the exit code
is then 1.

examples:
  ebrl rank "He go home." "He goes home." "He going home."
  ebrl rank candidates.txt
  ebrl rank candidates.txt --energy causal                     by the language model alone
"""


def main(arguments: list[str]) -> int:
    """Rank the candidates; return 0 if all were valid, else 1."""
    parser = Parser("rank", HELP)
    parser.add_argument(
        "candidates", nargs="+", metavar="TEXT", help="a file, -, or sentences in quotes"
    )
    add_language(parser, "sum")
    given = parser.read(arguments)
    with extra("sequences", "tokenizers"):
        from ebrl.sequences.judging import rank

        by = judge(given)
        sound, refused = [], 0
        for source in given.candidates:
            for place, text, error in sentences(source, by.language):
                if error is None:
                    sound.append(text)
                else:
                    complain(place or repr(text), error)
                    refused += 1
        if not sound and not refused:
            raise RunError("expected a sentence a line, got no text.")
        console = Lines()
        for number, each in enumerate(rank(sound, language=by.language, energy=by.energy), 1):
            console.print(f"{number:4}  {each.total:8.2f}  ", coloured(each), sep="")
    if refused:
        print(f"Done: {counted(len(sound), 'sentence')} ranked, {refused:,} not.")
    return 1 if refused else 0
