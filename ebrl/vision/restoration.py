"""Restoration by composition: `prior.given(level) + observation`, the level going to 0.

    observation = Blurred(y, kernel, deviation=7.65 / 255)
    image = restore(observation, vision.pretrained("gray"))
    mean, deviation, samples = posterior(observation, prior, generator=generator)

At a level above 0 the prior is that of *blurred* images: only along a path to 0 is the noise of the
measurement counted once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebrl import schedules
from ebrl.energies import Energy
from ebrl.kernels import ULA
from ebrl.sampler import Sampler, Stage
from ebrl.vision.denoising import denoised
from ebrl.vision.observations import Observation

FIRST, LAST = 49 / 255, 2 / 255  # levels that the shipped energies know


class Posterior(NamedTuple):
    """Images that the measurement leaves possible."""

    mean: Tensor  # (*batch, channels, height, width)
    deviation: Tensor  # of each pixel, likewise
    samples: Tensor  # (samples, *batch, channels, height, width)


def restore(
    observation: Observation,
    prior: Energy,
    *,
    levels: Tensor | None = None,
    coupling: float = 0.23,
    start: Tensor | None = None,
) -> Tensor:
    """Return the image by half-quadratic splitting (Zhang et al. 2021, algorithm 1).

    The denoised image and the measurement's proximal step take turns, one turn a level. At level σ
    the proximal step may move the image by `σ / √coupling`: the larger the coupling, the more the
    prior counts. Levels fall from 49/255 to 2/255, or to the noise of the measurement where that is
    more. Raises `ValueError` for a coupling that is not positive.
    """
    if not coupling > 0:
        raise ValueError(f"expected coupling > 0, got {coupling}")
    if levels is None:
        levels = schedules.geometric(FIRST, max(LAST, min(observation.deviation, FIRST / 2)), 24)
    x = observation.start() if start is None else start
    for level in levels.to(x):
        x = observation.proximal(x, float(level) / coupling**0.5)
        x = denoised(prior, x, level)
    return x


def posterior(
    observation: Observation,
    prior: Energy,
    *,
    generator: torch.Generator,
    samples: int = 8,
    levels: Tensor | None = None,
    steps: int = 10,
    step_size: float = 0.3,
    start: Tensor | None = None,
) -> Posterior:
    """Sample the posterior by Langevin moves along falling levels, by the core's sampler.

    A stage's step size is `step_size` times the variance that prior and measurement leave together,
    `1 / (1/σ² + 1/s²)`: Langevin moves are biased by as much of it, and stop at the last level, of
    which the samples keep the noise. Raises `ValueError` for fewer than two samples.
    """
    if samples < 2:
        raise ValueError(f"expected at least two samples, got {samples}")
    if levels is None:
        levels = schedules.geometric(FIRST, LAST, 16)
    first = observation.start() if start is None else start
    noise = torch.randn(
        samples, *first.shape, generator=generator, dtype=first.dtype, device=first.device
    )
    stages = [
        Stage(
            prior.given(level) + observation,
            steps,
            step_size / (1 / float(level) ** 2 + 1 / observation.deviation**2),
        )
        for level in levels.to(first)
    ]
    x = Sampler(ULA(), steps=1).anneal(stages, first + levels[0] * noise, generator=generator).x
    return Posterior(x.mean(0), x.std(0), x)
