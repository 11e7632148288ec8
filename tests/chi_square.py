"""Pearson's test of counts."""

from __future__ import annotations

from torch import Tensor


def pearson(counts: Tensor, probabilities: Tensor) -> bool:
    """Whether χ² of the cells expected at least 5 times is within 4 standard deviations."""
    expected = counts.sum() * probabilities
    likely = expected >= 5
    statistic = ((counts - expected)[likely].square() / expected[likely]).sum()
    freedom = max(int(likely.sum()) - 1, 1)
    spread = 2 / (9 * freedom)  # the cube root is nearly normal (Wilson and Hilferty 1931)
    return bool((statistic / freedom) ** (1 / 3) < 1 - spread + 4 * spread**0.5)
