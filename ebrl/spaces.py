"""Where x may be, and how a move is kept there.

A kernel moves in free coordinates `u ∈ R^d` and knows no walls. A space maps them to its own,
`x = from_free(u)`, and says which energy of `u` has `exp(-E(x)/T)` as its law on the space:

- `reject`  x = u. Outside, the energy is +inf, and no kernel moves to an infinite energy.
- `reflect` x = u folded at the walls. The energy is continued evenly and periodically, so that
            the folded chain is the reflected one. It leaves no mass on the walls.
- `tanh`    x = middle + half · tanh u, with the energy `E(x) - T Σ log |dx/du|`: the temperature,
            which divides the whole, must not divide the Jacobian.
- `project` x = u clamped. A spring of stiffness 1/step_size pulls u back, so that one gradient
            step starts from the projection. For descent it finds minima on the walls; for
            sampling it is biased: it leaves mass on the walls (22 % in a test of a truncated
            Gaussian).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ebrl.constants import Constant
from ebrl.energies import Energy, Number, align_left

Walls = Literal["reject", "reflect", "tanh", "project"]


class Space:
    """Where x may be; kernels see only its free coordinates, here x itself."""

    integers: bool = False  # whether x are integers, which no gradient moves

    def free(self, energy: Energy, temperature: Number, step_size: Number) -> Energy:
        """Return the energy of the free coordinates."""
        return energy

    def to_free(self, x: Tensor) -> Tensor:
        """Return the free coordinates of x."""
        return x

    def from_free(self, free: Tensor) -> Tensor:
        """Return the x of free coordinates."""
        return free

    def log_slope(self, free: Tensor) -> Tensor | float:
        """Return `log |dx/du|` of `from_free`, `(*batch,)`: what densities of x lack in u."""
        return 0.0

    def contains(self, x: Tensor) -> Tensor:
        """Return whether each x lies in the space, `(*batch,)` bool."""
        raise NotImplementedError

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw starting points `(*batch, *event)`: uniform where bounded, normal where not."""
        raise NotImplementedError

    def reference_log_density(self, x: Tensor) -> Tensor:
        """Return the normalised log density of the starting points at x, `(*batch,)`."""
        raise NotImplementedError


class Unbounded(Space):
    """All of R^shape. `shape` is needed only to draw starting points."""

    def __init__(self, *shape: int):
        self.shape = shape

    def contains(self, x: Tensor) -> Tensor:
        return x.isfinite().flatten(-max(len(self.shape), 1)).all(-1)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if not self.shape:
            raise ValueError(
                "to draw starting points the space must know its event shape: "
                "Unbounded(2), or pass x to sample"
            )
        return torch.randn(*batch, *self.shape, generator=generator, device=generator.device)

    def reference_log_density(self, x: Tensor) -> Tensor:
        event_axes = tuple(range(-max(len(self.shape), 1), 0))
        return -(0.5 * x.square() + 0.5 * math.log(2 * math.pi)).sum(event_axes)


class Box(Space):
    """Vectors with `low <= x <= high`; bounds are numbers or `(dimension,)` tensors.

    `walls` says what happens at them (see the module). Raises `ValueError` for bounds that are
    not finite or not in order, and for unknown walls.
    """

    def __init__(self, low: Number, high: Number, walls: Walls = "reject"):
        low, high = torch.as_tensor(low), torch.as_tensor(high)
        dtype = torch.promote_types(torch.promote_types(low.dtype, high.dtype), torch.float32)
        self.low, self.high = torch.broadcast_tensors(low.to(dtype), high.to(dtype))
        self._bounds = Constant(torch.stack([self.low, self.high]))
        self._halves = Constant(torch.stack([self.low + self.high, self.high - self.low]) / 2)
        if not (self.low.isfinite().all() and self.high.isfinite().all()):
            raise ValueError(f"expected finite bounds, got low={low}, high={high}: use Unbounded")
        if not (self.low < self.high).all():
            raise ValueError(f"expected low < high in every dimension, got low={low}, high={high}")
        if walls not in _FREE_ENERGIES:
            raise ValueError(f"expected walls to be one of {list(_FREE_ENERGIES)}, got {walls!r}")
        self.walls = walls

    def free(self, energy: Energy, temperature: Number, step_size: Number) -> Energy:
        if energy.event_ndim != 1:
            raise ValueError(
                "a box holds vectors: expected an energy with event_ndim=1, "
                f"got event_ndim={energy.event_ndim}"
            )
        return _FREE_ENERGIES[self.walls](self, energy, temperature, step_size)

    def to_free(self, x: Tensor) -> Tensor:
        if self.walls != "tanh":
            return x
        middle, half = self._halves.to(x)
        edge = 1 - 2 * torch.finfo(x.dtype).eps  # atanh is infinite on the walls
        return torch.atanh(((x - middle) / half).clamp(-edge, edge))

    def from_free(self, free: Tensor) -> Tensor:
        if self.walls == "reject":
            return free
        if self.walls == "tanh":
            middle, half = self._halves.to(free)
            free = torch.addcmul(middle, half, torch.tanh(free))
        elif self.walls == "reflect":
            free = self._fold(free)[0]
        # Where nothing is projected this only takes back what rounding put past a wall.
        return free.clamp(*self._bounds.to(free))

    def contains(self, x: Tensor) -> Tensor:
        low, high = self._bounds.to(x)
        return ((x >= low) & (x <= high)).all(-1)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        low, high = torch.atleast_1d(*self._bounds.on(generator.device))
        uniform = torch.rand(
            *batch, *low.shape, generator=generator, device=generator.device, dtype=low.dtype
        )
        return low + (high - low) * uniform

    def reference_log_density(self, x: Tensor) -> Tensor:
        log_width = (2 * self._halves.to(x)[1]).log().expand(x.shape[-1:])
        return torch.where(self.contains(x), -log_width.sum(), -math.inf)

    def log_slope(self, free: Tensor) -> Tensor | float:
        if self.walls != "tanh":
            return 0.0
        _, half = self._halves.to(free)
        return (log_tanh_slope(free) + half.log()).sum(-1)

    def _fold(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Return the folded point and the sign of `dx/du` there."""
        low, high = self._bounds.to(free)
        width = high - low
        along = torch.remainder(free - low, 2 * width)
        falling = along > width
        x = low + torch.where(falling, 2 * width - along, along)
        return x, torch.where(falling, -1.0, 1.0).to(free.dtype)


class FreeEnergy(Energy):
    """The energy of a box's free coordinates; `at(u, value)` gives back `E(x)` from its value."""

    def __init__(self, box: Box, energy: Energy, temperature: Number, step_size: Number):
        super().__init__()
        self.box, self.energy, self.coupled_axis = box, energy, energy.coupled_axis
        self.temperature, self.step_size = temperature, step_size

    def forward(self, free: Tensor) -> Tensor:
        return self.energy(self.box.from_free(free)) + self.added(free)

    def added(self, free: Tensor) -> Tensor | float:
        """Return what the walls add to the energy, `(*batch,)`."""
        return 0.0


class RejectingEnergy(FreeEnergy):
    """+inf outside the box."""

    def forward(self, free: Tensor) -> Tensor:
        return self._walled(free, self.energy(free))

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(free)
        return self._walled(free, value), gradient

    def _walled(self, free: Tensor, value: Tensor) -> Tensor:
        return torch.where(self.box.contains(free), value, math.inf)


class ReflectedEnergy(FreeEnergy):
    """`E(fold u)`."""

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        x, sign = self.box._fold(free)
        value, gradient = self.energy.value_and_gradient(x)
        return value, sign * gradient


class SquashedEnergy(FreeEnergy):
    """`E(x(u)) - T Σ log |dx/du|` with `x = middle + half tanh u`."""

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        middle, half = self.box._halves.to(free)
        squashed = torch.tanh(free)
        value, gradient = self.energy.value_and_gradient(torch.addcmul(middle, half, squashed))
        slope = half * (1 - squashed.square())
        temperature = align_left(self.temperature, free.ndim)
        return value + self.added(free), gradient * slope + 2 * temperature * squashed

    def added(self, free: Tensor) -> Tensor | float:
        return -align_left(self.temperature, free.ndim - 1) * self.box.log_slope(free)


class ProjectedEnergy(FreeEnergy):
    """`E(clamp u) + |u - clamp u|² / (2 step_size)`.

    Outside, the gradient returned is not that of the clamped energy (which is 0) but
    `∇E(clamp u) + spring`: a step of step_size along it lands where a step from `clamp u` does.
    """

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.box.from_free(free)
        value, gradient = self.energy.value_and_gradient(projected)
        spring = (free - projected) / align_left(self.step_size, free.ndim)
        return value + self.added(free), gradient + spring

    def added(self, free: Tensor) -> Tensor:
        outside = (free - self.box.from_free(free)).square().sum(-1)
        return outside / (2 * align_left(self.step_size, outside.ndim))


def log_tanh_slope(free: Tensor) -> Tensor:
    """Return `log(1 - tanh² u)` elementwise, without the cancellation near the walls."""
    return 2 * (math.log(2) - free - torch.nn.functional.softplus(-2 * free))


_FREE_ENERGIES: dict[str, type[FreeEnergy]] = {
    "reject": RejectingEnergy,
    "reflect": ReflectedEnergy,
    "tanh": SquashedEnergy,
    "project": ProjectedEnergy,
}


class Categorical(Space):
    """`sites` choices among `categories`, one-hot: `(*batch, sites, categories)` of 0 and 1.

    Kernels for one-hot categories move x as it is. Raises `ValueError` for fewer than one site or
    two categories.
    """

    def __init__(self, sites: int, categories: int):
        if sites < 1 or categories < 2:
            raise ValueError(
                f"expected at least 1 site and 2 categories, got {sites=}, {categories=}"
            )
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
            self.categories, (*batch, self.sites), generator=generator, device=generator.device
        )
        return nn.functional.one_hot(drawn, self.categories).to(torch.get_default_dtype())

    def reference_log_density(self, x: Tensor) -> Tensor:
        uniform = -self.sites * math.log(self.categories)
        return torch.where(self.contains(x), uniform, -math.inf).to(x.dtype)

    def states(self) -> Tensor:
        """Return every x, `(categories ** sites, sites, categories)`, in the order of `index`.

        Raises `ValueError` for more than 2^22 of them.
        """
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
    """`{0, 1}^shape` as floating-point numbers.

    Its free coordinates are one-hot pairs `(1 - x, x)` of the flattened sites, `(sites, 2)`, so
    that kernels know one discrete world. `shape` is that of one x. Raises `ValueError` without a
    shape or for an empty one.
    """

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
        """Return every x, `(2 ** sites, *shape)`, in the order of `index`; see `Categorical`."""
        return self.from_free(self.pairs.states())

    def index(self, x: Tensor) -> Tensor:
        """Return which of `states()` each x is, `(*batch,)`."""
        return self.pairs.index(self.to_free(x))


class PairEnergy(Energy):
    """The energy of binary x, read on its one-hot pairs: `E(x)` at `(1 - x, x)`."""

    event_ndim = 2

    def __init__(self, space: Binary, energy: Energy):
        super().__init__()
        self.space, self.energy, self.coupled_axis = space, energy, energy.coupled_axis

    def forward(self, free: Tensor) -> Tensor:
        return self.energy(self.space.from_free(free))

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(self.space.from_free(free))
        gradient = gradient.flatten(-len(self.space.shape))
        return value, torch.stack([torch.zeros_like(gradient), gradient], -1)
