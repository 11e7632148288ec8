"""Images into files: whole or not at all, with what the input's file said about itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ebrl.storage import replacing
from ebrl.vision.images import KEPT, SUFFIXES, ImageError, picture

OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
MODES = {  # that a format holds; the others hold what images can be
    "JPEG": ("L", "RGB"),
    "BMP": ("L", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "PNG": ("L", "LA", "RGB", "RGBA", "I;16"),
}
GAP = 8  # white pixels between images side by side


def save(image: Image.Image, path: str | Path) -> None:
    """Write the image in the format of the path's suffix, with its EXIF, profile and resolution.

    JPEG and WebP are written at quality 95. Raises ImageError for a suffix or a format that cannot
    hold the image, OSError when it cannot be written; then whatever was there is unchanged.
    """
    path = Path(path)
    style = file_format(path)
    if style == "WEBP" and image.mode == "L":
        image = _like(image.convert("RGB"), image)  # it has no grey
    if image.mode not in MODES.get(style, (image.mode,)):
        raise ImageError(
            f"{path}: {style} holds images of mode {', '.join(MODES[style])}, got {image.mode!r}: "
            "write a .png or .tif"
        )
    kept = {key: image.info[key] for key in KEPT if key in image.info}
    encoded = io.BytesIO()  # Pillow, writing itself, would hide that a disk is full
    image.save(encoded, format=style, **OPTIONS.get(style, {}), **kept)
    with replacing(path) as file:
        file.write(encoded.getbuffer())


def file_format(path: Path) -> str:
    """Return Pillow's name of the format that the path's suffix stands for."""
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(
            f"expected a file that ends in {', '.join(sorted(SUFFIXES))}, got {path.name}"
        )
    return Image.registered_extensions()[path.suffix.lower()]


def side_by_side(images: list[Image.Image], side: int = 1_000) -> Image.Image:
    """Return the images' middles of at most `side` pixels, unscaled, in 8 bits, from left to right.

    Transparency is left out.
    """
    middles = [_middle(image, side) for image in images]
    gap = np.full((middles[0].shape[0], GAP, 3), 255, np.uint8)
    row = [part for middle in middles for part in (gap, middle)][1:]
    return _like(Image.fromarray(np.concatenate(row, 1)), images[0])


def _middle(image: Image.Image, side: int) -> np.ndarray:
    pixels = picture(image).pixels.clamp(0, 1).mul(255).round().byte()
    height, width = pixels.shape[-2:]
    top, left = max(height - side, 0) // 2, max(width - side, 0) // 2
    middle = pixels[..., top : top + side, left : left + side].expand(3, -1, -1)
    return middle.movedim(0, -1).numpy()


def _like(image: Image.Image, other: Image.Image) -> Image.Image:
    # A profile of grey says nothing about colours.
    kept = [key for key in KEPT if key != "icc_profile" or other.mode in ("RGB", "RGBA")]
    image.info = {key: other.info[key] for key in kept if key in other.info}
    return image
