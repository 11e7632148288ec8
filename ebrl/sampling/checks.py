"""Checks of a sampler's numbers, and of where its chains start."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.ranges import check_whole
from ebrl.sampling.adaptation import broadcasts
from ebrl.sampling.paths import Stage


def check_sampler_numbers(steps: int, step_size: Number, temperature: Number) -> None:
    """Raise `ValueError` for impossible numbers on the CPU; reading others would wait."""
    check_whole(0, steps=steps)
    least, largest = _extremes(step_size)
    if not 0 < least <= largest < math.inf:
        raise ValueError(f"expected a positive step_size, got {step_size}")
    least, largest = _extremes(temperature)
    if not 0 <= least <= largest < math.inf:
        raise ValueError(f"expected a finite temperature >= 0, got {temperature}")


def _extremes(number: Number) -> tuple[float, float]:
    """Return the least and the largest number of all chains; 1 for those not on the CPU."""
    if not isinstance(number, Tensor):
        return number, number
    if number.device.type != "cpu" or number.numel() == 0:
        return 1.0, 1.0
    least, largest = number.aminmax()
    return float(least), float(largest)


class StartError(ValueError):
    """Chains start where the energy is NaN or -inf, or its gradient NaN."""


def check_numbers_at_start(state: Any, energy: Energy) -> None:
    """Raise `StartError` where a chain starts at a NaN or at -inf, which no move would leave.

    On other devices than the CPU nothing is read, which would wait for the device. An energy with
    NaN weights is left to its training, whose loss is then NaN.
    """
    if state.x.device.type != "cpu":
        return
    wrong = {"energy": ~(state.energy > -math.inf)}
    if state.gradient is not None:
        wrong["gradient"] = state.gradient.isnan()
    for name, found in wrong.items():
        if found.any():
            if any(weight.isnan().any() for weight in energy.parameters()):
                return
            value = getattr(state, name)[found][0].item()
            raise StartError(
                f"expected a number for the {name} where every chain starts, got {value}: start "
                f"the chains elsewhere, or see why the {name} is {value} there"
            )


def check_number_shapes(stage: Stage, batch: tuple[int, ...]) -> None:
    """Raise `ValueError` for numbers that are neither one for all chains nor one for each.

    With fewer axes than the batch it would be unclear which chains share a number; with more
    chains than there are, chains would share their noise.
    """
    for name, number in (("step size", stage.step_size), ("temperature", stage.temperature)):
        if not isinstance(number, Tensor) or (number.numel() == 1 and number.ndim <= len(batch)):
            continue
        if number.ndim != len(batch) or not broadcasts(number.shape, batch):
            raise ValueError(
                f"expected a {name} for all chains or one for each, of shape {tuple(batch)}, got "
                f"shape {tuple(number.shape)}: an axis that shares a number has size 1"
            )
