"""Watch a training for divergence: losses, gradients and energy gaps."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class DivergedError(RuntimeError):
    """A training that can only get worse; the message has the cure."""


class Alarm(NamedTuple):
    """What `watch` remembers of a training: the size of its energy gap, smoothed."""

    level: float = 0.0
    quietest: float = math.inf
    updates: int = 0


def watch(
    alarm: Alarm,
    loss: Tensor,
    gap: Tensor | None = None,
    *,
    factor: float = 100.0,
    floor: float = 1.0,
) -> Alarm:
    """Take in a step's loss and energy gap, 0-dim, and return the alarm for the next.

    Raises `DivergedError` when either is not finite, or when the gap's size, a moving average over
    some 20 calls, is above `factor` times the lowest that it has been, `floor` (in the energy's
    units) at least. It waits for the device: call it where numbers are logged anyway.
    """
    expect_finite_number("loss", loss)
    if gap is None:
        return alarm._replace(updates=alarm.updates + 1)
    expect_finite_number("energy gap", gap)
    updates = alarm.updates + 1
    weight = max(0.05, 1 / updates)
    level = alarm.level + weight * (abs(float(gap)) - alarm.level)
    quietest = min(alarm.quietest, level)
    if level > factor * max(quietest, floor):
        raise DivergedError(
            f"the energy gap is {level:.3g} on average, and was {quietest:.3g}: the energy runs "
            f"away from its samples; {_CURE}"
        )
    return Alarm(level, quietest, updates)


def expect_finite_number(name: str, number: Tensor) -> None:
    """Raise `DivergedError` for a number, 0-dim, that is not finite."""
    if not number.isfinite():
        raise DivergedError(f"the {name} is {number.item()}; {_CURE}")


_CURE = (
    "go back to the last good checkpoint and, in this order: sample with an adaptive MALA in place "
    "of unadjusted Langevin or take more and smaller steps, lower the learning rate, clip the "
    "gradient, add a penalty on the energy's square"
)
