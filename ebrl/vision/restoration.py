"""Restoration by composition: `prior.given(level) + observation`, the level going to 0.

    observation = Blurred(y, kernel, deviation=7.65 / 255)
    image = restore(observation, vision.pretrained("gray"))
    mean, deviation, samples, _ = posterior(observation, prior, generator=generator)
    mean, deviation, samples = denoise_samples("photo.jpg", generator=generator)

At a level above 0 the prior is that of *blurred* images: only along a path to 0 is the noise of the
measurement counted once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebrl import schedules
from ebrl.energies import Energy
from ebrl.sampling import Sampler
from ebrl.sampling.sampler import Stage
from ebrl.vision.denoising import denoised
from ebrl.vision.images import picture
from ebrl.vision.noise import noise_levels
from ebrl.vision.observations import Observation
from ebrl.vision.shipped import prior_of
from ebrl.vision.tiles import Tiled

FIRST, LAST = 49 / 255, 2 / 255  # levels that the shipped energies know


class Posterior(NamedTuple):
    """Images that the measurement leaves possible."""

    mean: Tensor  # (*batch, channels, height, width)
    deviation: Tensor  # of each pixel, likewise
    samples: Tensor  # (samples, *batch, channels, height, width)
    acceptance: Tensor  # (), of the corrector; NaN where there was none


class DenoisedSamples(NamedTuple):
    """Images that a noisy one leaves possible."""

    mean: Any  # an image of the type, size and range of the noisy one
    deviation: Any  # of each pixel in the noisy one's units: floats, a tensor of one, else an array
    samples: tuple[Any, ...]  # images like the mean


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
        levels = _falling(observation, 24)
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
    start: Tensor | None = None,
    corrector: Sampler | None = None,
    corrector_step: float = 0.3,
) -> Posterior:
    """Sample the posterior by walking back from noise to none, along falling levels.

    What denoising leaves open at a level, a Gaussian of its mean error, times the measurement is
    drawn exactly: the proximal step of both, each with noise of its own (Papandreou and Yuille
    2010). For many independent Gaussian pixels that is the posterior. A corrector, the core's
    sampler, then moves the samples by `prior.given(last level) + observation`, at a step size of
    `corrector_step` times the variance `1 / (1/level² + 1/s²)` of its stiffest directions: with a
    Metropolis test it takes away what bias is left, where its steps reach.

    `start`, which noise of the first level is added to, is the image restored in few turns unless
    given. Raises `ValueError` for fewer than two samples.
    """
    if samples < 2:
        raise ValueError(f"expected at least two samples, got {samples}")
    levels = schedules.geometric(FIRST, LAST, 24) if levels is None else levels
    if start is None:
        start = restore(observation, prior, levels=_falling(observation, 12))
    measured, s = observation.y.expand(samples, *observation.y.shape), observation.deviation

    def possible(clean: Tensor, error: Tensor) -> Tensor:
        y = measured + s * _noise(measured, generator)
        return observation.proximal(clean + error * _noise(clean, generator), error, y)

    first = start.expand(samples, *start.shape)
    levels = levels.to(start)
    x = _walk(prior, first + levels[0] * _noise(first, generator), levels, possible, generator)
    acceptance = x.new_tensor(torch.nan)
    if corrector is not None:
        step_size = corrector_step / (1 / float(levels[-1]) ** 2 + 1 / s**2)
        stage = Stage(prior.given(levels[-1]) + observation, corrector.steps, step_size)
        corrected = corrector.anneal([stage], x, generator=generator)
        x, acceptance = corrected.x, corrected.info.acceptance.mean()
    return Posterior(x.mean(0), x.std(0), x, acceptance)


def denoise_samples(
    image: Any,
    sigma: float | None = None,
    *,
    samples: int = 8,
    generator: torch.Generator,
    tile: int = 512,
    prior: Energy | None = None,
) -> DenoisedSamples:
    """Return images without noise that are all possible, their mean and how far they differ.

    The noisy image is one of the prior's at the level of its noise: the walk back to no noise
    begins there. Arguments and errors are those of `denoise`, but sigma is one number; raises
    `ValueError` for fewer than two samples too.
    """
    if samples < 2 or tile < 1:
        raise ValueError(f"expected samples >= 2 and tile >= 1, got {samples=}, {tile=}")
    pixels, white, back = picture(image)
    if np.ndim(sigma):
        raise ValueError("expected one sigma for the whole image to sample, got a map")
    level = noise_levels(pixels, sigma, white).mean()
    tiled = Tiled(prior or prior_of(pixels), tile)
    first = max(float(level), 1e-4)
    levels = schedules.geometric(first, LAST, 16) if first > LAST else torch.tensor([first])

    def possible(clean: Tensor, error: Tensor) -> Tensor:
        return clean + error * _noise(clean, generator)

    noisy = pixels.expand(samples, *pixels.shape)
    x = _walk(tiled, noisy, levels.to(pixels), possible, generator)
    deviation: Any = white * x.std(0)
    if not isinstance(image, Tensor):
        deviation = np.moveaxis(deviation.numpy(), 0, -1)
        deviation = deviation[..., 0] if deviation.shape[-1] == 1 else deviation
    return DenoisedSamples(back(x.mean(0)), deviation, tuple(map(back, x)))


def _walk(
    prior: Energy,
    x: Tensor,
    levels: Tensor,
    possible: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Return x, `(samples, *batch, channels, height, width)`, carried from the first level to none.

    `possible` draws clean images, given the denoised ones and the root mean square of their error,
    `(1, *batch, 1, 1, 1)`: `E|x - x₀|² = σ²` a pixel is the sum of that error and of what denoising
    took away (Bao et al. 2022, theorem 1). Given x and a clean image, x at the next level is
    Gaussian (Ho et al. 2020, equation 7).
    """
    for level, following in pairwise([*levels, levels.new_zeros(())]):
        clean = denoised(prior, x, level)
        taken = (x - clean).square().mean((0, -3, -2, -1), keepdim=True)
        error = (level**2 - taken).clamp_min(1e-4 * level**2).sqrt()
        kept = (following / level) ** 2
        spread = following * (1 - kept).sqrt()
        x = kept * x + (1 - kept) * possible(clean, error) + spread * _noise(x, generator)
    return x


def _falling(observation: Observation, rungs: int) -> Tensor:
    """Return levels from the first to the measurement's noise, as far as these are known."""
    return schedules.geometric(FIRST, max(LAST, min(observation.deviation, FIRST / 2)), rungs)


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
