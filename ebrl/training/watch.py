"""Watch a training for divergence: losses, gradients, weights and energy gaps."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from ebrl.objectives.contrastive import contrastive_parts
from ebrl.objectives.protocol import Objective
from ebrl.spaces import Box

MANY_DIMENSIONS = 8  # dimensions beyond which walls that reject moves may be the cause
LARGEST_GROWTH = 100.0  # of the gap, averaged over some 20 calls, from its lowest or from 1
LOW_ACCEPTANCE = 0.2  # acceptance below which the chains may be the cause


class DivergedError(RuntimeError):
    """A training that has diverged; the message says what to change."""


class NonFiniteError(DivergedError):
    """A loss, a gradient or a weight that is NaN or infinite."""


class Alarm(NamedTuple):
    """The state of `watch`: the size of a training's energy gap, as a moving average."""

    level: float = 0.0
    lowest: float = math.inf
    updates: int = 0


def watch(alarm: Alarm, loss: Tensor, gap: Tensor | None = None) -> Alarm:
    """Check a step's loss and energy gap, and return the alarm for the next step.

    It waits for the device.

    Args:
        alarm: What the last step returned; `Alarm()` for the first.
        loss: 0-dim.
        gap: Energy gap between samples and data, 0-dim, in units of the energy, if there is one.

    Raises:
        NonFiniteError: If the loss or the gap is not finite.
        DivergedError: If the gap has grown too far.
    """
    check_finite_numbers(loss=loss)
    updates = alarm.updates + 1
    if gap is None:
        return alarm._replace(updates=updates)
    check_finite_numbers(energy_gap=gap)
    weight = max(0.05, 1 / updates)
    level = alarm.level + weight * (abs(float(gap)) - alarm.level)
    lowest = min(alarm.lowest, level)
    if level > LARGEST_GROWTH * max(lowest, 1.0):
        raise DivergedError(
            f"the energy gap is {level:.3g} on average, and was {lowest:.3g}: the energy runs away "
            "from its samples"
        )
    return Alarm(level, lowest, updates)


def check_finite_numbers(**numbers: Tensor) -> None:
    """Raise `NonFiniteError` unless each number, 0-dim, is finite."""
    for name, number in numbers.items():
        if not number.isfinite():
            raise NonFiniteError(f"the {name.replace('_', ' ')} is {number.item()}")


def check_finite_weights(module: nn.Module) -> None:
    """Raise `NonFiniteError` if a parameter is not finite or a buffer holds NaN."""
    lost = [name for name, weight in module.named_parameters() if not weight.isfinite().all()]
    lost += [name for name, buffer in module.named_buffers() if buffer.isnan().any()]
    if lost:
        raise NonFiniteError(f"the weights diverged: {lost[0]} holds NaN or infinity")


def advice(objective: Objective, metrics: dict[str, Tensor]) -> str:
    """Return what to change after a divergence, judging by the objective's sampler and metrics."""
    part = next(contrastive_parts(objective), None)
    changes = ["lower the learning rate", "clip the gradient"]
    if part is not None:
        changes.append("add an energy_penalty")
        sampler, space = part.sampler, part.sampler.space
        if (
            isinstance(space, Box)
            and space.walls == "reject"
            and space.low.numel() > MANY_DIMENSIONS
        ):
            changes.insert(
                0,
                "use walls='tanh', as persistent_around(data) does: in many dimensions "
                "walls='reject' leave the chains tiny steps",
            )
        elif sampler.adaptation is None:
            changes.insert(0, "let the step size adapt, as objectives.persistent does")
        elif float(metrics.get("acceptance", 1.0)) < LOW_ACCEPTANCE:
            changes.insert(
                0, f"take more moves: only {float(metrics['acceptance']):.0%} of them are accepted"
            )
    return "go back to the last good checkpoint and, in this order: " + ", ".join(changes)
