"""Small perceptrons and points for them."""

from __future__ import annotations

import torch
from problems import generator
from torch import Tensor, nn

from ebrl.networks import MLPEnergy


def network(
    activation: type[nn.Module] = nn.SiLU,
    hidden: tuple[int, ...] = (7, 5),
    members: int = 2,
    condition_dimension: int = 3,
) -> MLPEnergy:
    torch.manual_seed(0)
    return MLPEnergy(
        2, hidden, condition_dimension=condition_dimension, members=members, activation=activation
    ).double()


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)
