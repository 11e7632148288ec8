"""A limit for the gradient's norm that follows the norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningClip(nn.Module):
    """A limit of `factor` times the running mean of the clipped norms.

    Args:
        factor: At least 1.
        decay: Of the running mean, in [0, 1).

    Raises:
        ValueError: If factor or decay is outside its range.
    """

    mean: Tensor

    def __init__(self, factor: float = 3.0, decay: float = 0.99):
        super().__init__()
        if not factor >= 1 or not 0 <= decay < 1:
            raise ValueError(f"expected factor >= 1 and 0 <= decay < 1, got {factor=}, {decay=}")
        self.factor, self.decay = factor, decay
        self.register_buffer("mean", torch.tensor(0.0))

    @torch.no_grad()
    def forward(self, norm: Tensor) -> Tensor:
        """Return the limit for a gradient of this norm and update the mean."""
        mean = torch.where(self.mean > 0, self.mean.to(norm), norm)
        limit = self.factor * mean
        self.mean = torch.lerp(torch.minimum(norm, limit), mean, self.decay)
        return limit
