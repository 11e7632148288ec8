"""Text files, a sentence a line in UTF-8: read for judging, line by line, and for training."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from ebrl.data_folder import find
from ebrl.sequences.tokens import Tokenizer, normalise
from ebrl.training.ragged import Ragged

LONGEST_LINE = 20_000  # bytes; no sentence is longer, and the tokenizer's time grows with it
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
COMMON = 5  # times that a letter of an alphabet occurs in a long text
LETTERS = 10_000  # of a text for each time more
ADVICE = (
    "expected a text file, a sentence a line, or a table whose last column is the text; your own "
    "text does"
)


class SentenceError(ValueError):
    """A text is no sentence that can be judged."""


class Line(NamedTuple):
    """A line of a file: its text, or what is wrong with it."""

    number: int  # from 1
    text: str
    error: SentenceError | None


class Text(Ragged):
    """The sentences of a file as rows of tokens.

    Lines that are no sentence are left out; so are those longer than `longest`.

    Args:
        path: A text file, or a table whose last column is the text, plain or `.gz`, here or under
            EBRL_DATA.
        vocabulary: Tokens of the tokenizer that is trained on the file.
        longest: Largest number of tokens in a sentence.
        tokenizer: An existing tokenizer, in place of training one.

    Raises:
        FileNotFoundError: If there is no such file.
        SentenceError: If the file is not UTF-8, or a damaged `.gz`.
        ValueError: If it holds no sentence, or none that is short enough, or the vocabulary is
            smaller than the bytes.
    """

    def __init__(
        self,
        path: str,
        vocabulary: int = 6144,
        longest: int = 126,
        tokenizer: Tokenizer | None = None,
    ):
        texts = sentences(path)
        if not texts:
            raise ValueError(f"{path}: expected a sentence a line, got none")
        self.tokenizer = tokenizer or Tokenizer.train(texts, vocabulary)
        rows = [row for row in self.tokenizer.encode_all(texts) if 0 < len(row) <= longest]
        if not rows:
            raise ValueError(
                f"{path}: expected sentences of at most {longest} tokens, got longer ones alone: "
                "put one sentence on a line, or raise `longest`"
            )
        super().__init__(rows)
        self.alphabet = alphabet(texts)

    def log_frequencies(self) -> Tensor:
        """Return the log probability of each token, `(vocabulary,)`, with add-one smoothing."""
        counts = torch.bincount(self.flat, minlength=self.tokenizer.vocabulary) + 1.0
        return (counts / counts.sum()).log()


def sentences(path: str | Path) -> list[str]:
    """Return the sentences of a file for training; errors as `Text`."""
    found = []
    for number, text, error in read_lines(find(path, ADVICE)):
        if isinstance(error, UnreadableError):
            raise SentenceError(f"{path}, line {number}: {error}")
        text = text.rpartition("\t")[2]
        if error is None and not CONTROL.search(text) and (sentence := normalise(text)):
            found.append(sentence)
    return found


class UnreadableError(SentenceError):
    """Bytes are no UTF-8, or a compressed file is damaged."""


def read_lines(path: str | Path) -> Iterator[Line]:
    """Yield the lines of a file, plain or `.gz`; those that cannot be read with an error.

    The last line of a damaged `.gz` is its error.
    """
    opened = gzip.open if Path(path).suffix == ".gz" else open
    number = 0
    with cast(BinaryIO, opened(path, "rb")) as file:
        try:
            for line in lines_of(file):
                number = line.number
                yield line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            reason = f"expected a gzip file, got a damaged or other one ({error}): pack it again"
            yield Line(number + 1, "", UnreadableError(reason))


def lines_of(file: BinaryIO) -> Iterator[Line]:
    """Yield the lines of an open file; no line is held in memory beyond `LONGEST_LINE`.

    A file in UTF-16 or UTF-32 is one line, with the error.
    """
    number = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        if number == 1 and (coding := _wide_coding(raw)):
            reason = (
                f"expected UTF-8, got {coding}: save the file as UTF-8, or convert it: "
                f"iconv -f {coding} -t UTF-8"
            )
            yield Line(number, "", UnreadableError(reason))
            return
        if len(raw) > LONGEST_LINE and not raw.endswith(b"\n"):
            size = len(raw)
            while not raw.endswith(b"\n") and (raw := file.readline(1 << 20)):
                size += len(raw)
            yield Line(number, "", SentenceError(_too_long(size)))
            continue
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield Line(number, "", UnreadableError(_no_unicode(raw, error)))
            continue
        yield Line(number, text.rstrip("\r\n"), None)


def alphabet(texts: list[str]) -> str:
    """Return the letters that occur at least `COMMON` times, or less in a short text, sorted."""
    counts: dict[str, int] = {}
    for text in texts:
        for character in text:
            counts[character] = counts.get(character, 0) + 1
    letters = {character: n for character, n in counts.items() if character.isalpha()}
    least = min(COMMON, 1 + sum(letters.values()) // LETTERS)
    return "".join(sorted(letter for letter, n in letters.items() if n >= least))


def check_printable(text: str) -> None:
    """Raise `SentenceError` for control characters other than ASCII's white space."""
    if control := CONTROL.search(text):
        raise SentenceError(f"expected text, got the control character {control[0]!r}: remove it")


def check_letters(sentence: str, letters_known: str) -> None:
    """Raise `SentenceError` for text of another script."""
    letters = [c for c in sentence if c.isalpha()]
    foreign = [c for c in letters if c not in letters_known]
    if 2 * len(foreign) > len(letters):
        raise SentenceError(
            f"expected the letters of the training text, got {foreign[0]!r} and others "
            f"({len(foreign)} of {len(letters)}): train a language on such text with `ebrl fit`"
        )


def _too_long(size: int) -> str:
    return f"expected a sentence, got {size:,} bytes: put one sentence on a line"


def _wide_coding(raw: bytes) -> str | None:
    """Return the encoding of a first line if it has several bytes per letter, else None."""
    if raw.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    zeros = raw.count(0)  # without a mark at its start, every other byte of English is 0
    if 3 * zeros < len(raw):
        return None
    big = "BE" if raw[0] == 0 else "LE"
    return f"UTF-32{big}" if 9 * zeros > 5 * len(raw) else f"UTF-16{big}"


def _no_unicode(raw: bytes, error: UnicodeDecodeError) -> str:
    return (
        f"expected UTF-8, got byte 0x{raw[error.start]:02x} at place {error.start + 1}, perhaps of "
        "another coding: save the file as UTF-8"
    )
