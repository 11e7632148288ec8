"""Holes of an image, filled harmonically: each pixel is the mean of its neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ebrl.vision.conjugate_gradients import conjugate_gradients

STEPS = 100  # at each resolution: enough for errors of some 1e-4


def harmonic(y: Tensor, known: Tensor) -> Tensor:
    """Return y with harmonic holes, by conjugate gradients from the same at half the resolution.

    On one resolution alone each step carries a value by one pixel, so that a large hole takes
    many (cascadic multigrid, Bornemann and Deuflhard 1996).

    Args:
        y: `(*batch, channels, height, width)`, 0 where it is not known.
        known: 1 where it is known, else 0; broadcasts to y.
    """
    planes = y.reshape(-1, 1, *y.shape[-2:])
    return _harmonic(planes, known.expand_as(y).reshape(planes.shape)).view_as(y)


def _harmonic(y: Tensor, known: Tensor) -> Tensor:
    height, width = y.shape[-2:]
    if height * width == 1 or known.all():
        return y
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    small = F.avg_pool2d(y, 2, ceil_mode=True) / share.clamp_min(1 / 4)
    small = _harmonic(torch.where(share > 0, small, 0), (share > 0).to(y))
    large = F.interpolate(small, scale_factor=2, mode="bilinear")[..., :height, :width]
    hole = 1 - known

    def normal(x: Tensor) -> Tensor:
        return hole * tension(hole * x) + known * x

    return conjugate_gradients(normal, y - hole * tension(y), y + hole * large, steps=STEPS)


def tension(x: Tensor) -> Tensor:
    """Return the gradient of `Σ (x_i - x_j)² / 2` over neighbours: minus the Laplacian."""
    pull = torch.zeros_like(x)
    for axis in (-2, -1):
        length = x.shape[axis] - 1
        difference = x.diff(dim=axis)
        pull.narrow(axis, 1, length).add_(difference)
        pull.narrow(axis, 0, length).sub_(difference)
    return pull
