"""Ladders of noise levels and temperatures, and schedules of a learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebrl.ranges import check_at_least, check_positive


def geometric(first: float, last: float, rungs: int) -> Tensor:
    """Return `(rungs,)` positive numbers from first to last with a constant ratio."""
    return karras(first, last, rungs, rho=math.inf)


def karras(first: float, last: float, rungs: int, rho: float = 7.0) -> Tensor:
    """Return `(rungs,)` numbers evenly spaced in their 1/rho-th power (Karras et al. 2022, eq. 5).

    Both ends are positive. A larger rho has more rungs at the low end; 1 is linear, inf geometric.
    """
    check_positive(first=first, last=last)
    check_at_least(2, rungs=rungs)
    if not rho > 0:
        raise ValueError(f"expected a positive rho, got {rho}")
    if rho == math.inf:
        ladder = torch.linspace(math.log(first), math.log(last), rungs, dtype=torch.float64).exp()
    else:
        roots = torch.linspace(first ** (1 / rho), last ** (1 / rho), rungs, dtype=torch.float64)
        ladder = roots**rho
    ladder[0], ladder[-1] = first, last  # exactly, not up to rounding
    return ladder.to(torch.get_default_dtype())


def constant(progress: float) -> float:
    """Return the factor 1 of a constant learning rate, at each fraction of a training."""
    return 1.0


def cosine(progress: float) -> float:
    """Return a factor that rises over the first hundredth and falls to 0 as half a cosine."""
    return min(100 * progress, 1.0) * 0.5 * (1 + math.cos(math.pi * progress))


def trapezoid(progress: float) -> float:
    """Return a factor that rises over the first 2 %, stays at 1, and falls linearly from 2/3 on.

    The start does not depend on the end, so that a training can be made longer.
    """
    return min(50 * progress, 1.0, 3 * (1 - progress))
