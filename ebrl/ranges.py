"""Checks of the numbers that users pass: each raises a `ValueError` that names the number."""

from __future__ import annotations

import math
from numbers import Integral


def check_positive(**numbers: float) -> None:
    """Raise `ValueError` unless every number is finite and above 0."""
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"expected a positive {name}, got {number}")


def check_at_least(least: float, **numbers: float) -> None:
    """Raise `ValueError` unless every number is finite and not below `least`."""
    for name, number in numbers.items():
        if not least <= number < math.inf:
            raise ValueError(f"expected {name} >= {least}, got {number}")


def check_whole(least: int, **numbers: int) -> None:
    """Raise `ValueError` unless every number is whole and not below `least`."""
    for name, number in numbers.items():
        if not isinstance(number, Integral):
            raise ValueError(f"expected {name} as a whole number, got {number}")
    check_at_least(least, **numbers)


def check_probabilities(**numbers: float) -> None:
    """Raise `ValueError` unless every number is a probability."""
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise ValueError(f"expected a probability 0 <= {name} <= 1, got {number}")
