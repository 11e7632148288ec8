"""Repair: is a corrupted word found, and put back?

    EBRL_DATA=… python benchmarks/sentence_repair.py --out benchmarks/results/sentence_repair

Held-out sentences of 5 to 15 words with one word replaced by another of like frequency.
`sequences.repair` may edit anything; the 5-gram and the language model alone replace one word: of
the 40 words that most often follow the word before it, they take that of least energy. Reported:
the share restored exactly, and the share whose energy is no higher than the original's, by the
language model.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from coherence import replace_word
from english import TRAIN, VALID, Judge, five_gram, judge, markdown, write

from ebrl.sequences.editing import repair
from ebrl.sequences.language import Language, english, load
from ebrl.sequences.text import sentences

CANDIDATES = 40  # words for each place


def corrupted_texts(count: int) -> tuple[list[str], list[str]]:
    """Return held-out sentences and copies with one word replaced."""
    rng = np.random.default_rng(1)
    counts = Counter(word for text in sentences(TRAIN) for word in text.split())
    ranked = [word for word, n in counts.most_common() if n > 4]
    rank = {word: i for i, word in enumerate(ranked)}
    texts = [text for text in sentences(VALID)[2000:] if 5 <= len(text.split()) <= 15][:count]
    return texts, [" ".join(replace_word(text.split(), ranked, rank, rng)) for text in texts]


def followers() -> dict[str, list[str]]:
    """Return the most frequent words after each word, and after a start."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for text in sentences(TRAIN):
        words = ["", *text.split()]
        for one, other in pairwise(words):
            counts[one][other] += 1
    return {word: [w for w, _ in found.most_common(CANDIDATES)] for word, found in counts.items()}


def substitute(text: str, judge: Judge, after: dict[str, list[str]]) -> str:
    """Return the sentence with the one substitution of least energy, if that is lower."""
    words = text.split()
    tried = [text] + [
        " ".join([*words[:i], word, *words[i + 1 :]])
        for i in range(len(words))
        for word in after.get(words[i - 1] if i else "", [])
    ]
    return tried[int(judge(tried).argmin())]


def measure(
    language: Language, texts: list[str], broken: list[str], repaired: list[str]
) -> dict[str, float]:
    """Return the shares that were restored, and whose energy is back."""
    energy = judge(language, language.causal)
    back = energy(repaired) <= energy(texts) + 1e-3
    return {
        "restored exactly": float(np.mean([a == b for a, b in zip(texts, repaired, strict=True)])),
        "energy back": float(back.mean()),
        "left as it was": float(np.mean([a == b for a, b in zip(broken, repaired, strict=True)])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sentence_repair"))
    parser.add_argument("--model", type=Path, help="a language (default: the one that ships)")
    parser.add_argument("--count", type=int, default=500, help="sentences")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--costs", type=float, nargs="+", default=[6.0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    language = load(given.model) if given.model else english()
    texts, broken = corrupted_texts(given.count)
    found: dict[str, dict[str, float]] = {}
    after = followers()
    alone = {"5-gram": five_gram(), "language model": judge(language, language.causal)}
    for name, each in alone.items():
        began = time.process_time()
        repaired = [substitute(text, each, after) for text in broken]
        found[name] = measure(language, texts, broken, repaired)
        found[name]["seconds each"] = (time.process_time() - began) / len(texts)
        print(name, found[name], flush=True)
    for cost in given.costs:
        began = time.process_time()
        results = [
            repair(text, language=language, cost=cost, chains=given.chains, steps=given.steps)
            for text in broken
        ]
        name = f"repair, cost {cost:g}"
        found[name] = measure(language, texts, broken, [each.text for each in results])
        found[name]["seconds each"] = (time.process_time() - began) / len(texts)
        print(name, found[name], flush=True)
    lines = [[name, *values.values()] for name, values in found.items()]
    text = f"{len(texts)} held-out sentences, one word of each replaced.\n\n"
    text += markdown(["by", *next(iter(found.values()))], lines) + "\n\nThe first ten:\n\n"
    text += markdown(
        ["held out", "corrupted", "repaired"],
        [
            [text.replace("|", "/"), bad.replace("|", "/"), each.text.replace("|", "/")]
            for text, bad, each in zip(texts[:10], broken, results, strict=False)
        ],
    )
    write(given.out, text + "\n", {"found": found, "count": len(texts), "card": language.card})


if __name__ == "__main__":
    main()
