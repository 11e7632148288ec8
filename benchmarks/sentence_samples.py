"""Samples: sentences drawn by resampling and edits, beside real ones.

    EBRL_DATA=… python benchmarks/sentence_samples.py --out benchmarks/results/sentence_samples

Reported of samples and of as many held-out sentences: the share of word 4-grams that are not in the
training text, the shares of different words, 2-grams and 3-grams, the mean energy a token by the
language model, and the first 20 samples, with the seed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from english import TRAIN, VALID, judge, markdown, write
from ngram import words

from ebrl.sequences.generation import sample
from ebrl.sequences.language import english, load
from ebrl.sequences.text import sentences


def grams(texts: list[str], n: int) -> list[tuple[str, ...]]:
    split = [words(text) for text in texts]
    return [tuple(each[i : i + n]) for each in split for i in range(len(each) - n + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sentence_samples"))
    parser.add_argument("--model", type=Path, help="a language (default: the one that ships)")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=32, help="of the chain after resampling")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    language = load(given.model) if given.model else english()
    began = time.process_time()
    drawn: list[str] = []
    for part in range(0, given.count, 50):
        drawn += sample(50, language=language, steps=given.steps, seed=given.seed + part)
    seconds = (time.process_time() - began) / len(drawn)
    known = set(grams(sentences(TRAIN), 4))
    energy = judge(language, language.causal)
    found: dict[str, dict[str, float]] = {}
    for name, texts in {
        "samples": drawn,
        "held out": sentences(VALID)[2000:][: len(drawn)],
    }.items():
        texts = [text for text in texts if text]
        tokens = sum(len(row) + 1 for row in language.tokenizer.encode_all(texts))
        four = grams(texts, 4)
        found[name] = {
            "new 4-grams": float(np.mean([gram not in known for gram in four])),
            **{f"distinct {n}": len(set(g := grams(texts, n))) / len(g) for n in (1, 2, 3)},
            "nats a token": float(energy(texts).sum()) / tokens,
            "words a sentence": len(grams(texts, 1)) / len(texts),
        }
    text = f"{len(drawn)} of each; {given.steps} steps each; {seconds:.2f} s a sample.\n\n"
    text += markdown(["", *found["samples"]], [[k, *v.values()] for k, v in found.items()])
    text += f"\n\nThe first 20, seed {given.seed}:\n\n" + "\n".join(f"- {t}" for t in drawn[:20])
    write(given.out, text + "\n", {"found": found, "samples": drawn, "card": language.card})


if __name__ == "__main__":
    main()
