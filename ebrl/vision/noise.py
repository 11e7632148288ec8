"""Levels of noise: as the caller says, or estimated; after clipping; and doubts about them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ebrl.vision.noise_estimate import estimate

Sigma = float | np.ndarray | Tensor


def noise_levels(pixels: Tensor, sigma: Sigma | None, white: float = 1.0) -> Tensor:
    """Return the noise of pixels in [0, 1]: `(*batch,)`, or a map `(1, height, width)`.

    Args:
        pixels: `(*batch, channels, height, width)`.
        sigma: Standard deviation in units in which white is `white`: a number, one for each image
            of the batch, or a map `(height, width)`. None estimates it for each image.
        white: The value of white.

    Raises:
        ValueError: For a sigma of another shape, negative, not finite, or above white; and for an
            estimate of images below 8x8 pixels.
    """
    batch = pixels.shape[:-3]
    if sigma is None:
        images = pixels.reshape(-1, *pixels.shape[-3:])
        return pixels.new_tensor([estimate(image).sigma for image in images]).view(batch)
    level = torch.as_tensor(sigma, dtype=pixels.dtype, device=pixels.device)
    is_map = level.ndim == 2 and level.shape == pixels.shape[-2:]
    if level.ndim and not is_map and level.shape != batch:
        raise ValueError(
            f"expected a number, one for each image of the batch {tuple(batch)}, or a map of shape "
            f"{tuple(pixels.shape[-2:])}, got a sigma of shape {tuple(level.shape)}"
        )
    if not ((level >= 0) & level.isfinite()).all():
        raise ValueError("expected a sigma >= 0, got one that is negative or not finite")
    level = level / white
    if level.max() > 1:
        raise ValueError(
            f"expected a sigma in the units of the image, in which white is {white:g} (data_range="
            f"(black, white) states another, as for a dark image of 12 bits in 16), got "
            f"{float(level.max() * white):g}" + ("; 25 of 255 is 25/255" if white == 1 else "")
        )
    return level.unsqueeze(0) if is_map else level.expand(batch)


def clipped(levels: Tensor, pixels: Tensor) -> Tensor:
    """Return the noise that is left in pixels after they were clipped to [0, 1].

    Noise n around the grey 1/2 then has the variance `E min(n², 1/4)`. An image with pixels outside
    of [0, 1] was not clipped, and its level stays. An estimate measures what is left.

    Args:
        levels: As `noise_levels` returns them.
        pixels: `(*batch, channels, height, width)`.
    """
    t = 0.5 / levels.clamp_min(1e-3)
    inner = torch.erf(t / math.sqrt(2)) - t * math.sqrt(2 / math.pi) * (-t.square() / 2).exp()
    left = (levels.square() * inner + 0.25 * torch.erfc(t / math.sqrt(2))).sqrt()
    inside = ((pixels >= 0) & (pixels <= 1)).flatten(-3).all(-1)  # (*batch,)
    if levels.ndim != inside.ndim:  # a map
        inside = inside[..., None, None, None]
    return torch.where(inside, left, levels)


def doubts(sigma: Sigma | None, used: float, highest: float, white: float) -> list[str]:
    """Return warnings about a sigma.

    Args:
        sigma: What the caller gave, in units in which white is `white`, or None.
        used: The largest level that is taken from the pixels, where white is 1.
        highest: The highest level that the prior learnt, likewise.
        white: The value of white.
    """
    if used > highest:
        return [
            f"sigma {white * used:.3g} is beyond the {white * highest:.3g} that was learnt: expect "
            "less detail"
        ]
    given = 0.0 if sigma is None else float(torch.as_tensor(sigma).max())
    if white >= 255 and 0 < given < 1:
        return [
            f"sigma {given:.2g} of {white:g} is hardly any noise; if it was meant for images in "
            f"[0, 1], it is {given * white:.3g} here"
        ]
    return []


def check_levels(levels: Tensor) -> None:
    """Raise `ValueError` for noise levels `(levels,)` that are not positive or do not fall."""
    if not (levels.ndim == 1 and len(levels) and (levels > 0).all() and (levels.diff() < 0).all()):
        raise ValueError(f"expected positive levels that fall, got {levels.tolist()}")
