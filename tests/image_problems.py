"""Images at random, and a prior in closed form."""

from __future__ import annotations

import torch
from problems import generator
from torch import Tensor

from ebrl.energies import Energy, FunctionEnergy

MEAN, DEVIATION, NOISE = 0.4, 0.2, 0.1  # of the prior's pixels, and of what is measured


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


class GaussianImages(Energy):
    """Pixels of N(mean, deviation²); blurred, of variance deviation² + σ²."""

    event_ndim = 3
    takes_condition = True

    def given(self, condition: Tensor) -> Energy:
        # A number, or of each pixel.
        variance = DEVIATION**2 + condition.square()
        return FunctionEnergy(lambda x: ((x - MEAN).square() / (2 * variance)).sum((-3, -2, -1)), 3)
