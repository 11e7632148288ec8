"""Paths: energies that chains are led along, one stage after another.

stages = noise_path(prior, schedules.geometric(1.0, 0.01, 10), steps=20, step_size=1e-5)
samples = sampler.anneal(stages, n=64, generator=generator)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number


class Stage(NamedTuple):
    """One stage of a path: an energy of x alone, and how chains move on it."""

    energy: Energy
    steps: int
    step_size: Number
    temperature: Number = 1.0


def temperature_path(
    energy: Energy, temperatures: Sequence[float] | Tensor, *, steps: int, step_size: Number
) -> list[Stage]:
    """Return one stage at each temperature: simulated annealing (Kirkpatrick et al. 1983)."""
    ladder = torch.as_tensor(temperatures).tolist()
    return [Stage(energy, steps, step_size, temperature) for temperature in ladder]


def noise_path(
    energy: Energy, levels: Tensor, *, steps: int, step_size: float, temperature: Number = 1.0
) -> list[Stage]:
    """Return one stage at each noise level: annealed Langevin dynamics (Song and Ermon 2019).

    `energy.given(level)` is the energy of x blurred by Gaussian noise of deviation `level`.
    `levels` is `(levels,)`, or `(levels, 1)` for energies whose condition has one feature.
    `step_size` is that of the last level, and proportional to the level squared.
    """
    if not len(levels) or not ((levels > 0) & levels.isfinite()).all():
        raise ValueError(f"expected positive and finite noise levels, got {levels.tolist()}")
    last = float(levels[-1])
    return [
        Stage(energy.given(level), steps, step_size * (float(level) / last) ** 2, temperature)
        for level in levels
    ]
