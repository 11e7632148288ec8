"""Coherence: does an energy prefer a held-out sentence to a broken copy of it?

    EBRL_DATA=… python benchmarks/coherence.py --out benchmarks/results/coherence

The second half of the validation sentences, of 6 to 30 words. Broken copies: words in random order;
one word replaced by another of like frequency; two neighbouring words swapped; one word in another
form (walks, walked); the first half of the sentence and the second of another. Beside a word 5-gram
with Kneser-Ney smoothing of the same text. Ties count half.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from english import TRAIN, VALID, five_gram, judge, markdown, share_won, write

from ebrl.sequences.language import english, load
from ebrl.sequences.text import sentences


def replace_word(words: list[str], ranked: list[str], rank: dict[str, int], rng) -> list[str]:  # type: ignore[no-untyped-def]
    """Return the words with one replaced by a neighbour in the order of frequencies."""
    known = [i for i, word in enumerate(words) if word in rank]
    i = int(rng.choice(known))
    span = max(5, rank[words[i]] // 10)
    while True:
        other = min(max(rank[words[i]] + int(rng.integers(-span, span + 1)), 0), len(ranked) - 1)
        if ranked[other] != words[i]:
            return [*words[:i], ranked[other], *words[i + 1 :]]


def swap_words(words: list[str], rng) -> list[str]:  # type: ignore[no-untyped-def]
    """Return the words with two different neighbours swapped."""
    places = [i for i in range(len(words) - 1) if words[i] != words[i + 1]]
    i = int(rng.choice(places))
    return [*words[:i], words[i + 1], words[i], *words[i + 2 :]]


def other_forms(counts: Counter[str]) -> dict[str, list[str]]:
    """Return the other words with the same stem, for each word that has some: walk has walked."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for word in counts:
        for end in range(max(3, len(word) - 3), len(word) + 1):
            by_stem[word[:end]].append(word)
    found: dict[str, set[str]] = defaultdict(set)
    for words in by_stem.values():
        for word in words if len(words) > 1 else []:
            found[word] |= set(words) - {word}
    return {word: sorted(others) for word, others in found.items()}


def inflect_word(words: list[str], forms: dict[str, list[str]], counts: Counter[str], rng):  # type: ignore[no-untyped-def]
    """Return the words with one in another form, a more frequent form more often.

    Without one that has other forms, two neighbours are swapped.
    """
    places = [i for i, word in enumerate(words) if word in forms]
    if not places:
        return swap_words(words, rng)
    i = int(rng.choice(places))
    weight = np.array([counts[form] for form in forms[words[i]]], float)
    return [*words[:i], str(rng.choice(forms[words[i]], p=weight / weight.sum())), *words[i + 1 :]]


def broken_copies(texts: list[str]) -> dict[str, list[str]]:
    """Return the broken copies of each kind."""
    rng = np.random.default_rng(0)
    counts = Counter(word for text in sentences(TRAIN) for word in text.split())
    ranked = [word for word, n in counts.most_common() if n > 4]
    rank = {word: i for i, word in enumerate(ranked)}
    split = [text.split() for text in texts]
    others = [split[(i + 1) % len(split)] for i in range(len(split))]
    joined = [
        one[: len(one) // 2] + other[len(other) // 2 :]
        for one, other in zip(split, others, strict=True)
    ]
    forms = other_forms(
        Counter({word: n for word, n in counts.items() if n > 4 and word.isalpha()})
    )
    kinds = {
        "words shuffled": [list(rng.permutation(words)) for words in split],
        "one word replaced": [replace_word(words, ranked, rank, rng) for words in split],
        "two neighbours swapped": [swap_words(words, rng) for words in split],
        "one word in another form": [inflect_word(words, forms, counts, rng) for words in split],
        "halves of two sentences": joined,
    }
    return {kind: [" ".join(words) for words in found] for kind, found in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coherence"))
    parser.add_argument("--model", type=Path, help="a language (default: the one that ships)")
    parser.add_argument("--count", type=int, default=1000, help="sentences")
    parser.add_argument("--masked-count", type=int, default=200, help="of the masked energy")
    given = parser.parse_args()
    torch.set_num_threads(1)
    language = load(given.model) if given.model else english()
    held_out = [text for text in sentences(VALID)[2000:] if 6 <= len(text.split()) <= 30]
    texts = held_out[: given.count]
    broken = broken_copies(texts)
    judges = {"5-gram": five_gram()}
    judges |= {name: judge(language, energy) for name, energy in language.energies.items()}
    judges["sum"] = judge(language, language.energy)
    slow = {"masked"} | ({"sum"} if "masked" in language.shares else set())
    found: dict[str, dict[str, float]] = {}
    for name, each in judges.items():
        count = given.masked_count if name in slow else given.count
        real = each(texts[:count])
        found[name] = {kind: share_won(real, each(copy[:count])) for kind, copy in broken.items()}
        print(name, found[name], flush=True)
    lines = [[name, *values.values()] for name, values in found.items()]
    text = (
        f"Share of {len(texts)} held-out sentences below their broken copy "
        f"({', '.join(sorted(slow))}: {given.masked_count}). The sum is {language.shares}.\n\n"
    )
    text += markdown(["energy", *broken], lines) + "\n"
    write(given.out, text, {"shares": found, "card": language.card})


if __name__ == "__main__":
    main()
