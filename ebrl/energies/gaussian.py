"""Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebrl.energies.energy import Number
from ebrl.energies.target import Target, in_one_dtype, standard_normal


class Gaussian(Target):
    """`|x - mean|² / 2s²` with independent coordinates and s the deviation.

    `mean` and the positive `deviation` are numbers or `(dimension,)`.
    """

    mean: Tensor  # (dimension,)
    deviation: Tensor  # (dimension,)

    def __init__(self, mean: Number, deviation: Number, dimension: int):
        super().__init__()
        mean, deviation = in_one_dtype(mean, deviation)
        if not (deviation > 0).all():
            raise ValueError(f"expected a positive deviation, got {deviation}")
        self.register_buffer("mean", mean.expand(dimension).clone())
        self.register_buffer("deviation", deviation.expand(dimension).clone())
        self.log_normalizer = float(
            0.5 * dimension * math.log(2 * math.pi) + self.deviation.log().sum()
        )

    @property
    def variance(self) -> Tensor:
        return self.deviation.square()

    @property
    def entropy(self) -> float:
        """The differential entropy in nats."""
        return self.log_normalizer + len(self.mean) / 2

    def tempered(self, temperature: float) -> Gaussian:
        return Gaussian(self.mean, temperature**0.5 * self.deviation, len(self.mean))

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        standard = (x - self.mean) / self.deviation
        return 0.5 * standard.square().sum(-1) + self.log_normalizer, standard / self.deviation

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        noise = standard_normal((*batch, len(self.mean)), generator, self.mean.dtype)
        return self.mean + self.deviation * noise


class CorrelatedGaussian(Target):
    """`(x - mean)ᵀ covariance⁻¹ (x - mean) / 2`; `Gaussian` is faster where nothing correlates.

    `mean` is `(dimension,)`, and `covariance` `(dimension, dimension)`. Raises `ValueError` for a
    covariance that is not symmetric and positive definite or does not fit the mean.
    """

    mean: Tensor  # (dimension,)
    covariance: Tensor  # (dimension, dimension)
    factor: Tensor  # (dimension, dimension), lower Cholesky factor of the covariance
    precision: Tensor  # (dimension, dimension)

    def __init__(self, mean: Tensor, covariance: Tensor):
        super().__init__()
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                "expected a mean (dimension,) and a covariance (dimension, dimension), got "
                f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
            )
        mean, covariance = in_one_dtype(mean, covariance)
        factor, failed = torch.linalg.cholesky_ex(covariance.double())
        if failed or not torch.allclose(covariance, covariance.mT):
            raise ValueError("expected a symmetric, positive definite covariance")
        self.register_buffer("mean", mean.clone())
        self.register_buffer("covariance", covariance.clone())
        self.register_buffer("factor", factor.to(covariance))
        self.register_buffer("precision", torch.cholesky_inverse(factor).to(covariance))
        log_determinant = 2 * factor.diagonal().log().sum()
        self.log_normalizer = float(len(mean) * math.log(2 * math.pi) + log_determinant) / 2

    @property
    def variance(self) -> Tensor:
        return self.covariance.diagonal()

    @property
    def entropy(self) -> float:
        """The differential entropy in nats."""
        return self.log_normalizer + len(self.mean) / 2

    def tempered(self, temperature: float) -> CorrelatedGaussian:
        return CorrelatedGaussian(self.mean, temperature * self.covariance)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        away = x - self.mean
        gradient = away @ self.precision.to(away)
        return 0.5 * (away * gradient).sum(-1) + self.log_normalizer, gradient

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        noise = standard_normal((*batch, len(self.mean)), generator, self.mean.dtype)
        return self.mean + noise @ self.factor.mT
