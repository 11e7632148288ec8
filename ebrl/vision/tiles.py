"""A prior of images of any size in bounded memory: a tile at a time, with what surrounds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy

OVERLAP = 64  # pixels around a tile that its own are computed from


class Tiled(Energy):
    """A conditional prior `p` a tile at a time: the gradient of every pixel is that of p, up to
    what is further away than 64 pixels.

    Sigma is `()` or a map `(1, height, width)`. An image no larger than a tile has p's energy too.
    That of a larger one is a sum over its tiles, each counting by the share of what was read that
    is its own: it shows a chain that diverges, and is too coarse for a Metropolis test.
    Raises `ValueError` for a side below 1.
    """

    event_ndim = 3

    def __init__(self, prior: Energy, side: int = 512, sigma: Tensor | None = None):
        super().__init__()
        if side < 1:
            raise ValueError(f"expected a tile of at least 1 pixel a side, got {side}")
        self.prior, self.side, self.sigma = prior, side, sigma

    @property
    def takes_condition(self) -> bool:
        return self.sigma is None

    def given(self, condition: Tensor) -> Tiled:
        return Tiled(self.prior, self.side, condition)

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            around.share(inside) * self._around(around)(around.of(x))
            for around, inside, _ in tiles(x.shape[-2], x.shape[-1], self.side)
        ]
        return torch.stack(parts).sum(0)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        images = x.reshape(-1, *x.shape[-3:])
        # As many at a time as have the pixels of one tile.
        group = max(self.side**2 // (x.shape[-2] * x.shape[-1]), 1)
        value, gradient = x.new_zeros(len(images)), torch.empty_like(images)
        for around, inside, place in tiles(x.shape[-2], x.shape[-1], self.side):
            energy, share = self._around(around), around.share(inside)
            for first in range(0, len(images), group):
                part = slice(first, first + group)
                there, slope = energy.value_and_gradient(around.of(images[part]))
                value[part] += share * there
                place.of(gradient[part]).copy_(inside.of(slope))
        return value.view(x.shape[:-3]), gradient.view(x.shape)

    def _around(self, window: Window) -> Energy:
        if self.sigma is None:
            raise TypeError("this energy is conditional: call energy.given(sigma) first")
        return self.prior.given(window.of(self.sigma) if self.sigma.ndim else self.sigma)


class Window(NamedTuple):
    """A rectangle of an image."""

    rows: slice
    columns: slice

    def of(self, image: Tensor) -> Tensor:
        return image[..., self.rows, self.columns]

    def share(self, inside: Window) -> float:
        """Return how much of this rectangle another one within it covers."""
        pairs = zip(inside, self, strict=True)
        rows, columns = ((a.stop - a.start) / (b.stop - b.start) for a, b in pairs)
        return rows * columns


def tiles(height: int, width: int, side: int) -> Iterator[tuple[Window, Window, Window]]:
    """Yield, for each tile, what is read, which part of that is kept, and where it goes."""
    for rows in _spans(height, side):
        for columns in _spans(width, side):
            around, inside, place = zip(rows, columns, strict=True)
            yield Window(*around), Window(*inside), Window(*place)


def _spans(length: int, side: int) -> Iterator[tuple[slice, slice, slice]]:
    for first in range(0, length, side):
        last = min(first + side, length)
        # Networks fold and halve images: a tile must start where their grid does.
        low = max(first - OVERLAP, 0) // OVERLAP * OVERLAP
        high = min(last + OVERLAP, length)
        yield slice(low, high), slice(first - low, last - low), slice(first, last)
