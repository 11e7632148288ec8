"""The Gaussian and the sampler that tests of samplers share."""

from __future__ import annotations

from ebrl import Gaussian, Sampler
from ebrl.kernels import (
    MALA,
)

GAUSSIAN = Gaussian(0.0, 1.0, 2)


def mala(steps: int = 5, **options: object) -> Sampler:
    return Sampler(MALA(), steps=steps, **{"step_size": 0.3, **options})
