"""Langevin kernels: a step down the gradient and Gaussian noise at the step's temperature.

    x' = x - η ∇E(x) + √(2 η T) ξ,    ξ ~ N(0, 1)

η is `step_size` and T `temperature`. At temperature 0 both kernels descend, MALA where its test
lets it: the energy must fall by more than `η |∇E(x) + ∇E(x')|² / 4`, as it does near a minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.protocol import (
    GradientState,
    Info,
    MetropolisNoise,
    choose,
    diverged,
    gradient_state,
    metropolis,
    metropolis_noise,
    normal_like,
)


def langevin_proposal(
    state: GradientState, normal: Tensor, step_size: Number, temperature: Number
) -> Tensor:
    """Return `x - η g + √(2 η T) ξ`."""
    event_ndim = normal.ndim - state.energy.ndim
    drift = over_event(step_size, event_ndim)
    spread = over_event((2 * step_size * temperature) ** 0.5, event_ndim)
    if isinstance(drift, Tensor) or isinstance(spread, Tensor):
        return state.x - drift * state.gradient + spread * normal
    return torch.add(state.x, state.gradient, alpha=-drift).add_(normal, alpha=spread)


class ULA:
    """Unadjusted Langevin (Roberts and Tweedie 1996): biased by O(η), never rejects.

    On `E = x²/2s²` at temperature 1 its variance is `s² / (1 - η/2s²)`. Moves to an infinite energy
    (a wall) or to none are undone, so that the chain stays where a density exists.
    """

    def start(self, energy: Energy, x: Tensor) -> GradientState:
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
        x = langevin_proposal(state, noise, step_size, temperature)
        proposal = gradient_state(energy, x)
        lost = diverged(x, proposal.energy)
        accepted = ~(lost | proposal.energy.isposinf())
        return choose(accepted, proposal, state), Info(accepted.to(x.dtype), lost)


class MALA:
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996): exact at every step size.

    One energy and gradient a step. The best acceptance in many dimensions is .574 (Roberts and
    Rosenthal 1998).
    """

    def start(self, energy: Energy, x: Tensor) -> GradientState:
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
        x = langevin_proposal(state, noise.normal, step_size, temperature)
        proposal = gradient_state(energy, x)
        event_axes = tuple(range(state.energy.ndim, x.ndim))
        drift = over_event(step_size, len(event_axes))
        # log q(x'|x) = -|ξ|²/2 and log q(x|x') = -|x - x' + η g'|² / 4ηT, up to the same constant.
        # The temperature divides their sum, so that at 0 infinities of opposite sign never meet.
        forward = noise.normal.square().sum(event_axes) / 2
        backward = (state.x - x + drift * proposal.gradient).square().sum(event_axes)
        fallen = state.energy - proposal.energy - backward / (4 * step_size)
        lost = diverged(x, proposal.energy)
        acceptance, accepted = metropolis(fallen / temperature + forward, lost, noise.uniform)
        return choose(accepted, proposal, state), Info(acceptance, lost)
