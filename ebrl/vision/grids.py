"""Many small images as one picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from torch import Tensor


def grid(images: Tensor, columns: int | None = None, scale: int = 1, gap: int = 2) -> Image.Image:
    """Return images `(n, channels, height, width)` in [0, 1] row by row, each pixel `scale` wide.

    As many columns as rows, or one more, where none are given; white between the images, `gap` of
    their pixels wide. Raises `ValueError` for no images, for channels other than 1 or 3 and for
    columns or a scale below 1.
    """
    n, channels, height, width = images.shape
    if n == 0 or channels not in (1, 3):
        raise ValueError(
            "expected images (n, 1 or 3 channels, height, width), at least one, got shape "
            f"{tuple(images.shape)}"
        )
    columns = math.ceil(n**0.5) if columns is None else columns
    if columns < 1 or scale < 1:
        raise ValueError(f"expected columns and scale of at least 1, got {columns=}, {scale=}")
    rows = -(-n // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255)
    pixels = images.detach().float().clamp(0, 1).mul(255).round().movedim(1, -1).cpu().numpy()
    for place, image in enumerate(pixels):
        top, left = gap + place // columns * (height + gap), gap + place % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    large = canvas.astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(large[..., 0] if channels == 1 else large)
