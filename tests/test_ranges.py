"""Ranges: every number outside is refused, by its name."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ebrl.ranges import check_at_least, check_positive, check_probabilities, check_whole


@pytest.mark.parametrize(
    ("check", "inside", "outside", "message"),
    [
        (check_positive, [1e-9, 2.0], [0.0, -1.0, math.inf, math.nan], "positive x, got"),
        (lambda x: check_at_least(1, x=x), [1, 9], [0.5, math.inf, math.nan], "x >= 1, got"),
        (lambda x: check_whole(1, x=x), [1, 9], [0, -1], "x >= 1, got"),
        (lambda x: check_whole(1, x=x), [1], [2.0, math.nan], "x as a whole number, got"),
        (check_probabilities, [0.0, 1.0], [-0.1, 1.1, math.nan], "probability 0 <= x <= 1, got"),
    ],
)
def test_numbers_outside_of_a_range_are_refused_by_name(
    check: Callable[..., None], inside: list[float], outside: list[float], message: str
) -> None:
    for number in inside:
        check(x=number)
    for number in outside:
        with pytest.raises(ValueError, match=message):
            check(x=number)
