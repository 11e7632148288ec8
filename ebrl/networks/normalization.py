"""Normalisation of an energy's layers, over the batch or over the features of each row.

A batch normalisation is an affine map of each feature, which folds into the linear layer after it:
in evaluation mode a normalised perceptron is a plain one. With joint statistics over (s, a) and
(s', a') a critic needs no target network (Bhatt et al. 2024, CrossQ).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Normalization = Literal["batch", "layer"]
LARGEST_RATIO, LARGEST_SHIFT = 3.0, 5.0  # r and d of batch renormalisation, as CrossQ's


class FeatureAffine(NamedTuple):
    """The map `scale h + shift` of each feature."""

    scale: Tensor  # (*members, 1, features)
    shift: Tensor  # (*members, 1, features)

    def __call__(self, h: Tensor) -> Tensor:
        return h * self.scale + self.shift

    def detached(self) -> FeatureAffine:
        """Return the same map without a graph."""
        return FeatureAffine(self.scale.detach(), self.shift.detach())


class BatchNormalization(nn.Module):
    """Batch renormalisation of rows `(*members, rows, features)` (Ioffe 2017).

    Rows are normalised by the mean and variance of the batch. After `warm_up` batches, a clipped
    ratio r and shift d correct the result towards that of the running statistics, so that
    evaluation differs little from training. Each member has its own statistics.

    Args:
        members: Size of the ensemble; 1 for rows without an axis of members.
        features: Size of the rows.
        momentum: The share of the running statistics that each batch keeps.
        warm_up: Batches before the correction begins.
        epsilon: Added to variances.
    """

    running_mean: Tensor
    running_variance: Tensor
    running_batches: Tensor

    def __init__(
        self,
        members: int,
        features: int,
        momentum: float = 0.99,
        warm_up: int = 100_000,
        epsilon: float = 1e-3,
    ):
        super().__init__()
        shape = (members, 1, features) if members > 1 else (1, features)
        self.momentum, self.warm_up, self.epsilon = momentum, warm_up, epsilon
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_variance", torch.ones(shape))
        self.register_buffer("running_batches", torch.zeros(()))

    def running(self) -> FeatureAffine:
        """Return the map of the running statistics."""
        scale = self.weight * torch.rsqrt(self.running_variance + self.epsilon)
        return FeatureAffine(scale, self.bias - self.running_mean * scale)

    def of_batch(self, h: Tensor) -> FeatureAffine:
        """Return the map of the rows' statistics, differentiable, and update the running ones.

        Statistics are in float32, since half precision is too coarse. An empty batch has none: the
        running ones are used and not updated.
        """
        if h.shape[-2] == 0:
            return self.running()
        h = h.to(self.weight.dtype)
        mean = h.mean(-2, keepdim=True)
        centred = h - mean.detach()  # they sum to 0: the variance has no gradient by the mean
        variance = torch.linalg.vecdot(centred, centred, dim=-2).unsqueeze(-2) / h.shape[-2]
        inverse = torch.rsqrt(variance + self.epsilon)
        with torch.no_grad():
            ratio, shift = self._correction(mean, inverse)
            # Not `lerp_`, which `torch.func.vmap` would run row by row.
            self.running_mean.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
            self.running_variance.mul_(self.momentum).add_(variance, alpha=1 - self.momentum)
            self.running_batches.add_(1)
        scale = self.weight * inverse * ratio
        return FeatureAffine(scale, self.bias + self.weight * shift - mean * scale)

    def forward(self, h: Tensor) -> Tensor:
        affine = self.of_batch(h) if self.training else self.running()
        return affine(h)

    def _correction(self, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Return r and d of Ioffe 2017, equation 2: 1 and 0 while warming up."""
        running_inverse = torch.rsqrt(self.running_variance + self.epsilon)
        ratio = (running_inverse / inverse).clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
        shift = ((mean - self.running_mean) * running_inverse).clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
        warm = self.running_batches >= self.warm_up
        return torch.where(warm, ratio, 1.0), torch.where(warm, shift, 0.0)


class LayerNormalization(nn.Module):
    """Normalisation of each row's features (Ba et al. 2016), with the gains of each member."""

    def __init__(self, members: int, features: int, epsilon: float = 1e-5):
        super().__init__()
        shape = (members, 1, features) if members > 1 else (1, features)
        self.features, self.epsilon = features, epsilon
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, h: Tensor) -> Tensor:
        normal = nn.functional.layer_norm(h, (self.features,), eps=self.epsilon)
        return normal * self.weight + self.bias


def normalized(
    layers: Iterable[nn.Module], features: int, normalization: Normalization | None
) -> Iterator[nn.Module]:
    """Yield the layers of a perceptron, linear ones and activations, with normalisations between.

    Rows are `(rows, features)`. "batch" normalises what enters and every activation, "layer" what
    enters each activation; any other normalisation is a `ValueError`.
    """
    check_normalization(normalization)
    if normalization == "batch":
        yield BatchNormalization(1, features)
    for layer in layers:
        features = layer.out_features if isinstance(layer, nn.Linear) else features
        linear = isinstance(layer, nn.Linear)
        if normalization == "layer" and not linear:
            yield LayerNormalization(1, features)
        yield layer
        if normalization == "batch" and not linear:
            yield BatchNormalization(1, features)


def check_normalization(normalization: Normalization | None) -> None:
    """Raise `ValueError` for what is no normalisation."""
    if normalization not in (None, "batch", "layer"):
        raise ValueError(f"expected normalization 'batch', 'layer' or None, got {normalization!r}")
