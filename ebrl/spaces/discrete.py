"""Categories and binary numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebrl.energies import Energy, Number
from ebrl.generators import device_of
from ebrl.ranges import check_at_least
from ebrl.spaces.space import Space


class Categorical(Space):
    """`sites` choices among `categories`, one-hot: `(*batch, sites, categories)` of 0 and 1.

    Kernels for one-hot categories move x as it is.
    """

    coordinates = "one-hot"

    def __init__(self, sites: int, categories: int):
        check_at_least(1, sites=sites)
        check_at_least(2, categories=categories)
        self.sites, self.categories = sites, categories

    def free(self, energy: Energy, temperature: Number, step_size: Number) -> Energy:
        if energy.event_ndim != 2:
            raise ValueError(
                "categories are one-hot (sites, categories): expected an energy with event_ndim=2, "
                f"got event_ndim={energy.event_ndim}; Flattened(energy, 2) reads them as vectors"
            )
        return energy

    def contains(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.sites, self.categories):
            raise ValueError(
                f"expected x of shape (*batch, {self.sites}, {self.categories}), "
                f"got {tuple(x.shape)}"
            )
        one_each = ((x == 0) | (x == 1)).all(-1) & (x.sum(-1) == 1)
        return one_each.all(-1)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        drawn = torch.randint(
            self.categories, (*batch, self.sites), generator=generator, device=device_of(generator)
        )
        return nn.functional.one_hot(drawn, self.categories).to(torch.get_default_dtype())

    def reference_log_density(self, x: Tensor) -> Tensor:
        uniform = -self.sites * math.log(self.categories)
        return torch.where(self.contains(x), uniform, -math.inf).to(x.dtype)

    def states(self) -> Tensor:
        """Return every x, `(categories ** sites, sites, categories)`, at most 2^22 of them."""
        if (count := self.categories**self.sites) > 2**22:
            raise ValueError(
                f"expected at most 2^22 states to enumerate, got {self.categories}^{self.sites}"
            )
        labels = torch.arange(count, device="cpu").unsqueeze(-1) // self._places("cpu")
        labels %= self.categories
        return nn.functional.one_hot(labels, self.categories).to(torch.get_default_dtype())

    def index(self, x: Tensor) -> Tensor:
        """Return which of `states()` each x is, `(*batch,)`."""
        return (x.argmax(-1) * self._places(x.device)).sum(-1)

    def _places(self, device: torch.device | str) -> Tensor:
        return self.categories ** torch.arange(self.sites - 1, -1, -1, device=device)


class Binary(Space):
    """`{0, 1}^shape` as floating-point numbers; `shape` is that of one x.

    Its free coordinates are one-hot pairs `(1 - x, x)` of the flattened sites, `(sites, 2)`:
    kernels for categories serve binary x, too.
    """

    coordinates = "one-hot"

    def __init__(self, *shape: int):
        if not shape or min(shape) < 1:
            raise ValueError(f"expected the shape of one x, such as Binary(16), got {shape}")
        self.shape = shape
        self.pairs = Categorical(math.prod(shape), 2)

    def free(self, energy: Energy, temperature: Number, step_size: Number) -> Energy:
        if energy.event_ndim != len(self.shape):
            raise ValueError(
                f"Binary{self.shape} holds events of {len(self.shape)} axes: expected an energy "
                f"with event_ndim={len(self.shape)}, got event_ndim={energy.event_ndim}"
            )
        return PairEnergy(self, energy)

    def to_free(self, x: Tensor) -> Tensor:
        x = x.flatten(-len(self.shape))
        return torch.stack([1 - x, x], -1)

    def from_free(self, free: Tensor) -> Tensor:
        return free[..., 1].unflatten(-1, self.shape)

    def contains(self, x: Tensor) -> Tensor:
        return self.pairs.contains(self.to_free(x))

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.from_free(self.pairs.reference(batch, generator))

    def reference_log_density(self, x: Tensor) -> Tensor:
        return self.pairs.reference_log_density(self.to_free(x))

    def states(self) -> Tensor:
        """Return every x, `(2 ** sites, *shape)`, at most 2^22 of them."""
        return self.from_free(self.pairs.states())

    def index(self, x: Tensor) -> Tensor:
        """Return which of `states()` each x is, `(*batch,)`."""
        return self.pairs.index(self.to_free(x))


class PairEnergy(Energy):
    """The energy of binary x as a function of its one-hot pairs `(1 - x, x)`."""

    event_ndim = 2

    def __init__(self, space: Binary, energy: Energy):
        super().__init__()
        self.space, self.energy, self.couples_chains = space, energy, energy.couples_chains

    def forward(self, free: Tensor) -> Tensor:
        return self.energy(self.space.from_free(free))

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(self.space.from_free(free))
        gradient = gradient.flatten(-len(self.space.shape))
        return value, torch.stack([torch.zeros_like(gradient), gradient], -1)
