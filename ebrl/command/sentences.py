"""What the verbs for sentences share: the language, the lines of a file, coloured tokens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.text import Text as Coloured

from ebrl.command.arguments import Parser
from ebrl.command.errors import RunError, UsageError, did_you_mean

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from ebrl.energies import Energy
    from ebrl.sequences.judging import Score
    from ebrl.sequences.language import Language

LANGUAGE_FILE = "language.safetensors"  # in the folder of a run
RED = (214, 60, 40)  # behind the least likely tokens
PLAIN = 0.3  # redness up to which a token has the terminal's own colours


class Judge(NamedTuple):
    """The language and the energy of the options."""

    language: Language
    energy: Energy | None  # None: the verb's default


def add_language(parser: Parser, default: str) -> None:
    """Add the options for the language and its energy; `default` says which the verb takes."""
    parser.add_argument(
        "--model",
        help="a run of `ebrl fit` on text, or its language.safetensors (default: English)",
    )
    parser.add_argument(
        "--energy",
        help="causal (the language model), masked, frequency, sum, or a trained one such as "
        f"contrastive (default: {default})",
    )


def judge(given: Namespace) -> Judge:
    """Return the language and energy of the options; UsageError if there is none."""
    from ebrl.sequences.language import english, load
    from ebrl.storage import StorageError

    path = None if given.model is None else Path(given.model)
    if path is not None and path.is_dir():
        path = path / LANGUAGE_FILE
    try:
        language = english() if path is None else load(path)
    except FileNotFoundError as error:
        where = path or "in this installation"
        raise UsageError(f"--model: there is no language {where}: ebrl fit trains one.") from error
    except StorageError as error:
        raise RunError(f"--model: {error}.") from error
    energies = {**language.energies, "sum": language.energy}
    if given.energy is None:
        return Judge(language, None)
    if given.energy not in energies:
        raise UsageError(
            f"--energy: expected one of {', '.join(energies)}, got {given.energy}."
            f"{did_you_mean(given.energy, energies)}"
        )
    return Judge(language, energies[given.energy])


def sentences(source: str, language: Language) -> Iterator[tuple[str, str, Exception | None]]:
    """Yield the place, text and error of each sentence that `source` names.

    The source is a file, `-` for standard input, or a sentence itself. Empty lines are left out.
    The error says why the language cannot judge a line, and is None if it can.

    Raises:
        UsageError: If there is no such file, or standard input is closed.
    """
    from ebrl.sequences.judging import as_sentence
    from ebrl.sequences.text import SentenceError

    for place, text, error in _lines(source):
        if error is None:
            try:
                text = as_sentence(text, language)
            except SentenceError as refusal:
                error = refusal
        yield place, text, error


def _lines(source: str) -> Iterator[tuple[str, str, Exception | None]]:
    from ebrl.sequences.text import lines_of, read_lines

    # os.path takes a sentence for no file, where pathlib finds its name too long.
    if source == "-":
        if sys.stdin is None:
            raise UsageError("-: standard input is closed: name a file or a sentence.")
        lines, name = lines_of(sys.stdin.buffer), "stdin"
    elif os.path.isdir(source):
        raise UsageError(f"{source}: is a folder: name a file, or a sentence of several words.")
    elif os.path.exists(source):
        lines, name = read_lines(source), source
    elif " " in source.strip():
        yield "", source, None
        return
    elif source.strip():
        raise UsageError(
            f"{source}: there is no such file; a sentence is of several words, in quotes."
        )
    else:
        raise UsageError("expected a file, - or a sentence, got an empty text.")
    for line in lines:
        if line.text.strip() or line.error:
            yield f"{name}, line {line.number}", line.text, line.error


class Lines(Console):
    """Lines of coloured text, for `main` to say when their reader has left."""

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def complain(place: str, error: Exception) -> None:
    """Report on stderr why a line could not be judged."""
    print(f"ebrl: {place + ': ' if place else ''}{error}.", file=sys.stderr)


def coloured(score: Score) -> Coloured:
    """Return a sentence with tokens of high energy on red, legible on any terminal."""
    from ebrl.sequences.pages import redness

    text = Coloured()
    for part in score.per_token:
        red = redness(part)
        shade = ",".join(f"{255 + red * (full - 255):.0f}" for full in RED)
        text.append(part.text, style=f"rgb(0,0,0) on rgb({shade})" if red > PLAIN else "")
    return text
