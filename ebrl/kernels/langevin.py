"""Langevin kernels: a step down the gradient and Gaussian noise at the step's temperature.

    x' = x - η P ∇E(x) + √(2 η T P) ξ,    ξ ~ N(0, 1)

η is `step_size`, T `temperature` and P `preconditioner`, a diagonal of positive numbers of the
event's shape, best the variances of the coordinates; without one it is 1. At temperature 0 both
kernels descend, MALA where its test lets it: the energy must fall by more than
`η |∇E(x) + ∇E(x')|² / 4`, as it does near a minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.protocol import (
    GradientState,
    Info,
    Kernel,
    MetropolisNoise,
    as_positive_diagonal,
    check_event_shape,
    check_uncoupled,
    gradient_state,
    metropolis,
    metropolis_noise,
    normal_like,
    unadjusted,
)


def langevin_proposal(
    state: GradientState,
    normal: Tensor,
    step_size: Number,
    temperature: Number,
    preconditioner: Tensor | None = None,
) -> Tensor:
    """Return `x - η P g + √(2 η T P) ξ`."""
    event_ndim = normal.ndim - state.energy.ndim
    drift, spread = _scales(step_size, temperature, preconditioner, event_ndim)
    if isinstance(drift, Tensor) or isinstance(spread, Tensor):
        return state.x - drift * state.gradient + spread * normal
    return torch.add(state.x, state.gradient, alpha=-drift).add_(normal, alpha=spread)


def _scales(
    step_size: Number, temperature: Number, preconditioner: Tensor | None, event_ndim: int
) -> tuple[Number, Number]:
    """Return `η P` and `√(2 η T P)`."""
    drift = over_event(step_size, event_ndim)
    spread = over_event((2 * step_size * temperature) ** 0.5, event_ndim)
    if preconditioner is not None:
        drift, spread = drift * preconditioner, spread * preconditioner.sqrt()
    return drift, spread


class ULA(Kernel[GradientState, Tensor]):
    """Unadjusted Langevin (Roberts and Tweedie 1996): biased by O(η), never rejects.

    On `E = x²/2s²` at temperature 1 its variance is `s² / (1 - η/2s²)`. Moves to an infinite energy
    (a wall) or to none are undone, so that the chain stays where a density exists. Raises
    `ValueError` for a preconditioner that is not positive or not of the event's shape.
    """

    def __init__(self, preconditioner: Tensor | None = None):
        self.preconditioner = as_positive_diagonal("preconditioner", preconditioner)

    def preconditioned(self, variance: Tensor) -> Kernel:
        return ULA(variance)

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
        scale = None if self.preconditioner is None else self.preconditioner.to(state.x)
        x = langevin_proposal(state, noise, step_size, temperature, scale)
        return unadjusted(gradient_state(energy, x), state)


class MALA(Kernel[GradientState, MetropolisNoise]):
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996): exact at every step size.

    One energy and gradient a step. The best acceptance in many dimensions is .574 (Roberts and
    Rosenthal 1998). Raises `ValueError` for a preconditioner that is not positive or not of the
    event's shape, and for an energy that couples chains.
    """

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
        scale = None if self.preconditioner is None else self.preconditioner.to(state.x)
        x = langevin_proposal(state, noise.normal, step_size, temperature, scale)
        proposal = gradient_state(energy, x)
        event_axes = tuple(range(state.energy.ndim, x.ndim))
        drift = over_event(step_size, len(event_axes))
        # log q(x'|x) = -|ξ|²/2 and log q(x|x') = -|x - x' + ηPg'|²_{1/P} / 4ηT, up to the same
        # constant.
        # The temperature divides their sum, so that at 0 infinities of opposite sign never meet.
        forward = noise.normal.square().sum(event_axes) / 2
        if scale is None:
            backward = (state.x - x + drift * proposal.gradient).square().sum(event_axes)
        else:
            back = (state.x - x) / scale + drift * proposal.gradient
            backward = (scale * back.square()).sum(event_axes)
        fallen = state.energy - proposal.energy - backward / (4 * step_size)
        return metropolis(proposal, state, fallen / temperature + forward, noise.uniform)
