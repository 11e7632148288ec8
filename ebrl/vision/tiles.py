"""A prior of images of any size in bounded memory: a tile at a time, with a margin around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy
from ebrl.vision.memory import give_back_once
from ebrl.vision.networks import over_images

SIDE = 512  # pixels of a tile, which keep the memory bounded
OVERLAP = 64  # pixels around a tile that are read with it


class Tiled(Energy):
    """A conditional prior `p`, evaluated a tile at a time.

    The gradient at every pixel is that of p, up to influences from more than 64 pixels away. An
    image no larger than a tile has p's energy, too. The energy of a larger one is a sum over its
    tiles, each weighted by the share of the pixels read that are its own: it reveals a chain
    that diverges, but is too coarse for a Metropolis test.

    Args:
        prior: The conditional energy.
        side: Pixels a side of a tile.
        sigma: `(*leading batch,)` or a map `(*batch, 1, height, width)`; None until `given`.

    Raises:
        ValueError: For a side below 1.
    """

    event_ndim = 3

    def __init__(self, prior: Energy, side: int = SIDE, sigma: Tensor | None = None):
        super().__init__()
        if side < 1:
            raise ValueError(f"expected a tile of at least 1 pixel a side, got {side}")
        self.prior, self.side, self.sigma = prior, side, sigma
        self.takes_condition = sigma is None

    def given(self, condition: Tensor) -> Tiled:
        return Tiled(self.prior, self.side, torch.as_tensor(condition))

    def forward(self, x: Tensor) -> Tensor:
        images, sigma = self._flat(x)
        parts = [
            around.share(inside) * self.prior.given(around.of(sigma))(around.of(images))
            for around, inside, _ in tiles(x.shape[-2], x.shape[-1], self.side)
        ]
        return torch.stack(parts).sum(0).view(x.shape[:-3])

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        images, sigma = self._flat(x)
        group = together(x.shape[-2], x.shape[-1], self.side)
        value, gradient = x.new_zeros(len(images)), torch.empty_like(images)
        for around, inside, place in tiles(x.shape[-2], x.shape[-1], self.side):
            share = around.share(inside)
            for first in range(0, len(images), group):
                part = slice(first, first + group)
                energy = self.prior.given(around.of(sigma[part]))
                there, slope = energy.value_and_gradient(around.of(images[part]))
                value[part] += share * there
                place.of(gradient[part]).copy_(inside.of(slope))
        if x.device.type == "cpu":
            give_back_once(tuple(x.shape))
        return value.view(x.shape[:-3]), gradient.view(x.shape)

    def _flat(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return images `(n, channels, h, w)` and the noise of their pixels, `(n, 1, h, w)`."""
        if self.sigma is None:
            raise TypeError("this energy is conditional: call energy.given(sigma) first")
        sigma = over_images(self.sigma.to(x), x).expand(*x.shape[:-3], 1, *x.shape[-2:])
        return x.reshape(-1, *x.shape[-3:]), sigma.reshape(-1, *sigma.shape[-3:])


class Window(NamedTuple):
    """A rectangle of an image."""

    rows: slice
    columns: slice

    def of(self, image: Tensor) -> Tensor:
        """Return the rectangle of an image `(…, height, width)`."""
        return image[..., self.rows, self.columns]

    def share(self, inside: Window) -> float:
        """Return the share of this rectangle that another one within it covers."""
        pairs = zip(inside, self, strict=True)
        rows, columns = ((a.stop - a.start) / (b.stop - b.start) for a, b in pairs)
        return rows * columns


def together(height: int, width: int, side: int) -> int:
    """Return how many images have the pixels of one tile, and are evaluated together."""
    return max(side**2 // (height * width), 1)


def evaluations(images: Tensor) -> int:
    """Return the evaluations of a tiled prior for one gradient at `(*batch, channels, h, w)`."""
    height, width = images.shape[-2:]
    count = images.shape[:-3].numel()
    return len(list(tiles(height, width, SIDE))) * -(-count // together(height, width, SIDE))


def tiles(height: int, width: int, side: int) -> Iterator[tuple[Window, Window, Window]]:
    """Yield, for each tile, the window that is read, its part that is kept, and where that goes."""
    for rows in _spans(height, side):
        for columns in _spans(width, side):
            around, inside, place = zip(rows, columns, strict=True)
            yield Window(*around), Window(*inside), Window(*place)


def _spans(length: int, side: int) -> Iterator[tuple[slice, slice, slice]]:
    for first in range(0, length, side):
        last = min(first + side, length)
        # U-Nets halve images: a tile must start on their coarsest grid.
        low = max(first - OVERLAP, 0) // OVERLAP * OVERLAP
        high = min(last + OVERLAP, length)
        yield slice(low, high), slice(first - low, last - low), slice(first, last)
