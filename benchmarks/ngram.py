"""A word 5-gram with interpolated Kneser-Ney smoothing: the rival of sentence energies.

Counts live in sorted arrays of 64-bit hashes, so that millions of n-grams take seconds. An order
has one discount, `n1 / (n1 + 2 n2)` (Chen and Goodman 1999, section 2.7).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
UNKNOWN, START, END = 0, 1, 2
PRIME = np.uint64(0x9E3779B97F4A7C15)


def words(sentence: str) -> list[str]:
    """Split a sentence into words and marks."""
    return WORD.findall(sentence)


class Table(NamedTuple):
    """n-grams of one order by their hashes, ascending, and what smoothing needs of them."""

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray  # the sum of the counts after each context
    kinds: np.ndarray  # the number of different words after it
    discount: float


class _Hashes(NamedTuple):
    grams: np.ndarray
    contexts: np.ndarray  # all words but the last, as an n-gram that ends there
    suffixes: np.ndarray  # all but the first


class KneserNey:
    """Train on sentences; words that occur once are unknown ones."""

    def __init__(self, sentences: Sequence[str], order: int = 5):
        split = [words(sentence) for sentence in sentences]
        known = Counter(word for sentence in split for word in sentence)
        kept = (word for word, count in known.most_common() if count > 1)
        self.order, self.numbers = order, {word: i for i, word in enumerate(kept, END + 1)}
        hashes = self._hashes([self._numbered(sentence) for sentence in split])
        self.tables: list[Table] = []
        counts: np.ndarray | None = None
        suffixes: np.ndarray | None = None
        for n in range(order, 0, -1):
            if suffixes is None:
                grams, first, counts = np.unique(
                    hashes[n].grams, return_index=True, return_counts=True
                )
                context, suffix = hashes[n].contexts[first], hashes[n].suffixes[first]
            else:  # continuations: in how many different longer n-grams it ends
                every, first = np.unique(hashes[n].grams, return_index=True)
                grams, counts = np.unique(suffixes, return_counts=True)
                at = first[np.searchsorted(every, grams)]
                context, suffix = hashes[n].contexts[at], hashes[n].suffixes[at]
            self.tables.insert(0, _table(grams, counts, context))
            suffixes = suffix

    def log_probability(self, sentences: Sequence[str]) -> np.ndarray:
        """Return the log probability of each sentence, its end included."""
        numbered = [self._numbered(words(sentence)) for sentence in sentences]
        hashes = self._hashes(numbered)
        p = np.full(len(hashes[1].grams), 1 / (len(self.numbers) + 2))
        for n, table in enumerate(self.tables, 1):
            count = _look_up(table.grams, table.counts, hashes[n].grams)
            total = _look_up(table.contexts, table.totals, hashes[n].contexts)
            kinds = _look_up(table.contexts, table.kinds, hashes[n].contexts)
            with np.errstate(invalid="ignore", divide="ignore"):
                seen = (np.maximum(count - table.discount, 0) + table.discount * kinds * p) / total
            p = np.where(total > 0, seen, p)
        ends = np.cumsum([len(sentence) + 1 for sentence in numbered])
        return np.add.reduceat(np.log(p), np.concatenate([[0], ends[:-1]]))

    def _numbered(self, sentence: list[str]) -> list[int]:
        return [self.numbers.get(word, UNKNOWN) for word in sentence]

    def _hashes(self, sentences: list[list[int]]) -> dict[int, _Hashes]:
        """Return the hashes of the n-grams that end at each word and each end, by n."""
        pad = [START] * (self.order - 1)
        flat = np.array([w for s in sentences for w in (*pad, *s, END)], dtype=np.uint64)
        sizes = np.array([len(s) + 1 for s in sentences])
        starts = np.cumsum(sizes + len(pad)) - sizes
        offset = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = np.repeat(starts, sizes) + offset
        found = {}
        with np.errstate(over="ignore"):
            for n in range(1, self.order + 1):
                parts = [_mixed(flat[place - back], back) for back in range(n)]
                shifted = [_mixed(flat[place - back], back - 1) for back in range(1, n)]
                zero = np.zeros(len(place), dtype=np.uint64)
                found[n] = _Hashes(*(sum(each, zero) for each in (parts, shifted, parts[:-1])))
        return found


def _mixed(word: np.ndarray, back: int) -> np.ndarray:
    """Return a hash of a word so many places back: their sum is that of an n-gram."""
    x = (word + np.uint64(1)) * PRIME + np.uint64(back + 1) * np.uint64(0xD1B54A32D192ED03)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _table(grams: np.ndarray, counts: np.ndarray, context: np.ndarray) -> Table:
    contexts, where = np.unique(context, return_inverse=True)
    totals = np.bincount(where, weights=counts)
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    discount = float(once / (once + 2 * twice)) if once else 0.5
    return Table(grams, counts, contexts, totals, np.bincount(where), discount)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(float)
