"""BLiMP again, by languages of other seeds: how much of an accuracy is chance?

    EBRL_DATA=… python benchmarks/blimp_seeds.py LANGUAGE… --out benchmarks/results/blimp_seeds

Each LANGUAGE is a file that `benchmarks/ship_language.py` wrote for a run of
`ebrl fit sequences/english`. Measured are the language model, the contrastive energy and the sum
that judges, on the pairs of `benchmarks/blimp.py`. Languages measured before are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from blimp import accuracies, minimal_pairs
from english import judge, markdown, write

from ebrl.sequences.language import load

ENERGIES = ("causal", "contrastive", "sum")


def means(path: Path, pairs: dict[str, list[tuple[str, str]]]) -> dict[str, float]:
    """Return the mean accuracy over the paradigms of each energy of a language."""
    language = load(path)
    energies = {**language.energies, "sum": language.energy}
    count = max(map(len, pairs.values()))
    found = {}
    for name in ENERGIES:
        accuracy = accuracies(judge(language, energies[name]), pairs, count)
        found[name] = float(np.mean(list(accuracy.values())))
        print(path, name, found[name], flush=True)
    return {**found, "valid nats a token": language.card["valid nats a token"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("languages", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/blimp_seeds"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = given.out.with_suffix(".json")
    measured = json.loads(file.read_text())["measured"] if file.exists() else {}
    pairs = minimal_pairs()
    for path in given.languages:
        if path.stem not in measured:
            measured[path.stem] = means(path, pairs)
        lines = [[name, *figures.values()] for name, figures in measured.items()]
        head = ["language", *ENERGIES, "held-out nats a token"]
        write(given.out, markdown(head, lines) + "\n", {"measured": measured})


if __name__ == "__main__":
    main()
