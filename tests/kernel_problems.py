"""Kernels of categories, and a proposal in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebrl import Gaussian
from ebrl.kernels import (
    DMALA,
    DULA,
    Gibbs,
    GibbsWithGradients,
)

ON_CATEGORIES = (DMALA, DULA, Gibbs, GibbsWithGradients)


class NormalProposal(NamedTuple):
    """`N(0, deviation²)` in each dimension."""

    deviation: float
    dimension: int = 1

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.deviation * torch.randn(*batch, self.dimension, generator=generator)

    def log_density(self, x: Tensor) -> Tensor:
        return -Gaussian(0.0, self.deviation, self.dimension)(x)
