"""Broken copies of sentences, from which an energy learns what is sound."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from ebrl.kernels.edits import closed, opened
from ebrl.sequences.tokens import PAD, SPECIAL, Tokenizer
from ebrl.spaces import string_lengths

STEM = 3  # letters that two forms of a word share at least
ENDING = 3  # letters in which they differ at most


def corrupted(x: Tensor, generator: Generator) -> Tensor:
    """Return copies of `x: (n, length)` with one to three faults each.

    A fault is one of: a token replaced by one of another sentence, two neighbours swapped, a token
    left out, a token moved elsewhere.
    """
    count = torch.randint(1, 4, (len(x), 1), generator=generator)
    for i in range(3):
        kind = torch.randint(len(FAULTS), (len(x),), generator=generator)
        copies = torch.stack([fault(x, generator) for fault in FAULTS])  # (faults, n, length)
        faulty = copies[kind, torch.arange(len(x))]
        x = torch.where(i < count, faulty, x)
    return x


class MinimalPairs:
    """Copies with one fault, such that what is wrong with them is grammar more often than sense.

    Every other fault is a confusion: one token replaced by another form of the same word, or a
    frequent one (an article, a pronoun, an auxiliary, an ending) by another frequent one. The
    others are those of `corrupted`.

    Args:
        tokenizer: Spells the tokens.
        log_frequencies: Log probability of each token drawn alone, `(vocabulary,)`.
        words: How many of the most frequent words are confused with each other.
        endings: How many of the most frequent continuations of words are.
    """

    def __init__(
        self, tokenizer: Tokenizer, log_frequencies: Tensor, words: int = 150, endings: int = 40
    ):
        spelled = [tokenizer.spelling(token) for token in range(tokenizer.vocabulary)]
        plain = [token for token in range(len(SPECIAL), len(spelled)) if _is_plain(spelled[token])]
        plain.sort(key=lambda token: -float(log_frequencies[token]))
        begun = [token for token in plain if spelled[token].startswith(" ")]
        inner = [token for token in plain if not spelled[token].startswith(" ")]
        alike: dict[int, set[int]] = forms({token: spelled[token][1:] for token in begun})
        for group in (begun[:words], inner[:endings]):
            for token in group:
                alike[token] |= set(group) - {token}
        rows = [
            torch.tensor(sorted(alike[token]), dtype=torch.long) for token in range(len(spelled))
        ]
        self.others = pad_sequence(rows, batch_first=True, padding_value=PAD)  # (vocabulary, most)
        chances = (log_frequencies / 2).exp()[self.others]  # more frequent ones more often
        self.chances = chances.masked_fill(self.others == PAD, 0.0)

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        """Return copies of `x: (n, length)`; one in which nothing can be confused may be equal."""
        kind = torch.randint(2 * len(FAULTS), (len(x),), generator=generator)
        copies = [fault(x, generator) for fault in FAULTS]
        copies += len(FAULTS) * [self.confused(x, generator)]
        return torch.stack(copies)[kind, torch.arange(len(x))]

    def confused(self, x: Tensor, generator: Generator) -> Tensor:
        """Return copies with one token confused with another, `(n, length)`."""
        can = self.chances.sum(1)[x] > 0  # (n, length)
        found = can.any(1)
        x = x.clone()
        place = torch.multinomial(can[found].float(), 1, generator=generator)
        token = x[found].gather(1, place)
        other = torch.multinomial(self.chances[token.squeeze(1)], 1, generator=generator)
        x[found] = x[found].scatter(1, place, self.others[token, other])
        return x


def forms(words: dict[int, str]) -> dict[int, set[int]]:
    """Return the tokens of other words with the same stem, for each token."""
    by_stem: dict[str, list[int]] = defaultdict(list)
    for token, word in words.items():
        for end in range(max(STEM, len(word) - ENDING), len(word) + 1):
            by_stem[word[:end]].append(token)
    alike: dict[int, set[int]] = defaultdict(set)
    for tokens in by_stem.values():
        for token in tokens:
            alike[token] |= set(tokens) - {token}
    return alike


def replaced(x: Tensor, generator: Generator) -> Tensor:
    """Return copies with one token replaced by one of the batch: about as frequent ones."""
    tokens = x[x != PAD]
    other = tokens[torch.randint(len(tokens), (len(x), 1), generator=generator)]
    return x.scatter(1, _places(x, generator).unsqueeze(1), other)


def swapped(x: Tensor, generator: Generator) -> Tensor:
    """Return copies with two neighbouring tokens swapped; of one token, as they are."""
    length = string_lengths(x)
    first = _below((length - 1).clamp_min(1), generator)
    second = (first + 1).minimum(length - 1)
    pair = torch.stack([first, second], 1)
    return x.scatter(1, pair.flip(1), x.gather(1, pair))


def shortened(x: Tensor, generator: Generator) -> Tensor:
    """Return copies without one of the tokens; of one token, as they are."""
    short = closed(x, _places(x, generator))
    return torch.where((string_lengths(x) > 1).unsqueeze(1), short, x)


def moved(x: Tensor, generator: Generator) -> Tensor:
    """Return copies with one token moved elsewhere."""
    place = _places(x, generator)
    token = x.gather(1, place.unsqueeze(1))
    goal = _places(x, generator).unsqueeze(1)
    return opened(closed(x, place), goal.squeeze(1)).scatter(1, goal, token)


def _places(x: Tensor, generator: Generator) -> Tensor:
    return _below(string_lengths(x), generator)


def _below(count: Tensor, generator: Generator) -> Tensor:
    """Return a uniform place below each `count: (n,)`, `(n,)`."""
    uniform = torch.rand(count.shape, generator=generator)
    return (uniform * count).long().minimum(count - 1)


def _is_plain(spelled: str) -> bool:
    return spelled.removeprefix(" ").isalpha()


FAULTS = (replaced, swapped, shortened, moved)
