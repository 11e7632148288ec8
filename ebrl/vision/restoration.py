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
from ebrl.energies import Energy, check_energy
from ebrl.sampling import Sampler
from ebrl.vision.correctors import corrected
from ebrl.vision.denoising import check_range, denoised
from ebrl.vision.images import picture
from ebrl.vision.noise import check_levels, noise_levels
from ebrl.vision.observations import Observation
from ebrl.vision.shipped import prior_of
from ebrl.vision.tiles import SIDE, Tiled

FIRST, LAST = 49 / 255, 2 / 255  # levels that the shipped energies know
LEVELS = 14  # of a restoration, with two evaluations each
PATH_LEVELS = 24  # of samples
ADDED = 0.5  # share of the missing noise's variance that a restoration adds


class Posterior(NamedTuple):
    """Samples of the posterior of an observation."""

    mean: Tensor  # (*batch, channels, height, width)
    deviation: Tensor  # of each pixel, likewise
    samples: Tensor  # (samples, *batch, channels, height, width)
    acceptance: Tensor  # (), of the corrector; NaN where there was none


class DenoisedSamples(NamedTuple):
    """Samples of the clean image, given a noisy one."""

    mean: Any  # an image of the type, size and range of the noisy one
    # Of each pixel in the noisy one's units and shape, without transparency: floats, a tensor if
    # the noisy image is one, else an array.
    deviation: Any
    samples: tuple[Any, ...]  # images like the mean


def restore(
    observation: Observation,
    prior: Energy,
    *,
    levels: Tensor | None = None,
    coupling: float = 0.23,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the image by half-quadratic splitting (Zhang et al. 2021, algorithm 1).

    Each level takes one proximal step of the measurement and one denoising step. A denoiser errs on
    images without noise, and errors in smooth regions would grow from level to level. So the
    denoised image is the mean of two, to which opposite noise was added before. Pixels that were
    measured without noise are returned as they were measured.

    Args:
        observation: What was measured.
        prior: An energy of images that takes a sigma.
        levels: Noise levels `(levels,)` that fall; by default 14, from 49/255 to 2/255 or to the
            noise of the measurement, whichever is more.
        coupling: At level σ the proximal step may move the image by `σ / √coupling`: the larger the
            coupling, the more the prior counts.
        generator: Source of the added noise; by default one with a fixed seed, so that the same
            measurement gives the same image.

    Returns:
        The image, `(*batch, channels, height, width)`.

    Raises:
        ValueError: For a coupling or levels that are not positive, and for levels that do not fall.
    """
    if not coupling > 0:
        raise ValueError(f"expected coupling > 0, got {coupling}")
    levels = _falling(observation, LEVELS) if levels is None else levels
    check_levels(levels)
    with torch.inference_mode(False):
        x = observation.start()
        generator = generator or torch.Generator(x.device).manual_seed(0)
        for level in levels.to(x, copy=True):
            reach = float(level) / coupling**0.5
            x = observation.proximal(x, reach)
            added = _missing(observation, x, level, reach, generator)
            x = (denoised(prior, x + added, level) + denoised(prior, x - added, level)) / 2
        return observation.kept(x)


def _missing(
    observation: Observation, x: Tensor, level: Tensor, reach: float, generator: torch.Generator
) -> Tensor:
    """Return noise like x that brings it nearer to the noise of `level`.

    A proximal step carries noise of the measurement into x. Adding all that is missing would keep
    the denoiser from removing what the proximal step amplified.
    """
    noise = observation.deviation * _noise(observation.y, generator)
    carried = observation.proximal(torch.zeros_like(x), reach, noise)
    missing = level**2 - carried.square().mean((-3, -2, -1), keepdim=True)  # (*batch, 1, 1, 1)
    return (ADDED * missing.clamp_min(0)).sqrt() * _noise(x, generator)


def posterior(
    observation: Observation,
    prior: Energy,
    *,
    generator: torch.Generator,
    samples: int = 8,
    levels: Tensor | None = None,
    corrector: Sampler | None = None,
    corrector_step: float = 0.3,
) -> Posterior:
    """Sample the posterior along falling noise levels.

    The path starts from what `restore` finds, with noise of the first level. At each level the
    denoised image is treated as a Gaussian whose width is the denoiser's mean error. Its product
    with the measurement is sampled exactly, by perturbing both and taking the proximal step
    (Papandreou and Yuille 2010). For many independent Gaussian pixels that is the posterior, if the
    first level is well above their deviation. Where nothing was measured the deviation found is
    hardly more than the first level, .19 of white by default: pixels that vary by .1, .2, .3 and .4
    were given .10, .17, .21 and .23. Priors that know higher noise can start there.

    Args:
        observation: What was measured.
        prior: An energy of images that takes a sigma.
        generator: Source of the noise.
        samples: Number of samples.
        levels: Noise levels `(levels,)` that fall; by default 24, from 49/255 to 2/255.
        corrector: A sampler that then moves the samples by `prior.given(last level) + observation`.
            With a Metropolis test it removes the remaining bias, as far as its steps reach. Its
            kernel, number of steps and temperature are used.
        corrector_step: Step size of the corrector, as a multiple of the variance
            `1 / (1/level² + 1/s²)` of the stiffest directions.

    Raises:
        ValueError: For fewer than two samples, and for levels that are not positive or do not fall.
    """
    if samples < 2:
        raise ValueError(f"expected at least two samples, got {samples}")
    levels = schedules.geometric(FIRST, LAST, PATH_LEVELS) if levels is None else levels
    check_levels(levels)
    start = restore(observation, prior, generator=generator)
    measured, s = observation.y.expand(samples, *observation.y.shape), observation.deviation

    def possible(clean: Tensor, error: Tensor) -> Tensor:
        y = measured + s * _noise(measured, generator)
        return observation.proximal(clean + error * _noise(clean, generator), error, y)

    first = start.expand(samples, *start.shape)
    levels = levels.to(start)
    x = _walk(prior, first + levels[0] * _noise(first, generator), levels, possible, generator)
    step_size = corrector_step / (1 / float(levels[-1]) ** 2 + 1 / s**2)
    energy = prior.given(levels[-1]) + observation
    x, acceptance = corrected(corrector, energy, x, step_size, generator)
    return Posterior(x.mean(0), x.std(0), x, acceptance)


def denoise_samples(
    image: Any,
    sigma: float | None = None,
    *,
    samples: int = 8,
    generator: torch.Generator,
    tile: int = SIDE,
    prior: Energy | None = None,
    data_range: tuple[float, float] | None = None,
) -> DenoisedSamples:
    """Sample clean images given a noisy one; return their mean and standard deviation, too.

    The noisy image is a sample of the prior at the level of its noise: the path starts there.

    Args:
        image: As in `denoise`.
        sigma: As in `denoise`, but one number for the whole image or batch.
        samples: Number of samples.
        generator: Source of the noise.
        tile: As in `denoise`.
        prior: As in `denoise`.
        data_range: As in `denoise`.

    Raises:
        ValueError: As `denoise`, for a map, and for fewer than two samples.
    """
    if samples < 2 or tile < 1:
        raise ValueError(f"expected samples >= 2 and tile >= 1, got {samples=}, {tile=}")
    if prior is not None:
        check_energy(prior)
    pixels, white, back, arranged = picture(image, data_range)
    if sigma is not None and np.ndim(sigma):
        raise ValueError("expected one sigma for the whole image to sample, got a map")
    level = noise_levels(pixels, sigma, white).mean()
    check_range(pixels, level)
    tiled = Tiled(prior or prior_of(pixels), tile)
    first = max(float(level), 1e-4)
    levels = schedules.geometric(first, LAST, 16) if first > LAST else torch.tensor([first])

    def possible(clean: Tensor, error: Tensor) -> Tensor:
        return clean + error * _noise(clean, generator)

    noisy = pixels.expand(samples, *pixels.shape)
    x = _walk(tiled, noisy, levels.to(pixels), possible, generator)
    return DenoisedSamples(back(x.mean(0)), arranged(white * x.std(0)), tuple(map(back, x)))


def _walk(
    prior: Energy,
    x: Tensor,
    levels: Tensor,
    possible: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Return x, `(samples, *batch, channels, height, width)`, carried from the first level to 0.

    `possible` samples clean images, given the denoised ones and the root mean square of their
    error, `(1, *batch, 1, 1, 1)`. That error follows from `E|x - x₀|² = σ²` a pixel, which is its
    square plus the mean square of what denoising removed (Bao et al. 2022, theorem 1). Given x and
    a clean image, x at the next level is Gaussian (Ho et al. 2020, equation 7).
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
    """Return levels from the first to the noise of the measurement, within the known levels."""
    return schedules.geometric(FIRST, max(LAST, min(observation.deviation, FIRST / 2)), rungs)


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
