"""Noise levels: standard deviations of the Gaussian noise that data are blurred by."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ebrl.energies import Number


def as_levels(sigma: Number) -> Tensor:
    """Return noise levels, `()` or `(levels,)`; `ValueError` unless all are finite and positive."""
    sigma = torch.as_tensor(sigma, dtype=torch.get_default_dtype())
    if sigma.ndim > 1 or sigma.numel() == 0 or not ((sigma > 0) & sigma.isfinite()).all():
        raise ValueError(f"expected sigma > 0, a number or (levels,), got {sigma.tolist()}")
    return sigma


def with_level(condition: Tensor, sigma: Tensor) -> Tensor:
    """Return conditions `(batch, features)` with the level as their last feature."""
    if condition.ndim != 2:
        raise ValueError(
            "expected a condition of shape (batch, features), to which the noise level is added, "
            f"got shape {tuple(condition.shape)}"
        )
    return torch.cat([condition, sigma.unsqueeze(-1)], -1)


def draw_levels(sigma: Tensor, x: Tensor, generator: Generator) -> Tensor:
    """Return one level for each x, `(batch,)`, drawn uniformly from `sigma`."""
    sigma = sigma.to(x)
    if sigma.ndim == 0:
        return sigma.expand(len(x))
    return sigma[torch.randint(len(sigma), (len(x),), generator=generator, device=x.device)]
