"""Vectors and categories together: x is a vector followed by the flattened categories."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebrl.spaces.box import Box
from ebrl.spaces.discrete import Binary, Categorical
from ebrl.spaces.space import Space


class Product(Space):
    """A continuous and a discrete space: `x: (*batch, dimension + discrete numbers)`.

    space = Product(Unbounded(2), Categorical(3, 4))
    energy = FunctionEnergy(lambda x: of_both(*space.split(x)))

    The kernel of its free coordinates is `ebrl.kernels.Blocks`. Raises `ValueError` for a box whose
    walls reject or project.
    """

    coordinates = "mixed"

    def __init__(self, continuous: Space, discrete: Categorical | Binary):
        if isinstance(continuous, Box) and continuous.walls in ("reject", "project"):
            raise ValueError(
                f"expected a box whose walls are 'tanh' or 'reflect', got {continuous.walls!r}"
            )
        self.continuous, self.discrete = continuous, discrete
        self.wrapped = continuous.wrapped
        pairs = discrete.pairs if isinstance(discrete, Binary) else discrete
        self.sites = (pairs.sites, pairs.categories)  # of the discrete free coordinates
        self.shape = discrete.shape if isinstance(discrete, Binary) else self.sites
        self.numbers = math.prod(self.shape)  # of discrete x

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vector `(*batch, dimension)` and the discrete x `(*batch, *its shape)`."""
        return x[..., : -self.numbers], x[..., -self.numbers :].unflatten(-1, self.shape)

    def join(self, vector: Tensor, discrete: Tensor) -> Tensor:
        """Return the x of both parts; the inverse of `split`."""
        return torch.cat([vector, discrete.flatten(-len(self.shape)).to(vector)], -1)

    def split_free(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Return the free coordinates of both: `(*batch, d)` and `(*batch, sites, categories)`."""
        numbers = self.sites[0] * self.sites[1]
        return free[..., :-numbers], free[..., -numbers:].unflatten(-1, self.sites)

    def to_free(self, x: Tensor) -> Tensor:
        vector, discrete = self.split(x)
        free = self.discrete.to_free(discrete)
        return torch.cat([self.continuous.to_free(vector), free.flatten(-2)], -1)

    def from_free(self, free: Tensor) -> Tensor:
        vector, categories = self.split_free(free)
        return self.join(self.continuous.from_free(vector), self.discrete.from_free(categories))

    def log_det_jacobian(self, free: Tensor) -> Tensor | float:
        return self.continuous.log_det_jacobian(self.split_free(free)[0])

    def free_variance(self, free: Tensor) -> Tensor:
        vector, categories = self.split_free(free)
        return torch.cat([self.continuous.free_variance(vector), categories.flatten(-2).var(0)])

    def contains(self, x: Tensor) -> Tensor:
        vector, discrete = self.split(x)
        return self.continuous.contains(vector) & self.discrete.contains(discrete)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        vector = self.continuous.reference(batch, generator)
        return self.join(vector, self.discrete.reference(batch, generator))

    def reference_log_density(self, x: Tensor) -> Tensor:
        vector, discrete = self.split(x)
        log_density = self.continuous.reference_log_density(vector)
        return log_density + self.discrete.reference_log_density(discrete)
