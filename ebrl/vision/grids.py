"""Several images as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from ebrl.vision.images import picture
from ebrl.vision.photograph import About, Photograph

GAP = 8  # white pixels between images side by side


def grid(images: Tensor, columns: int | None = None, scale: int = 1, gap: int = 2) -> Image.Image:
    """Return images `(n, channels, height, width)` in [0, 1] as one picture, row by row.

    Args:
        images: At least one, with 1 or 3 channels.
        columns: Number of columns; by default that of the rows, or one more.
        scale: Side of an image's pixel, in pixels of the picture.
        gap: Width of the white lines between images, in pixels of the images.

    Raises:
        ValueError: For no images, other channels, columns or a scale below 1, and a gap below 0.
    """
    n, channels, height, width = images.shape
    if n == 0 or channels not in (1, 3):
        raise ValueError(
            "expected images (n, 1 or 3 channels, height, width), at least one, got shape "
            f"{tuple(images.shape)}"
        )
    columns = math.ceil(n**0.5) if columns is None else columns
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(
            f"expected columns, scale >= 1, gap >= 0, got {columns=}, {scale=}, {gap=}"
        )
    rows = -(-n // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255)
    pixels = images.detach().float().clamp(0, 1).mul(255).round().movedim(1, -1).cpu().numpy()
    for place, image in enumerate(pixels):
        top, left = gap + place // columns * (height + gap), gap + place % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    large = canvas.astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(large[..., 0] if channels == 1 else large)


def in_eight_bits(
    photograph: Photograph, data_range: tuple[float, float] | None = None
) -> Photograph:
    """Return the first page of a photograph for a screen: grey or RGB, 8 bits, no transparency."""
    pixels = picture(photograph, data_range).pixels
    first = pixels.reshape(-1, *pixels.shape[-3:])[0]
    levels = first.clamp(0, 1).mul(255).round().byte().movedim(0, -1)
    return photograph._replace(pixels=levels.cpu().numpy())


def side_by_side(images: Sequence[Photograph], side: int = 1_000) -> Photograph:
    """Return the middles of 8-bit images, at most `side` pixels wide, unscaled, side by side."""
    middles = [_middle(image.pixels, side) for image in images]
    gap = np.full((middles[0].shape[0], GAP, 3), 255, np.uint8)
    row = [part for middle in middles for part in (gap, middle)][1:]
    about = images[0].about
    # The profile of a grey image says nothing about colours.
    profile = about.profile if images[0].pixels.shape[-1] == 3 else b""
    return Photograph(np.concatenate(row, 1), About(about.exif, profile, about.dpi))


def _middle(pixels: np.ndarray, side: int) -> np.ndarray:
    top, left = (max(length - side, 0) // 2 for length in pixels.shape[:2])
    middle = pixels[top : top + side, left : left + side]
    return np.broadcast_to(middle, (*middle.shape[:2], 3))
