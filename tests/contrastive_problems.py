"""Exact draws, and the sampler of contrastive objectives."""

from __future__ import annotations

from typing import Any

import torch
from problems import generator
from torch import Tensor

from ebrl import Sampler
from ebrl.kernels import MALA

PRECISION = 2.0


def sampler(steps: int = 20, step_size: float = 0.2, **options: Any) -> Sampler:
    return Sampler(MALA(), steps=steps, step_size=step_size, **options)


def exact(n: int, dimension: int, seed: int, precision: float = PRECISION) -> Tensor:
    return torch.randn(n, dimension, generator=generator(seed)) / precision**0.5
