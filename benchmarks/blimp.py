"""BLiMP: does an energy prefer the grammatical sentence of a minimal pair?

    EBRL_DATA=… python benchmarks/blimp.py --out benchmarks/results/blimp

The 34 paradigms of blimp_dev.tsv.gz, 1,000 pairs each (Warstadt et al. 2020), never trained on and
never used to choose anything. Accuracy of every energy of the language that ships and of their sum,
beside a word 5-gram with Kneser-Ney smoothing of the same text, and the authors' own models. Ties
count half. `--pairs` takes the first so many of each paradigm; the masked energy, which reads a
sentence once a token, the first `--masked-pairs`, and so does the sum if it has a part of it.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from english import Judge, five_gram, judge, markdown, share_won, table, write

from ebrl.sequences.language import english, load


def minimal_pairs() -> dict[str, list[tuple[str, str]]]:
    """Return the grammatical and the other sentence of each pair, by paradigm."""
    _, *rows = table("blimp_dev.tsv.gz")
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for paradigm, _, good, bad in rows:
        pairs[paradigm].append((good, bad))
    return pairs


def accuracies(
    judge: Judge, pairs: dict[str, list[tuple[str, str]]], count: int
) -> dict[str, float]:
    """Return the accuracy of each paradigm on its first `count` pairs."""
    chosen = [(name, *pair) for name, found in pairs.items() for pair in found[:count]]
    energies = judge([text for _, *pair in chosen for text in pair]).reshape(-1, 2)
    by_name: dict[str, list[np.ndarray]] = defaultdict(list)
    for (name, *_), row in zip(chosen, energies, strict=True):
        by_name[name].append(row)
    return {name: share_won(*np.array(rows).T) for name, rows in by_name.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/blimp"))
    parser.add_argument("--model", type=Path, help="a language (default: the one that ships)")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--masked-pairs", type=int, default=1000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    language = load(given.model) if given.model else english()
    pairs = minimal_pairs()
    head, *anchors = table("blimp_dev_anchors.tsv")
    published = {row[0]: [float(x) for x in row[2:]] for row in anchors}
    columns: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    judges: dict[str, Judge] = {"5-gram, ours": five_gram()}
    judges |= {name: judge(language, energy) for name, energy in language.energies.items()}
    judges["sum"] = judge(language, language.energy)
    slow = {"masked"} | ({"sum"} if "masked" in language.shares else set())
    for name, each in judges.items():
        began = time.process_time()
        count = min(given.pairs, given.masked_pairs) if name in slow else given.pairs
        columns[name] = accuracies(each, pairs, count)
        seconds[name] = time.process_time() - began
        print(name, np.mean(list(columns[name].values())), f"{seconds[name]:.0f} s", flush=True)
    lines = [
        [name, *(found[name] for found in columns.values()), *published[name]] for name in pairs
    ]
    means = [float(np.mean([line[i] for line in lines])) for i in range(1, len(lines[0]))]
    titles = ["paradigm", *columns, *(f"{name}, published" for name in head[2:])]
    text = (
        f"The sum is {language.shares}. Pairs a paradigm: {given.pairs}; of "
        f"{', '.join(sorted(slow))} {min(given.pairs, given.masked_pairs)}.\n\n"
    )
    text += markdown(titles, [["**mean**", *means], *lines]) + "\n"
    figures = {"accuracy": columns, "means": dict(zip(titles[1:], means, strict=True))}
    write(given.out, text, {**figures, "seconds": seconds, "card": language.card})


if __name__ == "__main__":
    main()
