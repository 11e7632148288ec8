"""Damages of a photograph, read from names and files: a blur, a scale, missing pixels."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebrl.vision.images import opened, picture
from ebrl.vision.observations import gaussian_kernel
from ebrl.vision.photograph import ImageError, Photograph
from ebrl.vision.tiff import DESCRIPTION

NAMED = ("gaussian", "box")
WIDEST = 100.0  # pixels, of a blur that is named


def kernel(name: str | Path) -> Tensor:
    """Return a kernel `(height, width)` of sum 1.

    Args:
        name: `gaussian:1.6` or `box:5`, in pixels, or the file of an image or of a `.npy` array.

    Raises:
        ImageError: For even sides, numbers that are not finite, or a sum that is not positive.
        FileNotFoundError: For a missing file.
    """
    shape, colon, size = str(name).partition(":")
    if colon and shape in NAMED:
        return _named(shape, size)
    if colon and (near := get_close_matches(shape, NAMED, n=1)):
        raise ImageError(f"there is no blur {name}: did you mean {near[0]}:{size}?")
    path = Path(name)
    if path.suffix == ".npy":
        values = torch.from_numpy(_array(path))
    else:
        values = picture(opened(path)).pixels.mean(0)
    if values.ndim != 2 or 0 in values.shape or not all(side % 2 for side in values.shape):
        raise ImageError(
            f"expected a kernel (height, width) of odd sides, so that it has a middle, got "
            f"{tuple(values.shape)} in {path}"
        )
    if not values.isfinite().all() or not values.sum() > 0:
        raise ImageError(f"expected finite numbers of a positive sum in the kernel {path}")
    return (values / values.sum()).to(torch.get_default_dtype())


def known(path: str | Path) -> Tensor:
    """Return a mask `(height, width)`, true where the image is not white: these pixels are known.

    Raises:
        ImageError: For an image without white, or nothing else.
        FileNotFoundError: For a missing file.
    """
    image = opened(path)
    if image.mode in ("1", "P", "PA"):
        image = image.convert("L")
    mask = picture(image).pixels.mean(0) <= 0.5
    if mask.all() or not mask.any():
        what = "nothing" if mask.all() else "everything"
        raise ImageError(
            f"expected white where pixels are missing, else black: in {path} {what} is white"
        )
    return mask


def enlarged(photograph: Photograph, factor: int) -> Photograph:
    """Return a photograph with `factor` times its sides, by bicubic interpolation."""
    pixels = photograph.pixels
    height, width, channels = pixels.shape[-3:]
    sides = (factor * width, factor * height)
    planes = np.moveaxis(pixels, -1, -3).reshape(-1, height, width).astype(np.float32)
    bicubic = Image.Resampling.BICUBIC
    large = [np.asarray(Image.fromarray(plane).resize(sides, bicubic)) for plane in planes]
    result = np.stack(large).reshape(*pixels.shape[:-3], channels, *sides[::-1])
    if pixels.dtype.kind == "u":
        result = result.round().clip(0, np.iinfo(pixels.dtype).max)
    tags = tuple(tag for tag in photograph.about.tags if not _tells_shape(*tag))
    about = photograph.about._replace(tags=tags)
    return Photograph(np.moveaxis(result, -3, -1).astype(pixels.dtype), about)


def _tells_shape(code: int, value: Any) -> bool:
    """Whether a TIFF's tag is a description with the sides of its image: tifffile's or OME's."""
    return code == DESCRIPTION and (value.startswith(b'{"shape"') or b"<OME" in value)


def _named(shape: str, size: str) -> Tensor:
    try:
        width = float(size)
    except ValueError:
        width = float("nan")
    if not 0 < width <= WIDEST or (shape == "box" and width % 2 != 1):
        expected = "an odd number of pixels" if shape == "box" else "a deviation in pixels"
        raise ImageError(f"expected {shape}:N with {expected} up to {WIDEST:g}, got {shape}:{size}")
    if shape == "gaussian":
        return gaussian_kernel(width)
    side = int(width)
    return torch.full((side, side), 1 / side**2)


def _array(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no kernel {path}") from error
    except (OSError, ValueError, EOFError) as error:
        raise ImageError(f"{path} is no array that NumPy reads ({error})") from error
    if values.dtype.kind not in "fiu":
        raise ImageError(f"expected numbers in the kernel {path}, got {values.dtype}")
    return values.astype(np.float64)
