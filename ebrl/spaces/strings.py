"""Strings: sequences of categories, of different lengths.

A string is a row of integers, its categories and then padding up to the longest length:
`[5, 3, 4, 0, 0]` has length 3. Kernels move such rows as they are, and find the energy +inf at rows
that are no string of the space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.generators import device_of
from ebrl.spaces.space import RejectingEnergy, Space

PADDING = 0


class Strings(Space):
    """Strings of `shortest` to `longest` categories, `(*batch, longest)` int64.

    The categories are the integers from `first` to `end - 1`; 0 is the padding. The reference
    distribution is uniform over lengths, and over the strings of each length.
    """

    coordinates = "integer"

    def __init__(self, longest: int, end: int, *, first: int = 1, shortest: int = 1):
        if not (0 <= shortest <= longest and longest >= 1 and 1 <= first < end):
            raise ValueError(
                f"expected 0 <= shortest <= longest and 1 <= first < end, got {shortest=}, "
                f"{longest=}, {first=}, {end=}"
            )
        self.longest, self.shortest, self.first, self.end = longest, shortest, first, end

    def free(self, energy: Energy, temperature: Number, step_size: Number) -> Energy:
        if energy.event_ndim != 1:
            raise ValueError(
                f"strings are rows of integers: expected an energy with event_ndim=1, got "
                f"event_ndim={energy.event_ndim}"
            )
        return RejectingEnergy(self, energy, temperature, step_size)

    def contains(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.longest:
            raise ValueError(
                f"expected x of shape (*batch, {self.longest}), got {tuple(x.shape)}: fill it with "
                f"{PADDING}"
            )
        length = string_lengths(x)
        inside = torch.arange(self.longest, device=x.device) < length.unsqueeze(-1)
        known = (x >= self.first) & (x < self.end)
        return (inside == known).all(-1) & (length >= self.shortest)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        device = device_of(generator)
        length = torch.randint(
            self.shortest, self.longest + 1, (*batch, 1), generator=generator, device=device
        )
        drawn = torch.randint(
            self.first, self.end, (*batch, self.longest), generator=generator, device=device
        )
        inside = torch.arange(self.longest, device=device) < length
        return torch.where(inside, drawn, PADDING)

    def reference_log_density(self, x: Tensor) -> Tensor:
        lengths = self.longest - self.shortest + 1
        uniform = -math.log(lengths) - string_lengths(x) * math.log(self.end - self.first)
        return torch.where(self.contains(x), uniform, -math.inf)

    def states(self) -> Tensor:
        """Return every string, `(states, longest)`, short ones first; at most 2^22 of them."""
        size = self.end - self.first
        counts = [size**length for length in range(self.shortest, self.longest + 1)]
        if sum(counts) > 2**22:
            raise ValueError(f"expected at most 2^22 strings to enumerate, got {sum(counts)}")
        return torch.cat([self._of_length(n) for n in range(self.shortest, self.longest + 1)])

    def index(self, x: Tensor) -> Tensor:
        """Return which of `states()` each x is, `(*batch,)`."""
        size, length = self.end - self.first, string_lengths(x)
        powers = size ** torch.arange(self.longest + 1, device=x.device)
        before = powers.cumsum(0) - powers  # strings shorter than each length
        place = torch.arange(self.longest, device=x.device)
        weight = powers[(length.unsqueeze(-1) - 1 - place).clamp_min(0)]
        digits = torch.where(place < length.unsqueeze(-1), (x - self.first) * weight, 0)
        return digits.sum(-1) + before[length] - before[self.shortest]

    def _of_length(self, length: int) -> Tensor:
        size = self.end - self.first
        powers = size ** torch.arange(length - 1, -1, -1)
        digits = torch.arange(size**length).unsqueeze(-1) // powers % size + self.first
        padding = digits.new_full((len(digits), self.longest - length), PADDING)
        return torch.cat([digits, padding], -1)


def string_lengths(x: Tensor) -> Tensor:
    """Return the number of categories before the padding of `x: (*batch, longest)`."""
    return (x != PADDING).sum(-1)
