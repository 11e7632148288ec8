"""How far a histogram of draws is from exact probabilities, and how far chance alone puts it."""

from __future__ import annotations

from math import lgamma

import numpy as np
from numpy.typing import ArrayLike, NDArray


def total_variation(p: ArrayLike, q: ArrayLike) -> float:
    """Total-variation distance `½ sum |p - q|` of two arrays of probabilities, 0 to 1.

    Raises:
        ValueError: If the arrays differ in shape or are no distributions.
    """
    first, second = _distribution(p), _distribution(q)
    if first.shape != second.shape:
        raise ValueError(f"cannot compare histograms of shapes {first.shape} and {second.shape}")
    return 0.5 * float(np.abs(first - second).sum())


def total_variation_floor(probabilities: ArrayLike, n: int) -> float:
    """Expected total variation between `probabilities` and a histogram of `n` exact draws.

    A perfect sampler shows this distance: compare a measured one with it. It is exact: a cell holds
    a binomial count, whose mean absolute deviation is de Moivre's (Diaconis and Zabell 1991,
    "Closed form summation for classical distributions: variations on a theme of de Moivre"):

        E|X - np| = 2 v C(n, v) p^v (1 - p)^(n - v + 1),    v = floor(np) + 1.

    Where all `n p` are large it is `½ sum sqrt(2 p (1 - p) / (pi n))`.

    Raises:
        ValueError: If `n` < 1, and for what is no distribution.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    p = _distribution(probabilities).ravel()
    p = p[(p > 0) & (p < 1)]  # a sure or an impossible cell does not deviate
    v = np.minimum(np.floor(n * p) + 1, n)  # (cells,); the minimum undoes a rounding of n p to n
    log_choose = lgamma(n + 1) - np.array([lgamma(k + 1) + lgamma(n - k + 1) for k in v])
    log_deviation = np.log(2 * v) + log_choose + v * np.log(p) + (n - v + 1) * np.log1p(-p)
    return 0.5 * float(np.exp(log_deviation).sum()) / n


def _distribution(probabilities: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(probabilities, dtype=np.float64)
    if not (array >= 0).all() or not abs(array.sum() - 1.0) <= 1e-6:
        raise ValueError(f"probabilities must be >= 0 and sum to 1, got a sum of {array.sum()}")
    return array
