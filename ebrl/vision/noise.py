"""The standard deviation of the noise in an image: as the caller says, or estimated.

White noise shows in the finest wavelet band. The noise of a camera does not: demosaicking, scaling
and JPEG take its finest part away and leave the coarser one. The estimate therefore compares two
scales, and takes the coarser where it finds clearly more noise there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pywt
import torch
from torch import Tensor

Sigma = float | np.ndarray | Tensor
SMALLEST = 8  # pixels a side of which noise can be estimated
WAVELET = "db2"
MAD = 0.6745  # median of |z| for a standard normal z
BLOCK = 4  # coefficients a side of the blocks that are compared, 16 pixels
FLATTEST = 0.05  # share of the blocks that the coarse estimate looks at
ENOUGH = 20  # blocks, to compare them
SELECTED_FINE = 0.763  # deviation of white noise in a block, its 10 % quantile over that in all
TEXTURED = 0.75  # the flattest blocks' noise over that of all, below which texture is in the others
SELECTED = 0.83  # deviation of white noise in the flattest blocks, over that in all (measured)
CHROMA = 1.6  # noise in the channels over that in their differences, of camera JPEGs (measured)
CORRELATED = 1.4  # factor on correlated noise for a prior that knows white noise (measured)
CAMERA = 0.69  # deviation of correlated noise, over that in details of 4 pixels (measured)
FLAT = 1e-9  # a coefficient below it is that of a flat area, up to rounding
SOME = 0.25  # share of flat coefficients up to which a block shows its noise
LEAST = 0.02  # share of the image that has to show it
HIDDEN = 0.1  # share of clipped pixels from which on a block hides its noise
CLIPPED = 1e-3  # distance from black and white within which a pixel counts as clipped
LARGEST = 0.75  # noise in black and white pixels alone has about .5; more is a pattern


class NoiseEstimate(NamedTuple):
    """Noise at two scales, as standard deviations in the units of the pixels."""

    fine: float  # in details of 2 pixels
    coarse: float  # in details of 4 pixels, 0 where texture hides it

    @property
    def is_coarse(self) -> bool:
        """Whether the noise is coarser than white noise, as cameras leave it."""
        return self.coarse > 2 * self.fine

    @property
    def sigma(self) -> float:
        """The sigma to give to a prior for white noise."""
        return CORRELATED * self.coarse if self.is_coarse else self.fine

    @property
    def deviation(self) -> float:
        """The deviation of the pixels: the sigma to give to a prior for the noise of cameras."""
        return CAMERA * self.coarse if self.is_coarse else self.fine


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


def estimate(image: Tensor) -> NoiseEstimate:
    """Estimate the noise of an image `(channels, height, width)` in [0, 1].

    The fine estimate is the median of the finest diagonal wavelet coefficients (Donoho and
    Johnstone 1994), or their deviation in the flattest blocks where the others have texture. It is
    high where texture is everywhere, and 0 for drawings on plain ground and for patterns that clip
    to black and white. The coarse one is the
    deviation in the flattest blocks of the next scale. In colour it looks at differences of the
    channels, in which texture nearly cancels; in grey it is used only where many blocks are
    equally flat.

    Raises:
        ValueError: For images below 8x8 pixels.
    """
    if min(image.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"expected an image of at least {SMALLEST}x{SMALLEST} pixels to estimate its noise, "
            f"got {tuple(image.shape[-2:])}: give sigma"
        )
    planes = image.detach().double().cpu().numpy()
    clipped = np.any((planes < CLIPPED) | (planes > 1 - CLIPPED), axis=0)
    fine = np.mean([_finest(plane, clipped) for plane in planes])
    if len(planes) == 3:
        red, green, blue = planes
        differences = (red - blue) / 2**0.5, (red + blue - 2 * green) / 6**0.5
        colour = np.mean([_flattest(plane, clipped, 2.5) for plane in differences])
        coarse = min(
            CHROMA * colour, np.mean([_flattest(plane, clipped, np.inf) for plane in planes])
        )
    else:
        coarse = _flattest(planes[0], clipped, 1.35)
    return NoiseEstimate(*(float(each) if each <= LARGEST else 0.0 for each in (fine, coarse)))


def _finest(plane: np.ndarray, clipped: np.ndarray) -> float:
    """Return the noise in the finest diagonal coefficients, 0 where hardly any block shows it.

    It is their robust deviation, or that in the flattest blocks where those have clearly less.
    Flat parts such as a border are left out. Where most of the other blocks are flat in part, the
    image is a drawing: noise would be everywhere.

    Args:
        plane: `(height, width)`.
        clipped: Pixels that are black or white, and hide their noise.
    """
    details = pywt.dwt2(plane, WAVELET)[1][2]
    blocks = _blocks(details, BLOCK)  # (rows, columns, BLOCK, BLOCK)
    flat = (np.abs(blocks) < FLAT).mean((2, 3))
    noisy = flat <= SOME
    if noisy.mean() < LEAST or np.sum(~noisy & (flat < 1)) > noisy.sum():
        return 0.0
    usable = details if noisy.all() else blocks[noisy]
    robust = float(np.median(np.abs(usable)) / MAD)
    hidden = _block_means(clipped.astype(float), 2 * BLOCK)
    rows, columns = (min(a, b) for a, b in zip(flat.shape, hidden.shape, strict=True))
    shown = noisy[:rows, :columns] & (hidden[:rows, :columns] < HIDDEN)
    if shown.sum() < ENOUGH:
        return robust
    power = np.square(blocks[:rows, :columns][shown]).mean((1, 2))
    flattest = float(np.sqrt(np.quantile(power, 0.1))) / SELECTED_FINE
    return flattest if flattest < TEXTURED * robust else robust


def _flattest(plane: np.ndarray, clipped: np.ndarray, spread: float) -> float:
    """Return the noise in the flattest blocks of the second scale, 0 where they differ by texture.

    Args:
        plane: `(height, width)`.
        clipped: Pixels that are black or white, and hide their noise.
        spread: Largest deviation of a block at the 20 % quantile over that at the 1 % quantile.
    """
    if min(plane.shape) < 4 * BLOCK:
        return 0.0
    details = pywt.wavedec2(plane, WAVELET, level=2)[1]  # three bands of the second scale
    power = np.mean([_block_means(band**2, BLOCK) for band in details], 0)
    hidden = _block_means(clipped.astype(float), 4 * BLOCK)
    rows, columns = (min(a, b) for a, b in zip(power.shape, hidden.shape, strict=True))
    usable = np.sort(power[:rows, :columns][hidden[:rows, :columns] < HIDDEN])
    if len(usable) < ENOUGH:
        return 0.0
    lowest, low = np.sqrt(np.quantile(usable, [0.01, 0.2]))
    if low > spread * lowest:
        return 0.0
    return float(np.sqrt(usable[: int(FLATTEST * len(usable))].mean()) / SELECTED)


def _block_means(values: np.ndarray, side: int) -> np.ndarray:
    return _blocks(values, side).mean((2, 3))


def _blocks(values: np.ndarray, side: int) -> np.ndarray:
    """Return blocks of side x side without those that a border cuts, `(rows, columns, *block)`."""
    rows, columns = (n // side for n in values.shape)
    blocks = values[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return blocks.swapaxes(1, 2)
