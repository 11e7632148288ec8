"""Text files as data: a sentence a line, in UTF-8."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

from ebrl.sequences.tokens import Tokenizer
from ebrl.training.ragged import Ragged


class Text(Ragged):
    """The sentences of a file as rows of tokens, by a tokenizer that is trained on them.

    Sentences without a token and those that are longer than `longest` are left out.
    """

    def __init__(
        self,
        path: str,
        vocabulary: int = 6144,
        longest: int = 126,
        tokenizer: str | None = None,
    ):
        texts = list(read_sentences(path))
        if tokenizer is not None:
            self.tokenizer = Tokenizer(Path(tokenizer).read_text(encoding="utf-8"))
        else:
            self.tokenizer = Tokenizer.train(texts, vocabulary)
        rows = [row for row in self.tokenizer.encode_all(texts) if 0 < len(row) <= longest]
        super().__init__(rows)


def read_sentences(path: str | Path) -> Iterator[str]:
    """Yield the sentences of a file, here or under EBRL_DATA: of a table, its last column."""
    found = find(path)
    opened = gzip.open if found.suffix == ".gz" else open
    with opened(found, "rt", encoding="utf-8") as file:
        for line in file:
            sentence = line.rstrip("\n").rpartition("\t")[2].strip()
            if sentence:
                yield sentence


def find(path: str | Path) -> Path:
    for found in (Path(path), Path(os.environ.get("EBRL_DATA", ".")) / path):
        if found.is_file():
            return found
    raise FileNotFoundError(f"there is no text file {path}, here or under EBRL_DATA")
