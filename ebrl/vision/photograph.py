"""A photograph: the pixels of a file and what it says about them; from PIL images and back."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class ImageError(ValueError):
    """An input is no usable image. The message says what was expected, what came, and the cure."""


class About(NamedTuple):
    """What a file says about its image."""

    exif: bytes = b""  # as in a JPEG, without the orientation
    profile: bytes = b""  # ICC, of the colours as they are in the pixels
    dpi: tuple[float, float] | None = None
    tags: tuple[tuple[int, Any], ...] = ()  # of a TIFF, by their numbers
    rounding: float = 0.0  # deviation of the error that the format's quantisation left, of white 1
    bits: int = 0  # of a number, where the file says that they are fewer than its type has
    note: str = ""  # what reading has changed


class Photograph(NamedTuple):
    """An image of a file."""

    pixels: np.ndarray  # (*pages, height, width, channels): grey, grey + alpha, RGB, RGBA
    about: About = About()


def of_pil(image: Image.Image) -> Photograph:
    """Return a photograph of a PIL image: grey, RGB, with or without alpha, 16 bits or floats.

    Raises:
        ImageError: For an image of another mode.
    """
    if image.mode not in (*MODES.values(), "I;16", "I;16B", "F"):
        cure = {"1": "L", "I": "I;16", "PA": "RGBA"}.get(image.mode, "RGB")
        raise ImageError(
            f"expected an image of mode L, LA, RGB, RGBA, I;16 or F, got {image.mode!r}: "
            f"image.convert({cure!r})"
        )
    pixels = np.asarray(image)
    about = About(
        image.info.get("exif", b""), image.info.get("icc_profile") or b"", image.info.get("dpi")
    )
    return Photograph(pixels if pixels.ndim == 3 else pixels[..., None], about)


def to_pil(photograph: Photograph) -> Image.Image:
    """Return the PIL image of a photograph.

    Raises:
        ImageError: For pages and for 16-bit colour, which Pillow cannot hold.
    """
    pixels = photograph.pixels
    grey = pixels.shape[-1] == 1
    if pixels.ndim > 3 or not (pixels.dtype == np.uint8 or grey):
        what = f"{pixels.dtype} of shape {pixels.shape}"
        raise ImageError(f"Pillow has no image of {what}: pass the photograph of vision.load(path)")
    kind = pixels.dtype.newbyteorder("=")
    kind = np.dtype(np.float32) if kind.kind == "f" else kind
    image = Image.fromarray((pixels[..., 0] if grey else pixels).astype(kind, copy=False))
    image.info.update(kept(photograph.about))
    return image


def to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Return the image in sRGB, by its own CMYK profile where it has one, and a note of that."""
    profile, converted, note = image.info.get("icc_profile"), None, f"{image.mode} became RGB"
    if profile and image.mode == "CMYK":
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            note += " without its profile, which is not of inks"
    converted = like(converted or image.convert("RGB"), image)
    converted.info.pop("icc_profile", None)  # of the inks
    return converted, note


def like(image: Image.Image, other: Image.Image) -> Image.Image:
    """Return the image with what the other one says about itself."""
    keys = ("exif", "icc_profile", "dpi")
    image.info = {key: other.info[key] for key in keys if key in other.info}
    return image


def kept(about: About) -> dict[str, Any]:
    """Return what Pillow takes in its `info` and its `save`."""
    named = {"exif": about.exif, "icc_profile": about.profile, "dpi": about.dpi}
    return {key: value for key, value in named.items() if value}
