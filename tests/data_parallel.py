"""Trainings that one process and several must end alike; run as a program it is one of several."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ebrl import networks, objectives
from ebrl.objectives import Objective
from ebrl.spaces import Box
from ebrl.training import Training, fit, two_moons

SPACE = Box(-3 * torch.ones(2), 3 * torch.ones(2))
NOISE = objectives.NormalNoise(torch.zeros(2), 1.5 * torch.ones(2))
OBJECTIVES = {
    "contrastive": lambda: objectives.persistent(SPACE, 256, 2),
    "denoising": lambda: objectives.DenoisingScoreMatching(0.3),
    "contrast": lambda: objectives.NCE(NOISE, 4),  # has a parameter of its own
}


def moons() -> Tensor:
    x = two_moons(1_000).tensors[0]
    return (x - x.mean(0)) / x.std(0)


def train(name: str, folder: Path | None, steps: int, shares: int | None = None) -> Training:
    """Train from the newest checkpoint, if there is one, to so many steps."""
    torch.manual_seed(0)
    energy = networks.MLPEnergy(2, (32, 32))
    objective: Objective = OBJECTIVES[name]()
    return fit(
        energy, moons(), objective, steps=steps, generator=torch.Generator().manual_seed(1),
        batch_size=128, ema_decay=0.9, clip=10.0, shares=shares,
        folder=folder, resume=folder is not None, checkpoint_every=25,
    )  # fmt: skip


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for task in OBJECTIVES:
        train(task, Path(sys.argv[1]) / task, int(sys.argv[2]))
    dist.destroy_process_group()
