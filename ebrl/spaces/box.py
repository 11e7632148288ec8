"""Boxes, and the ways to keep a move inside: their walls.

A kernel moves free coordinates `u ∈ R^d` and needs to know nothing of walls:

- `reject`  x = u. Outside, the energy is +inf, and no kernel moves to an infinite energy.
- `reflect` x = u folded at the walls. The energy is continued evenly and periodically: the folded
            chain is the reflected one, and leaves no mass on the walls.
- `tanh`    x = middle + half · tanh u, with the Jacobian in the energy of u.
- `project` x = u clamped. A spring of stiffness 1/step_size pulls u back, so that a gradient step
            starts from the projection. Descent finds minima on the walls. Sampling is biased: it
            leaves mass on the walls (22 % in a test of a truncated Gaussian).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ebrl.constants import Constant
from ebrl.energies import Energy, Number, align_left
from ebrl.generators import device_of
from ebrl.spaces.space import FreeEnergy, RejectingEnergy, Space, coarser

Walls = Literal["reject", "reflect", "tanh", "project"]


class Box(Space):
    """Vectors with `low <= x <= high`; bounds are numbers or `(dimension,)`, `walls` as above."""

    def __init__(self, low: Number, high: Number, walls: Walls = "reject"):
        low, high = torch.as_tensor(low), torch.as_tensor(high)
        if min(low.dim(), high.dim()) > 0 and low.shape != high.shape:
            raise ValueError(
                "expected as many numbers in low as in high, "
                f"got shapes {tuple(low.shape)} and {tuple(high.shape)}"
            )
        dtype = torch.promote_types(torch.promote_types(low.dtype, high.dtype), torch.float32)
        self.low, self.high = torch.broadcast_tensors(
            low.to(dtype, copy=True), high.to(dtype, copy=True)
        )
        self._low, self._high = Constant(self.low), Constant(self.high)
        self._middle = Constant((self.low + self.high) / 2)
        self._half = Constant((self.high - self.low) / 2)
        if not (self.low.isfinite().all() and self.high.isfinite().all()):
            raise ValueError(f"expected finite bounds, got low={low}, high={high}: use Unbounded")
        if not (self.low < self.high).all():
            raise ValueError(f"expected low < high in every dimension, got low={low}, high={high}")
        if walls not in _FREE_ENERGIES:
            raise ValueError(f"expected walls to be one of {list(_FREE_ENERGIES)}, got {walls!r}")
        self.walls, self.wrapped = walls, walls == "reflect"

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
        edge = 1 - 2 * torch.finfo(x.dtype).eps  # atanh is infinite on the walls
        squashed = (x - self._middle.to(x)) / self._half.to(x)
        return torch.atanh(squashed.clamp(-edge, edge))

    def from_free(self, free: Tensor) -> Tensor:
        if self.walls == "reject":
            return free
        if self.walls == "tanh":
            free = self._unsquashed(torch.tanh(free))
        elif self.walls == "reflect":
            free = self._fold(free)[0]
        # Except for projection, the clamp only undoes rounding past a wall.
        return free.clamp(self._low.to(free), self._high.to(free))

    def contains(self, x: Tensor) -> Tensor:
        x = x.to(coarser(x.dtype, self.low.dtype))
        return ((x >= self._low.to(x)) & (x <= self._high.to(x))).all(-1)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        device = device_of(generator)
        low, high = (torch.atleast_1d(bound.on(device)) for bound in (self._low, self._high))
        shape = (*batch, *low.shape)
        uniform = torch.rand(shape, generator=generator, device=device, dtype=low.dtype)
        return low + (high - low) * uniform

    def reference_log_density(self, x: Tensor) -> Tensor:
        log_width = (2 * self._half.to(x)).log().expand(x.shape[-1:])
        return torch.where(self.contains(x), -log_width.sum(), -math.inf)

    def log_det_jacobian(self, free: Tensor) -> Tensor | float:
        if self.walls != "tanh":
            return 0.0
        return (log_tanh_jacobian(free) + self._half.to(free).log()).sum(-1)

    def free_variance(self, free: Tensor) -> Tensor:
        return (self._fold(free)[0] if self.walls == "reflect" else free).var(0)

    def _unsquashed(self, squashed: Tensor) -> Tensor:
        """Return x of `squashed` in [-1, 1]."""
        return torch.addcmul(self._middle.to(squashed), self._half.to(squashed), squashed)

    def _fold(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Return the folded point and the sign of `dx/du` there."""
        low, high = self._low.to(free), self._high.to(free)
        width = high - low
        along = torch.remainder(free - low, 2 * width)
        falling = along > width
        x = low + torch.where(falling, 2 * width - along, along)
        return x, torch.where(falling, -1.0, 1.0).to(free.dtype)


class ReflectedEnergy(FreeEnergy):
    """`E(fold u)`."""

    space: Box

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        x, sign = self.space._fold(free)
        value, gradient = self.energy.value_and_gradient(x)
        return value, sign * gradient


class SquashedEnergy(FreeEnergy):
    """`E(x(u)) - T Σ log |dx/du|` with `x = middle + half tanh u`."""

    space: Box

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        squashed = torch.tanh(free)
        value, gradient = self.energy.value_and_gradient(self.space._unsquashed(squashed))
        half = self.space._half.to(free)
        slope = torch.addcmul(half, half * squashed, squashed, value=-1)
        force = squashed * (2 * align_left(self.temperature, free.ndim))
        return value + self.added(free), torch.addcmul(force, gradient, slope)


class ProjectedEnergy(FreeEnergy):
    """`E(clamp u) + |u - clamp u|² / (2 step_size)`.

    Outside, the returned gradient is not that of the clamped energy, which is 0, but
    `∇E(clamp u) + spring`: a step of step_size along it ends where a step from `clamp u` does.
    """

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.space.from_free(free)
        value, gradient = self.energy.value_and_gradient(projected)
        spring = (free - projected) / align_left(self.step_size, free.ndim)
        return value + self.added(free), gradient + spring

    def added(self, free: Tensor) -> Tensor:
        outside = (free - self.space.from_free(free)).square().sum(-1)
        return outside / (2 * align_left(self.step_size, outside.ndim))


def log_tanh_jacobian(free: Tensor) -> Tensor:
    """Return `log(1 - tanh² u)` elementwise, without cancellation for large u."""
    bend = torch.nn.functional.softplus(free, beta=-2)  # -log(1 + exp(-2 u)) / 2
    return torch.add(free, bend, alpha=-2).mul_(-2).add_(math.log(4))


_FREE_ENERGIES: dict[str, type[FreeEnergy]] = {
    "reject": RejectingEnergy,
    "reflect": ReflectedEnergy,
    "tanh": SquashedEnergy,
    "project": ProjectedEnergy,
}
