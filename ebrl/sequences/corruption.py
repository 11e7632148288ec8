"""Broken copies of sentences, from which an energy learns what is sound."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ebrl.kernels.edits import closed, opened
from ebrl.sequences.tokens import PAD
from ebrl.spaces import string_lengths


def corrupted(x: Tensor, generator: Generator) -> Tensor:
    """Return copies of `x: (n, length)` with one to three faults each.

    A fault is one of: a token replaced by one of another sentence, two neighbours swapped, a token
    left out, a token moved elsewhere. In a short sentence faults may undo each other, and a token
    may be replaced by the same token or moved back to where it was: some copies are unchanged.
    """
    faults = [replaced, swapped, shortened, moved]
    device = generator.device
    count = torch.randint(1, 4, (len(x), 1), generator=generator, device=device)
    for i in range(3):
        kind = torch.randint(len(faults), (len(x),), generator=generator, device=device)
        copies = torch.stack([fault(x, generator) for fault in faults])  # (faults, n, length)
        faulty = copies[kind, torch.arange(len(x), device=device)]
        x = torch.where(i < count, faulty, x)
    return x


def replaced(x: Tensor, generator: Generator) -> Tensor:
    """Return copies with one token replaced by a random token of the batch.

    Frequent tokens are drawn more often.
    """
    tokens = x[x != PAD]
    shape, device = (len(x), 1), generator.device
    other = tokens[torch.randint(len(tokens), shape, generator=generator, device=device)]
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
    uniform = torch.rand(count.shape, generator=generator, device=generator.device)
    return (uniform * count).long().minimum(count - 1)
