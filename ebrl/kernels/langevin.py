"""Langevin kernels: a step down the gradient and Gaussian noise at the step's temperature.

    x' = x - η P ∇E(x) + √(2 η T P) ξ,    ξ ~ N(0, 1)

η is `step_size`, T `temperature` and P `preconditioner`, a positive diagonal of the event's shape:
1 by default, and best close to the variances of the coordinates. At temperature 0 both kernels
descend; MALA then accepts a move if the energy falls by more than `η |∇E(x) + ∇E(x')|² / 4`, as it
does near a minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.constants import Constant
from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.checks import as_positive_diagonal, check_event_shape, check_uncoupled
from ebrl.kernels.draws import normal_like
from ebrl.kernels.protocol import (
    GradientState,
    Info,
    Kernel,
    MetropolisNoise,
    gradient_state,
    metropolis,
    metropolis_noise,
    unadjusted,
)


def _scales(
    preconditioner: Constant | None, state: GradientState, step_size: Number, temperature: Number
) -> tuple[Number, Number]:
    """Return `η P` and `√(2 η T P)`."""
    event_ndim = state.x.ndim - state.energy.ndim
    drift = over_event(step_size, event_ndim)
    spread = over_event((2 * step_size * temperature) ** 0.5, event_ndim)
    if preconditioner is None:
        return drift, spread
    diagonal = preconditioner.to(state.x)
    return drift * diagonal, spread * diagonal.sqrt()


def _added(x: Tensor, scale: Number, y: Tensor) -> Tensor:
    """Return `x + scale y`."""
    if isinstance(scale, Tensor):
        return torch.addcmul(x, y, scale.to(y))
    return torch.add(x, y, alpha=scale)


class ULA(Kernel[GradientState, Tensor]):
    """Unadjusted Langevin (Roberts and Tweedie 1996): biased by O(η), without an acceptance test.

    On `E = x²/2s²` at temperature 1 its variance is `s² / (1 - η/2s²)`. Moves to an infinite or
    undefined energy are undone.
    """

    coordinates = "real"

    def __init__(self, preconditioner: Tensor | None = None):
        self.preconditioner = as_positive_diagonal("preconditioner", preconditioner)

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        check_event_shape("preconditioner", self.preconditioner, energy, x)
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> Tensor:
        return normal_like(state.x, generator)

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: Tensor,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        drift, spread = _scales(self.preconditioner, state, step_size, temperature)
        x = _added(_added(state.x, -drift, state.gradient), spread, noise)
        return unadjusted(gradient_state(energy, x), state)


class MALA(Kernel[GradientState, MetropolisNoise]):
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996): exact at every step size.

    A step costs one energy and gradient. An energy that couples chains is a `ValueError`.
    """

    coordinates = "real"
    best_acceptance = 0.574  # in many dimensions: Roberts and Rosenthal 1998

    def __init__(self, preconditioner: Tensor | None = None):
        self.preconditioner = as_positive_diagonal("preconditioner", preconditioner)

    def preconditioned(self, variance: Tensor) -> Kernel:
        return MALA(variance)

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        check_uncoupled(energy)
        check_event_shape("preconditioner", self.preconditioner, energy, x)
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> MetropolisNoise:
        return metropolis_noise(state, generator)

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: MetropolisNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        drift, spread = _scales(self.preconditioner, state, step_size, temperature)
        x = _added(_added(state.x, -drift, state.gradient), spread, noise.normal)
        proposed = gradient_state(energy, x)
        # T log q(x|x') / q(x'|x) = (g + g')·(√(2ηTP) ξ / 2 - ηP (g + g') / 4), without any
        # cancellation. Dividing the whole by T keeps infinities of opposite sign apart at T = 0.
        both = state.gradient + proposed.gradient
        resistance = both * _added(both * (drift / 2), -spread, noise.normal)
        resistance = resistance.sum(tuple(range(state.energy.ndim, x.ndim)))
        fallen = torch.sub(state.energy - proposed.energy, resistance, alpha=0.5)
        return metropolis(proposed, state, fallen / temperature, noise.uniform)
