"""Denoising in one pass, `y - σ² ∇E(y, σ)`, of whole photographs, a tile at a time."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebrl.energies import Energy, check_energy
from ebrl.energies.evaluating import evaluating
from ebrl.vision.images import ImageError, picture
from ebrl.vision.networks import over_images
from ebrl.vision.noise import Sigma, clipped, doubts, noise_levels
from ebrl.vision.shipped import prior_of
from ebrl.vision.tiles import SIDE, Tiled

FAINTEST = 1e-4  # an energy has no level 0
WINDOW = 25  # pixels a side of the neighbourhood in which the energy is judged
EDGE = 9  # pixels a side of the neighbourhood whose contrast tells an edge from noise
EDGE_CONTRAST = 6  # noise deviations between darkest and brightest pixel that make an edge
STRONG_EDGE = 0.6  # of the range: always an edge
LARGEST = 2  # noise deviations by which a pixel at an edge may change
STANDARD_ERRORS = 3  # by which the energy of noise may lie above half a pixel
OUTSIDE = 1e-3  # share of pixels that noise may carry more than 4 deviations outside [0, 1]


def denoise(
    image: Any,
    sigma: Sigma | None = None,
    *,
    strength: float = 1.0,
    tile: int = SIDE,
    prior: Energy | None = None,
    data_range: tuple[float, float] | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Return `image` without its noise: the same type, size and range.

    Args:
        image: A path, a PIL image, a photograph of `load`, an array `(height, width[, channels])`
            or a tensor `(*batch, channels, height, width)`. A path gives a PIL image. Transparency
            is kept; the two channels of an array are two grey images.
        sigma: Standard deviation of the noise, before any clipping, in the image's own units (25 of
            255 in a file or uint8, .1 in floats in [0, 1]): a number, one for each image of the
            batch, or a map `(height, width)`. None estimates white noise.
        strength: Factor on sigma; below 1 some grain stays.
        tile: Side of the tiles that bound the memory, in pixels.
        prior: An energy of `(channels, height, width)` in [0, 1] that takes a sigma. The default
            is the energy that ships for grey or for colour.
        data_range: The values of black and white. The default is 0 and 1 for floats, 0 and the
            largest number for integers. 16-bit integers whose values fit in 8, 10, 12 or 14 bits
            are taken for such.
        device: Where to compute; the default is where the image is.

    Raises:
        TypeError: For a prior that is no energy.
        ImageError: For something that is no image, and for floats outside of the range.
        FileNotFoundError: For a missing file.
        ValueError: For a sigma that is negative or above white, a strength below 0, a tile below 1.
    """
    if not 0 <= strength < torch.inf or tile < 1:
        raise ValueError(f"expected strength >= 0 and tile >= 1, got {strength=}, {tile=}")
    if prior is not None:
        check_energy(prior)
    with torch.inference_mode(False):
        pixels, white, back, _ = picture(image, data_range)
        pixels = pixels if device is None else pixels.to(device)
        levels = noise_levels(pixels, sigma, white)
        check_range(pixels, levels)
        if prior is None:
            prior = prior_of(pixels)
            for doubt in doubts(sigma, strength * float(levels.max()), prior.levels[1], white):
                _warn(doubt)
        left = levels if sigma is None else clipped(levels, pixels)
        clean, trust = guarded(Tiled(prior, tile), pixels, strength * left)
        for doubt in mistrust(trust, strength * left):
            _warn(doubt)
        return back(clean)


def mistrust(trust: Tensor, levels: Tensor) -> list[str]:
    """Return a warning where much of an image is hardly trusted; arguments as in `guarded`."""
    share = float((trust < 0.5).float().mean())
    if share <= 0.01 or levels.min() <= 0:
        return []
    return [
        f"{100 * share:.0f} % of the image does not look like noise and was left nearly unchanged"
    ]


def denoised(prior: Energy, y: Tensor, sigma: Tensor) -> Tensor:
    """Return the denoised image, kept near y where its energy says not to trust it (`guarded`).

    Args:
        prior: An energy that takes a sigma.
        y: Images `(*batch, channels, height, width)`.
        sigma: `(*leading batch,)`, or a map `(*batch, 1, height, width)`; where it is 0, y stays.

    Raises:
        ValueError: For a negative sigma.
    """
    if (torch.as_tensor(sigma) < 0).any():
        raise ValueError(f"expected a sigma >= 0, got {float(torch.as_tensor(sigma).min())}")
    return guarded(prior, y, sigma)[0]


def guarded(prior: Energy, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return the denoised images D, and how far they are trusted, `(*batch, 1, height, width)`.

    Where a prior is right, `|y - D|²` is on average at most `σ²` a pixel: the energy of noise, half
    a pixel. Where the mean over a neighbourhood is larger, D removes more than noise. There
    `y + w (D - y)` with `w = σ² / |y - D|²` minimises the expected error if D removes all noise. In
    texture D leaves some noise and removes some detail, so D is trusted less: the trust is `w²`.

    At strong edges each pixel may change by at most `LARGEST` noise deviations, so that a fine line
    moves no further than that from the truth.
    """
    with torch.inference_mode(False):
        y = (y.clone() if y.is_inference() else y).detach()
        sigma = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).detach().clone()
        step = tweedie(prior, y, sigma).sub_(y)
        level = over_images(sigma, y).clamp_min(FAINTEST)
        excess = (step / level).square_().mean(-3, keepdim=True)
        trust = (noise_limit(y) / _neighbourhood_mean(excess)).square_().clamp_(max=1)
        trust = torch.where(over_images(sigma, y) > 0, trust, 0)
        return _hold_edges(step.mul_(trust), y, level).add_(y), trust


def noise_limit(y: Tensor) -> Tensor:
    """Return the largest mean of `|y - D|² / σ²` around a pixel that is still noise, `(1, h, w)`.

    The mean of the squares of n standard normal numbers has the standard error `√(2 / n)`; at the
    borders of y, `(*batch, channels, h, w)`, a neighbourhood has fewer pixels.
    """
    rows, columns = (
        (torch.arange(n) + WINDOW // 2 + 1).clamp(max=min(n, WINDOW)).float() for n in y.shape[-2:]
    )
    rows, columns = torch.minimum(rows, rows.flip(0)), torch.minimum(columns, columns.flip(0))
    count = y.shape[-3] * rows[:, None] * columns
    return (1 + STANDARD_ERRORS * (2 / count).sqrt()).unsqueeze(0).to(y)


def tweedie(prior: Energy, y: Tensor, sigma: Tensor) -> Tensor:
    """Return `y - σ² ∇E(y, σ)`, without a graph; arguments as in `denoised`."""
    level = sigma.clamp_min(FAINTEST)
    energy = prior.given(level)
    with evaluating(energy):
        _, gradient = energy.value_and_gradient(y)
    return gradient.mul(over_images(level, y).square()).neg_().add_(y)


def _hold_edges(step: Tensor, y: Tensor, level: Tensor) -> Tensor:
    """Bound the changes `step` of y where `y + step` has an edge, in place; a channel at a time."""
    for channel in range(y.shape[-3]):
        change = step[..., channel, :, :]  # (*batch, height, width)
        noise = level.expand_as(y)[..., channel, :, :]
        clean = (y[..., channel, :, :] + change).reshape(-1, 1, *y.shape[-2:])
        contrast = _brightest_around(clean).add_(_brightest_around(-clean)).view_as(change)
        edge = contrast > (EDGE_CONTRAST * noise).clamp(max=STRONG_EDGE)
        limit = torch.where(edge, LARGEST * noise, torch.inf)
        torch.clamp(change, -limit, limit, out=change)
    return step


def _brightest_around(planes: Tensor) -> Tensor:
    """Return the largest of the EDGE x EDGE pixels around each pixel."""
    for kernel, padding in (((EDGE, 1), (EDGE // 2, 0)), ((1, EDGE), (0, EDGE // 2))):
        planes = F.max_pool2d(planes, kernel, 1, padding)
    return planes


def _neighbourhood_mean(values: Tensor) -> Tensor:
    """Return the mean over WINDOW x WINDOW pixels, as far as they lie in the image."""
    planes, half = values.reshape(-1, 1, *values.shape[-2:]), WINDOW // 2
    for kernel, padding in (((WINDOW, 1), (half, 0)), ((1, WINDOW), (0, half))):
        planes = F.avg_pool2d(planes, kernel, 1, padding, count_include_pad=False)
    return planes.view(values.shape)


def check_range(pixels: Tensor, levels: Tensor) -> None:
    """Raise ImageError for pixels that lie outside of [0, 1] by more than their noise."""
    margin = 4 * over_images(levels, pixels) + 0.02
    outside = ((pixels < -margin) | (pixels > 1 + margin)).float().mean()
    if outside > OUTSIDE:
        raise ImageError(
            f"expected pixels in [0, 1] up to their noise, got [{float(pixels.min()):.3g}, "
            f"{float(pixels.max()):.3g}]: pass data_range=(black, white), such as (-1, 1)"
        )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
