"""Descent: the kernel that minimises. It ignores the temperature."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.protocol import Info, Kernel, gradient_state, unadjusted


class DescentState(NamedTuple):
    """The position of a batch of searches, and their velocity."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    gradient: Tensor  # (*batch, *event)
    velocity: Tensor  # (*batch, *event)


class GradientDescent(Kernel[DescentState, None]):
    """`v' = momentum v - η ∇E(x)`, `x' = x + v'` (Polyak 1964): it minimises, it does not sample.

    Moves to an infinite or undefined energy are undone, and the velocity there becomes 0.
    """

    coordinates = "real"

    def __init__(self, momentum: float = 0.0):
        if not 0 <= momentum < 1:
            raise ValueError(f"expected 0 <= momentum < 1, got {momentum}")
        self.momentum = momentum

    def start(self, energy: Energy, x: Tensor) -> DescentState:
        return DescentState(*gradient_state(energy, x), torch.zeros_like(x))

    def draw(self, state: DescentState, generator: torch.Generator) -> None:
        return None

    def step(
        self,
        energy: Energy,
        state: DescentState,
        noise: None,
        step_size: Number,
        temperature: Number,
    ) -> tuple[DescentState, Info]:
        eta = over_event(step_size, state.x.ndim - state.energy.ndim)
        velocity = self.momentum * state.velocity - eta * state.gradient
        proposed = DescentState(*gradient_state(energy, state.x + velocity), velocity)
        return unadjusted(proposed, state._replace(velocity=torch.zeros_like(velocity)))
