"""Step kernels by hand, and energies that show how a kernel uses them."""

from __future__ import annotations

from typing import Any

import torch
from problems import generator
from torch import Tensor

from ebrl import Energy, FunctionEnergy
from ebrl.energies import Number
from ebrl.kernels import Kernel


def run(
    kernel: Kernel,
    energy: Energy,
    x: Tensor,
    steps: int,
    step_size: Number = 0.1,
    temperature: Number = 1.0,
    seed: int = 1,
) -> tuple[Any, Tensor, Tensor]:
    """Return the last state, the mean acceptance and the count of divergences of each chain."""
    state, stream = kernel.start(energy, x), generator(seed)
    acceptance = torch.zeros_like(state.energy)
    lost = torch.zeros_like(state.energy)
    for _ in range(steps):
        noise = kernel.draw(state, stream)
        state, info = kernel.step(energy, state, noise, step_size, temperature)
        acceptance += info.acceptance / steps
        lost += info.diverged
    return state, acceptance, lost


IMAGE = FunctionEnergy(lambda x: x.pow(4).sum((-3, -2, -1)), event_ndim=3)


class Counting(Energy):
    """Counts evaluations, with and without the gradient."""

    def __init__(self, energy: Energy):
        super().__init__()
        self.energy, self.event_ndim = energy, energy.event_ndim
        self.values, self.gradients = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.values += 1
        return self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.gradients += 1
        return self.energy.value_and_gradient(x)
