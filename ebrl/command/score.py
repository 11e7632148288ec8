"""`ebrl score TEXT…`: the energy of each sentence, and of each token in it."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from ebrl.command.arguments import Parser
from ebrl.command.destinations import check_file
from ebrl.command.errors import RunError, extra
from ebrl.command.sentences import (
    Judge,
    Lines,
    add_language,
    coloured,
    complain,
    judge,
    sentences,
)
from ebrl.command.wording import counted

if TYPE_CHECKING:
    from ebrl.sequences.judging import Score
    from ebrl.sequences.language import Language

HELP = """
Prints how unlikely sentences are, one line each: the energy in nats, low where likely; the
acceptability from 0 to 100, the percentage of held-out sentences (news, reviews, speeches) that are
less fluent, with --model of sentences that it was trained on; and the sentence, its unlikely tokens
red on a terminal. A file has one sentence a line, in UTF-8; - reads standard input. A line that
cannot be judged does not stop the others; the exit code is then 1. An existing page is overwritten
only with --overwrite.

examples:
  ebrl score "The cat sat on the mat."
  ebrl score "He go home." "He goes home."
  ebrl score essay.txt --html essay.html
  grep -v '^$' essay.txt | ebrl score - --tokens
  ebrl score essay.txt --model runs/text/HybridLikelihood-0    your own language
"""
TOGETHER = 256  # sentences


def main(arguments: list[str]) -> int:
    """Score the sentences; return 0 if all were valid, else 1."""
    parser = Parser("score", HELP)
    parser.add_argument(
        "sources", nargs="+", metavar="TEXT", help="a file, -, or sentences in quotes"
    )
    add_language(parser, "causal")
    parser.add_argument("--html", help="write a page of coloured sentences to this file")
    parser.add_argument("--tokens", action="store_true", help="print the energy of each token")
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing page")
    given = parser.read(arguments)
    if given.html is not None:
        check_file("--html", Path(given.html), overwrite=given.overwrite)
    with extra("sequences", "tokenizers"):
        from ebrl.command.runs.folder import write
        from ebrl.sequences.pages import html

        scores, refused = _score(given.sources, judge(given), given.tokens)
    if len(scores) + refused != 1:
        _summarise(scores, refused)
    if given.html is not None and scores:
        write(Path(given.html), html(scores))
        print(f"  page  {given.html}")
    return 1 if refused or not scores else 0


def _score(sources: list[str], by: Judge, tokens: bool) -> tuple[list[Score], int]:
    """Print and return the scores of all valid lines, and return the number of others."""
    from ebrl.sequences.judging import score

    console, scores, refused = Lines(), [], 0
    lines = chain.from_iterable(sentences(source, by.language) for source in sources)
    while batch := list(islice(lines, TOGETHER)):
        sound = [text for _, text, error in batch if error is None]
        for place, text, error in batch:
            if error is not None:
                complain(place or repr(text), error)
                refused += 1
        found = score(sound, language=by.language, energy=by.energy) if sound else []
        for each, level in zip(found, _acceptable(found, by.language), strict=True):
            console.print(f"{each.total:8.2f} {level}  ", coloured(each), sep="")
            if tokens:
                *parts, end = each.per_token
                for part in parts:  # a character of several tokens is shown at the first
                    console.print(f"{part.energy:16.2f}  {part.text or '…'}", markup=False)
                console.print(f"{end.energy:16.2f}  (end)", markup=False)
        scores += found
    return scores, refused


def _acceptable(scores: list[Score], language: Language) -> list[str]:
    """Return the acceptability of each sentence as it is printed."""
    from ebrl.sequences.judging import percentages

    if not scores or not len(language.fluency):
        return ["   ?"] * len(scores)
    rows = language.tokenizer.encode_all([each.text for each in scores])
    return [f"{level:4.0f}" for level in percentages(language, rows).tolist()]


def _summarise(scores: list[Score], refused: int) -> None:
    if not scores and not refused:
        raise RunError("expected a sentence a line, got no text.")
    tokens = sum(len(each.per_token) for each in scores)
    total = sum(each.total for each in scores)
    mean = f", {total / tokens:.2f} nats a token" if tokens else ""
    print(f"Done: {counted(len(scores), 'sentence')} scored{mean}, {refused:,} not.")
