"""Denoising in one pass: `y - σ² ∇E(y, σ)`, whole photographs, a tile at a time."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from skimage.restoration import estimate_sigma
from torch import Tensor

from ebrl.energies import Energy, align_left, over_event
from ebrl.energies.freezing import evaluating, frozen
from ebrl.vision.images import picture
from ebrl.vision.shipped import pretrained
from ebrl.vision.tiles import Tiled

Sigma = float | np.ndarray | Tensor
TRAINED = (2 / 255, 60 / 255)  # where the shipped energies know what they do
SMALLEST = 8  # pixels a side of which noise can be estimated


def denoise(
    image: Any,
    sigma: Sigma | None = None,
    *,
    strength: float = 1.0,
    tile: int = 512,
    prior: Energy | None = None,
) -> Any:
    """Return `image` without its noise: the same type, size and range.

    Args:
        image: A path, a PIL image, an array `(height, width[, channels])`, a tensor
            `(*batch, channels, height, width)`. A path gives a PIL image. Transparency is kept.
        sigma: Standard deviation of the noise in the image's own units (25 of 255 in a file or
            uint8, .1 in floats in [0, 1]), or a map `(height, width)` of it where it differs from
            place to place. Estimated where it is not given.
        strength: How much of the noise is taken for noise: below 1 keeps more grain.
        tile: Side of the tiles that bound the memory, in pixels.
        prior: An energy of `(channels, height, width)` in [0, 1] that takes a sigma; the shipped
            ones for grey and for colour where none is given.

    Raises ImageError for what is no image, FileNotFoundError, and `ValueError` for a sigma that is
    negative or in other units, a strength below 0 and a tile below 1.
    """
    if not 0 <= strength < torch.inf or tile < 1:
        raise ValueError(f"expected strength >= 0 and tile >= 1, got {strength=}, {tile=}")
    pixels, white, back = picture(image)
    levels = noise_levels(pixels, sigma, white) * strength
    if prior is None:
        prior = pretrained("gray" if pixels.shape[-3] == 1 else "color", pixels.device)
        if levels.max() > TRAINED[1]:
            warnings.warn(
                f"expected a sigma up to {TRAINED[1] * white:.3g}, as the shipped energies learnt, "
                f"got {float(levels.max()) * white:.3g}: the result may be poor",
                stacklevel=2,
            )
    return back(denoised(Tiled(prior, tile), pixels, levels))


def denoised(prior: Energy, y: Tensor, sigma: Tensor) -> Tensor:
    """Return `y - σ² ∇E(y)` of images `(*batch, channels, height, width)`, without a graph.

    sigma is `(*leading batch,)` or a map `(*batch, 1, height, width)`; where it is 0, y stays.
    """
    # An energy knows no noise of 0: there is nothing to take away there.
    energy = prior.given(sigma.clamp_min(1e-4))
    with evaluating(energy), frozen(prior):
        _, gradient = energy.value_and_gradient(y)
    is_map = sigma.ndim >= 3 and sigma.shape[-2:] == y.shape[-2:]
    aligned = sigma if is_map else over_event(align_left(sigma, y.ndim - 3), 3)
    return y - aligned**2 * gradient


def noise_levels(pixels: Tensor, sigma: Sigma | None, white: float) -> Tensor:
    """Return the noise of pixels in [0, 1], `()` or a map `(1, height, width)`.

    The estimate is the median of the finest wavelet coefficients (Donoho and Johnstone 1994): that
    of white noise, a little high where there is fine texture.
    """
    if sigma is None:
        return pixels.new_tensor(_estimate(pixels))
    level = torch.as_tensor(sigma, dtype=pixels.dtype, device=pixels.device)
    if level.ndim not in (0, 2) or (level.ndim == 2 and level.shape != pixels.shape[-2:]):
        raise ValueError(
            f"expected a number or a map of shape {tuple(pixels.shape[-2:])}, got a sigma of shape "
            f"{tuple(level.shape)}"
        )
    if not ((level >= 0) & level.isfinite()).all():
        raise ValueError("expected a sigma >= 0, got one that is negative or not finite")
    level = level / white
    if level.max() > 1:
        raise ValueError(
            f"expected a sigma in the units of the image, in which white is {white:g}, got "
            f"{float(level.max() * white):g}" + ("; 25 of 255 is 25/255" if white == 1 else "")
        )
    return level if level.ndim == 0 else level.unsqueeze(0)


def _estimate(pixels: Tensor) -> float:
    if min(pixels.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"expected an image of at least {SMALLEST}x{SMALLEST} pixels to estimate its noise, "
            f"got {tuple(pixels.shape[-2:])}: give sigma"
        )
    planes = pixels.reshape(-1, *pixels.shape[-2:]).cpu().numpy()
    with warnings.catch_warnings():
        # Of a plane without details: the median of nothing is NaN, and there is no noise.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(np.nan_to_num([estimate_sigma(plane) for plane in planes]).mean())
