"""What a space is, the energy of its free coordinates, and R^d."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ebrl.constants import Constant
from ebrl.energies import Energy, Number, align_left
from ebrl.generators import device_of

Coordinates = Literal["real", "one-hot", "mixed", "integer"]


class Space:
    """Where x may be. Kernels move its free coordinates.

    A new space defines `to_free`, `from_free`, `log_det_jacobian` if it is not 0, `contains`, and a
    reference distribution if chains are to start from it. Samplers report the energy of x.
    """

    coordinates: Coordinates = "real"  # what its free coordinates are: they must suit the kernel
    wrapped: bool = False  # whether each x has infinitely many free coordinates

    def free(self, energy: Energy, temperature: Number, step_size: Number) -> Energy:
        """Return the energy of the free coordinates."""
        return FreeEnergy(self, energy, temperature, step_size)

    def to_free(self, x: Tensor) -> Tensor:
        """Return the free coordinates of x."""
        return x

    def from_free(self, free: Tensor) -> Tensor:
        """Return the x of free coordinates."""
        return free

    def log_det_jacobian(self, free: Tensor) -> Tensor | float:
        """Return `log |dx/du|` of `from_free`, `(*batch,)`, the factor of densities in u."""
        return 0.0

    def free_variance(self, free: Tensor) -> Tensor:
        """Return the variances of free coordinates `(n, *event)`, to precondition by, `(*event,)`.

        Where several free coordinates are one x, those nearest to each other count.
        """
        return free.var(0)

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
    """All of R^shape; the shape is needed only to draw starting points."""

    def __init__(self, *shape: int):
        self.shape = shape

    def free(self, energy: Energy, temperature: Number, step_size: Number) -> Energy:
        return energy

    def contains(self, x: Tensor) -> Tensor:
        return x.isfinite().flatten(-max(len(self.shape), 1)).all(-1)

    def reference(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if not self.shape:
            raise ValueError(
                "to draw starting points the space must know its event shape: "
                "Unbounded(2), or pass x to sample"
            )
        return torch.randn(*batch, *self.shape, generator=generator, device=device_of(generator))

    def reference_log_density(self, x: Tensor) -> Tensor:
        event_axes = tuple(range(-max(len(self.shape), 1), 0))
        return -(0.5 * x.square() + 0.5 * math.log(2 * math.pi)).sum(event_axes)


class FreeEnergy(Energy):
    """The energy of a space's free coordinates u: `E(x(u)) - T log |dx/du|`.

    The sampler divides the whole by T; the factor T keeps the Jacobian from being divided.
    """

    def __init__(self, space: Space, energy: Energy, temperature: Number, step_size: Number):
        super().__init__()
        self.space, self.energy = space, energy
        self.event_ndim, self.couples_chains = energy.event_ndim, energy.couples_chains
        self.temperature, self.step_size = temperature, step_size

    def forward(self, free: Tensor) -> Tensor:
        return self.energy(self.space.from_free(free)) + self.added(free)

    def added(self, free: Tensor) -> Tensor | float:
        """Return what the space adds to the energy of x, `(*batch,)`."""
        log_det_jacobian = self.space.log_det_jacobian(free)
        if not isinstance(log_det_jacobian, Tensor):
            return 0.0
        return -align_left(self.temperature, log_det_jacobian.ndim) * log_det_jacobian

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling():
            return self.traced_value_and_gradient(free)
        graph = torch.is_grad_enabled()  # of a run that is differentiated, and its energy, too
        with torch.enable_grad():
            free = free if graph and free.requires_grad else free.detach().requires_grad_()
            x, added = self.space.from_free(free), self.added(free)
        value, gradient = self.energy.value_and_gradient(x if graph else x.detach())
        outputs, upstream = [x], [gradient]
        if isinstance(added, Tensor):
            if added.requires_grad:  # otherwise it is constant
                outputs, upstream = [x, added], [gradient, torch.ones_like(added)]
            added = added if graph else added.detach()
        (pulled,) = torch.autograd.grad(outputs, free, upstream, create_graph=graph)
        return value + added, pulled


class RejectingEnergy(FreeEnergy):
    """+inf outside the space."""

    def forward(self, free: Tensor) -> Tensor:
        return self._walled(free, self.energy(free))

    def value_and_gradient(self, free: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(free)
        return self._walled(free, value), gradient

    def _walled(self, free: Tensor, value: Tensor) -> Tensor:
        return torch.where(self.space.contains(free), value, math.inf)


def equal(one: object, other: object) -> bool:
    """Return whether two spaces, or what they consist of, have one type and equal numbers."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, Space | Constant):
        mine, theirs = (_numbers(each) for each in (one, other))
        return mine.keys() == theirs.keys() and all(equal(mine[k], theirs[k]) for k in mine)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    return bool(one == other)


def _numbers(part: object) -> dict[str, object]:
    """Return what a space or a constant consists of, without copies on other devices."""
    return {"tensor": part.tensor} if isinstance(part, Constant) else vars(part)


def coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Return the dtype with the fewer digits: a float64 of .1 lies on a float32 bound of .1."""
    return one if torch.finfo(one).eps >= torch.finfo(other).eps else other
