"""Checks of a sampler's numbers, and of where its chains start."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.sampling.adaptation import broadcasts
from ebrl.sampling.paths import Stage


def check_sampler_numbers(steps: int, step_size: Number, temperature: Number) -> None:
    """Raise `ValueError` for impossible numbers on the CPU; reading others would wait."""
    if not isinstance(steps, Integral):
        raise ValueError(f"expected a whole number of steps, got {steps}")
    if steps < 0:
        raise ValueError(f"expected steps >= 0, got {steps}")
    if not 0 < _least(step_size) < math.inf:
        raise ValueError(f"expected a positive step_size, got {step_size}")
    if not _least(temperature) >= 0:
        raise ValueError(f"expected temperature >= 0, got {temperature}")


def _least(number: Number) -> float:
    """Return the least of the numbers of all chains; 1 for those that are not on the CPU."""
    if not isinstance(number, Tensor):
        return number
    return float(number.min()) if number.device.type == "cpu" and number.numel() else 1.0


def check_draws(draws: int, thin: int) -> None:
    """Raise `ValueError` unless both are whole numbers of at least 1."""
    if not isinstance(draws, Integral) or not isinstance(thin, Integral):
        raise ValueError(f"expected whole numbers, got {draws=}, {thin=}")
    if draws < 1 or thin < 1:
        raise ValueError(f"expected draws and thin of at least 1, got {draws=}, {thin=}")


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
