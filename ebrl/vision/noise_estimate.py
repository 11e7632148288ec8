"""The standard deviation of the noise in an image, estimated.

White noise shows in the finest wavelet band. The noise of a camera does not: demosaicking, scaling
and JPEG take its finest part away and leave the coarser one. The estimate therefore compares two
scales, and takes the coarser where it finds clearly more noise there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pywt
from torch import Tensor

SMALLEST_SIDE = 8  # pixels of which noise can be estimated
WAVELET = "db2"
MAD = 0.6745  # median of |z| for a standard normal z
BLOCK = 4  # coefficients a side of the blocks that are compared, 16 pixels
FEWEST_BLOCKS = 20  # to compare them
LARGEST = 0.75  # noise in black and white pixels alone has about .5; more is a pattern

# Which blocks show their noise.
FLAT = 1e-9  # a coefficient below it is that of a flat area, up to rounding
FLAT_SHARE = 0.25  # of a block's coefficients, up to which it shows its noise
NOISY_SHARE = 0.02  # of the blocks, which has to show it
CLIPPED = 1e-3  # distance from black and white within which a pixel counts as clipped
CLIPPED_SHARE = 0.1  # of a block's pixels, from which on it hides its noise

# The flattest of them, and the bias of choosing these.
FINE_QUANTILE = 0.1  # of the blocks' power, the fine estimate in textured images
FINE_BIAS = 0.763  # deviation of white noise at that quantile, over that in all blocks
TEXTURED = 0.75  # noise at that quantile over that of all, below which texture is in the others
COARSE_SHARE = 0.05  # of the blocks, whose mean power is the coarse estimate
COARSE_BIAS = 0.83  # deviation of white noise in those blocks, over that in all (measured)

# The noise of cameras.
CHROMA = 1.6  # noise in the channels over that in their differences, of JPEGs (measured)
CORRELATED = 1.4  # factor on correlated noise for a prior that knows white noise (measured)
CAMERA = 0.69  # deviation of correlated noise, over that in details of 4 pixels (measured)


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


def estimate(image: Tensor) -> NoiseEstimate:
    """Estimate the noise of an image `(channels, height, width)` in [0, 1].

    The fine estimate is the median of the finest diagonal wavelet coefficients (Donoho and
    Johnstone 1994), or their deviation in the flattest blocks where the others have texture. It is
    high where texture is everywhere, and 0 for drawings on plain ground and for patterns that clip
    to black and white. The coarse one is the deviation in the flattest blocks of the next scale. In
    colour it looks at differences of the channels, in which texture nearly cancels; in grey it is
    used only where many blocks are equally flat.

    Raises:
        ValueError: For images below 8x8 pixels.
    """
    if min(image.shape[-2:]) < SMALLEST_SIDE:
        raise ValueError(
            f"expected an image of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels to estimate "
            f"its noise, got {tuple(image.shape[-2:])}: give sigma"
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
    noisy = flat <= FLAT_SHARE
    if noisy.mean() < NOISY_SHARE or np.sum(~noisy & (flat < 1)) > noisy.sum():
        return 0.0
    usable = details if noisy.all() else blocks[noisy]
    robust = float(np.median(np.abs(usable)) / MAD)
    hidden = _block_means(clipped.astype(float), 2 * BLOCK)
    rows, columns = (min(a, b) for a, b in zip(flat.shape, hidden.shape, strict=True))
    shown = noisy[:rows, :columns] & (hidden[:rows, :columns] < CLIPPED_SHARE)
    if shown.sum() < FEWEST_BLOCKS:
        return robust
    power = np.square(blocks[:rows, :columns][shown]).mean((1, 2))
    flattest = float(np.sqrt(np.quantile(power, FINE_QUANTILE))) / FINE_BIAS
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
    usable = np.sort(power[:rows, :columns][hidden[:rows, :columns] < CLIPPED_SHARE])
    if len(usable) < FEWEST_BLOCKS:
        return 0.0
    lowest, low = np.sqrt(np.quantile(usable, [0.01, 0.2]))
    if low > spread * lowest:
        return 0.0
    return float(np.sqrt(usable[: int(COARSE_SHARE * len(usable))].mean()) / COARSE_BIAS)


def _block_means(values: np.ndarray, side: int) -> np.ndarray:
    return _blocks(values, side).mean((2, 3))


def _blocks(values: np.ndarray, side: int) -> np.ndarray:
    """Return blocks of side x side without those that a border cuts, `(rows, columns, *block)`."""
    rows, columns = (n // side for n in values.shape)
    blocks = values[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return blocks.swapaxes(1, 2)
