"""Pictures as people hold them, to tensors in [0, 1] and back: the same type, size and range.

Files, PIL images, NumPy arrays `(height, width[, channels])` and tensors
`(*batch, channels, height, width)`; grey or colour, with or without transparency; 8 or 16 bits or
floats in [0, 1].
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
WHITE = {torch.uint8: 255.0, torch.uint16: 65535.0}  # of floats it is 1
MODES = {"L", "LA", "RGB", "RGBA", "I;16", "I;16B", "F"}
CURES = {"1": "L", "I": "I;16", "PA": "RGBA"}  # what to convert other modes to, if not to RGB
DEEP = re.compile(";16[BLN]")  # Pillow's name of a file's bits: 16 a channel, in a byte order
DAMAGE = (OSError, SyntaxError, ValueError, KeyError, TypeError, EOFError, struct.error)
KEPT = ("exif", "icc_profile", "dpi")


class ImageError(ValueError):
    """Something is no image that can be worked on: what was expected, what it is, the cure."""


class Picture(NamedTuple):
    """An image to compute with, and how to hand a result back."""

    pixels: Tensor  # (*batch, channels, height, width), floats in [0, 1], channels 1 or 3
    white: float  # what 1 is in the units of the image that came in
    back: Callable[[Tensor], Any]  # pixels like those -> an image like the one that came in


def picture(image: Any) -> Picture:
    """Return the picture of a path, a PIL image, an array or a tensor.

    Raises ImageError for what is none (unreadable, empty, 1-bit, palette, NaN, integers of an
    unknown range) and FileNotFoundError for a missing file.
    """
    if isinstance(image, str | Path):
        image = opened(image)
    if isinstance(image, Image.Image):
        return _of_pil(image)
    if isinstance(image, np.ndarray):
        return _of_array(image)
    if isinstance(image, Tensor):
        return _of_tensor(image)
    raise ImageError(
        "expected a path, a PIL image, a NumPy array or a tensor, got "
        f"{type(image).__module__}.{type(image).__name__}"
    )


def opened(path: str | Path) -> Image.Image:
    """Return the whole image of a file, turned as its EXIF orientation says."""
    try:
        with _without_pillows_warnings(), Image.open(path) as image:
            _check_whole(image, path)
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no image {path}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image, or of a format that Pillow lacks") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large ({error}): cut it into parts") from error
    except ImageError:
        raise
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ImageError(f"{path} cannot be read ({error.strerror})") from error
        raise ImageError(f"{path} is a damaged image ({error}): use another copy") from error


@contextmanager
def _without_pillows_warnings() -> Iterator[None]:
    """Let those pass of damaged EXIF data, no part of the image, and of a large photograph."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _check_whole(image: ImageFile.ImageFile, path: str | Path) -> None:
    """Refuse a file of which Pillow would give but a part: more images, or more bits."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's photograph, and its smaller copies
        raise ImageError(f"{path} holds {frames} images: save each in a file of its own")
    if image.mode in ("LA", "RGB", "RGBA") and DEEP.search(str([tile[3] for tile in image.tile])):
        raise ImageError(
            f"{path} has 16 bits a channel, of which Pillow reads 8: pass the array that "
            "skimage.io.imread reads, or save it with 8 bits"
        )


def _of_pil(image: Image.Image) -> Picture:
    if image.mode not in MODES:
        raise ImageError(
            f"expected an image of mode {', '.join(sorted(MODES))}, got {image.mode!r}: "
            f"image.convert({CURES.get(image.mode, 'RGB')!r})"
        )
    inner = _of_array(np.asarray(image))

    def back(pixels: Tensor) -> Image.Image:
        result = Image.fromarray(inner.back(pixels))
        result.info = {key: image.info[key] for key in KEPT if key in image.info}
        return result

    return inner._replace(back=back)


def _of_array(image: np.ndarray) -> Picture:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)):
        raise ImageError(
            "expected an array (height, width) or (height, width, 1 to 4 channels), got shape "
            f"{image.shape}"
        )
    # Of the machine's own byte order and writeable, for torch.
    planes = np.array(image, image.dtype.newbyteorder("="), order="C")
    planes = planes.reshape(*image.shape[:2], image.shape[2] if image.ndim == 3 else 1)
    inner = _of_tensor(_tensor(planes).movedim(-1, 0))

    def back(pixels: Tensor) -> np.ndarray:
        result = inner.back(pixels).cpu().movedim(0, -1).contiguous().numpy()
        return result.astype(image.dtype, copy=False).reshape(image.shape)

    return inner._replace(back=back)


def _tensor(planes: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(planes)
    except TypeError as error:
        raise ImageError(
            f"expected uint8, uint16 or floats in [0, 1], got {planes.dtype}: convert it"
        ) from error


def _of_tensor(image: Tensor) -> Picture:
    if image.ndim == 2:
        inner = _of_tensor(image.unsqueeze(0))
        return inner._replace(back=lambda pixels: inner.back(pixels)[0])
    if image.ndim < 3 or image.shape[-3] not in (1, 2, 3, 4) or 0 in image.shape:
        raise ImageError(
            "expected a tensor (*batch, 1 to 4 channels, height, width) that is not empty, got "
            f"shape {tuple(image.shape)}"
        )
    white = _white(image)
    image = image.detach()
    # Grey or colour, and what is left is transparency, which is handed back as it came.
    channels = 3 if image.shape[-3] >= 3 else 1
    alpha = image[..., channels:, :, :]
    pixels = image[..., :channels, :, :].to(torch.get_default_dtype()) / white

    def back(pixels: Tensor) -> Tensor:
        levels = pixels.clamp(0, 1) * white
        levels = levels if image.is_floating_point() else levels.round()
        return torch.cat([levels.to(image.dtype), alpha], -3)

    return Picture(pixels, white, back)


def _white(image: Tensor) -> float:
    """Return what a white pixel is, after a look at the range of floats."""
    if image.dtype in WHITE:
        return WHITE[image.dtype]
    if not image.is_floating_point():
        bits = "1-bit images hold too little to be worked on: " if image.dtype == torch.bool else ""
        raise ImageError(
            f"expected uint8, uint16 or floats in [0, 1], got {image.dtype}: {bits}convert it"
        )
    if not image.isfinite().all():
        raise ImageError("expected finite numbers, got an image with NaN or infinity: mend it")
    lowest, highest = image.min().item(), image.max().item()
    if lowest < -1.5 or highest > 2.5:  # noise may well leave [0, 1]
        raise ImageError(
            f"expected floats in [0, 1], up to noise, got [{lowest:.3g}, {highest:.3g}]: divide by "
            "255, or pass uint8"
        )
    return 1.0
