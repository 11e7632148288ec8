"""What the benchmarks of sentences share: texts, energies by name, and where results go."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import commit, processor
from ngram import KneserNey

from ebrl.data_folder import find
from ebrl.energies import Energy
from ebrl.sequences.judging import parts_of_rows
from ebrl.sequences.language import Language
from ebrl.sequences.text import sentences

TRAIN, VALID = "english/train.tsv.gz", "english/valid.tsv.gz"
ADVICE = "a table of BLiMP's minimal pairs or of its authors' figures"
Judge = Callable[[Sequence[str]], np.ndarray]  # sentences to energies


def table(name: str) -> list[list[str]]:
    """Return the rows of a table under EBRL_DATA."""
    path = find(f"english/{name}", ADVICE)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file]


def judge(language: Language, energy: Energy) -> Judge:
    """Return an energy as a function of sentences."""

    def energies(texts: Sequence[str]) -> np.ndarray:
        rows = [row.long() for row in language.tokenizer.encode_all(texts)]
        return torch.stack([part.sum() for part in parts_of_rows(energy, rows)]).numpy()

    return energies


def five_gram() -> Judge:
    """Return the negative log probability of a word 5-gram of the training text."""
    model = KneserNey(sentences(TRAIN))
    return lambda texts: -model.log_probability(texts)


def share_won(better: np.ndarray, worse: np.ndarray) -> float:
    """Return the share of pairs in which the better one has the lower energy; ties count half."""
    return float(((better < worse) + 0.5 * (better == worse)).mean())


def write(out: Path, text: str, figures: dict[str, Any]) -> None:
    """Write OUT.md and OUT.json, with the machine and the commit."""
    facts = {"machine": processor(), "threads": torch.get_num_threads(), "commit": commit()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    out.with_suffix(".json").write_text(json.dumps({**facts, **figures}, indent=1) + "\n")
    print(text)


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; numbers to three places."""

    def cell(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)
