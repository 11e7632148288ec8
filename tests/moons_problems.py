"""Energies and objectives of two moons, and whether two states are equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebrl import Energy, networks, objectives
from ebrl.objectives import ContrastiveDivergence, Loss
from ebrl.spaces import Box
from ebrl.training import (
    two_moons,
)

SPACE = Box(-3 * torch.ones(2), 3 * torch.ones(2))


def moons(n: int = 2_000) -> Tensor:
    x = two_moons(n).tensors[0]
    return (x - x.mean(0)) / x.std(0)


def energy(seed: int = 0, *hidden: int) -> networks.MLPEnergy:
    torch.manual_seed(seed)
    return networks.MLPEnergy(2, hidden or (16, 16))


def pcd(chains: int = 512, moves: int = 1) -> ContrastiveDivergence:
    return objectives.persistent(SPACE, chains, moves)


def learned_generator() -> objectives.LearnedGenerator:
    torch.manual_seed(1)
    return objectives.LearnedGenerator(nn.Linear(2, 2), 2)


class Dropping(Energy):
    """A network whose dropout draws from torch's own stream."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Dropout(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(-1)


def same(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor)
        return torch.equal(one, other)
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        assert isinstance(other, list | tuple)
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


class Scripted:
    """An objective that is no module: `scale · mean E(x)`, with a given scale at each call."""

    def __init__(self, scales: list[float]):
        self.scales = scales

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        loss = self.scales.pop(0) * energy(x).mean()
        return Loss(loss, {})
