"""Hamiltonian kernels: momentum carries the chain along, and an acceptance test keeps it exact."""

from __future__ import annotations

import torch

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
)


class HMC:
    """Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): exact at every step size.

    `leapfrogs` leapfrog steps of length `step_size` with unit mass and momentum `N(0, T)`; so many
    gradients a step, because the state caches the first. One leapfrog step of length ε is MALA
    with η = ε²/2. Raises `ValueError` for fewer than one leapfrog step.
    """

    def __init__(self, leapfrogs: int = 10):
        if leapfrogs < 1:
            raise ValueError(f"expected at least one leapfrog step, got leapfrogs={leapfrogs}")
        self.leapfrogs = leapfrogs

    def start(self, energy: Energy, x: torch.Tensor) -> GradientState:
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
        event_axes = tuple(range(state.energy.ndim, state.x.ndim))
        length = over_event(step_size, len(event_axes))
        momentum = over_event(temperature**0.5, len(event_axes)) * noise.normal
        kinetic = momentum.square().sum(event_axes) / 2
        end = state
        for _ in range(self.leapfrogs):
            momentum = momentum - length / 2 * end.gradient
            end = gradient_state(energy, end.x + length * momentum)
            momentum = momentum - length / 2 * end.gradient
        gained = end.energy - state.energy + momentum.square().sum(event_axes) / 2 - kinetic
        lost = diverged(end.x, end.energy)
        acceptance, accepted = metropolis(-gained / temperature, lost, noise.uniform)
        return choose(accepted, end, state), Info(acceptance, lost)
