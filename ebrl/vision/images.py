"""Images of many types, to tensors in [0, 1] and back: the same type, size and range.

Files, photographs of `load`, PIL images, NumPy arrays `(height, width[, channels])` and tensors
`(*batch, channels, height, width)`; grey or colour, with or without transparency; 8 or 16 bits,
floats in [0, 1], or numbers in a range that the caller states.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebrl.vision.files import load
from ebrl.vision.photograph import ImageError, Photograph, of_pil, to_pil

Range = tuple[float, float]  # the values of black and white
BITS = (8, 10, 12, 14)  # of sensors whose numbers are stored in 16
FAR = (-1.5, 2.5)  # floats beyond are in another range, whatever their noise


class Picture(NamedTuple):
    """An image to compute with, and the way back to its own type."""

    pixels: Tensor  # (*batch, channels, height, width), floats in [0, 1], 1 or 3 channels
    white: float  # the distance from black to white in the image's own units
    back: Callable[[Tensor], Any]  # pixels like those -> an image like the one that came in
    # Numbers of those pixels -> the same in its shape without transparency: a tensor or an array.
    arranged: Callable[[Tensor], Any]


def picture(image: Any, data_range: Range | None = None) -> Picture:
    """Return the picture of a path, a photograph, a PIL image, an array or a tensor.

    Args:
        image: The image. The two channels of an array or tensor are two grey images; those of a
            photograph or a PIL image are grey and transparency.
        data_range: The values of black and white; as in `denoise`.

    Raises:
        ImageError: For something that is no image: unreadable, empty, with 1 bit, NaN, or of
            integers for which no range is stated.
        FileNotFoundError: For a missing file.
    """
    if isinstance(image, str | Path):
        image = opened(image)
    if isinstance(image, Image.Image):
        return _of_pil(image, data_range)
    if isinstance(image, Photograph):
        return _of_photograph(image, data_range)
    if isinstance(image, np.ndarray):
        return _of_array(image, data_range)
    if isinstance(image, Tensor):
        return _of_tensor(image, data_range)
    raise ImageError(
        "expected a path, a PIL image, a NumPy array or a tensor, got "
        f"{type(image).__module__}.{type(image).__name__}"
    )


def opened(path: str | Path) -> Image.Image:
    """Return the whole image of a file, upright; errors are those of `load`."""
    return to_pil(load(path))


def _of_pil(image: Image.Image, data_range: Range | None) -> Picture:
    inner = _of_photograph(of_pil(image), data_range)

    def arranged(numbers: Tensor) -> np.ndarray:
        plain = inner.arranged(numbers)
        return plain[..., 0] if plain.shape[-1] == 1 else plain

    return inner._replace(back=lambda pixels: to_pil(inner.back(pixels)), arranged=arranged)


def _of_photograph(photograph: Photograph, data_range: Range | None) -> Picture:
    planes = _tensor(photograph.pixels).movedim(-1, -3)
    if data_range is None and photograph.about.bits:
        data_range = 0.0, 2.0**photograph.about.bits - 1
    inner = _of_planes(planes, data_range)

    def back(pixels: Tensor) -> Photograph:
        result = inner.back(pixels).cpu().movedim(-3, -1).contiguous().numpy()
        return photograph._replace(pixels=result.astype(photograph.pixels.dtype, copy=False))

    return inner._replace(
        back=back, arranged=lambda numbers: np.moveaxis(numbers.cpu().numpy(), -3, -1)
    )


def _of_array(image: np.ndarray, data_range: Range | None) -> Picture:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)):
        raise ImageError(
            "expected an array (height, width) or (height, width, 1 to 4 channels), got shape "
            f"{image.shape}"
        )
    planes = image if image.ndim == 3 else image[..., None]
    inner = _of_tensor(_tensor(planes).movedim(-1, 0), data_range)

    def back(pixels: Tensor) -> np.ndarray:
        result = inner.back(pixels).cpu().movedim(0, -1).contiguous().numpy()
        return result.astype(image.dtype, copy=False).reshape(image.shape)

    def arranged(numbers: Tensor) -> np.ndarray:
        plain = np.moveaxis(inner.arranged(numbers).cpu().numpy(), 0, -1)
        return plain if image.ndim == 3 else plain[..., 0]

    return inner._replace(back=back, arranged=arranged)


def _tensor(image: np.ndarray) -> Tensor:
    try:
        # A copy in the machine's byte order, for torch.
        return torch.from_numpy(np.array(image, image.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise ImageError(
            f"expected uint8, uint16 or floats in [0, 1], got {image.dtype}: convert it"
        ) from error


def _of_tensor(image: Tensor, data_range: Range | None) -> Picture:
    if image.ndim == 2:
        inner = _of_tensor(image.unsqueeze(0), data_range)
        return inner._replace(
            back=lambda pixels: inner.back(pixels)[0],
            arranged=lambda numbers: inner.arranged(numbers)[0],
        )
    if image.ndim < 3 or image.shape[-3] not in (1, 2, 3, 4) or 0 in image.shape:
        raise ImageError(
            "expected a tensor (*batch, 1 to 4 channels, height, width) that is not empty, got "
            f"shape {tuple(image.shape)}"
        )
    if image.shape[-3] == 2:
        inner = _of_planes(image.unsqueeze(-3), data_range)
        return inner._replace(
            back=lambda pixels: inner.back(pixels).squeeze(-3),
            arranged=lambda numbers: numbers.squeeze(-3),
        )
    return _of_planes(image, data_range)


def _of_planes(image: Tensor, data_range: Range | None) -> Picture:
    """Return the picture of `(*batch, channels, h, w)`: grey or colour, perhaps with alpha."""
    if 0 in image.shape:
        raise ImageError(f"expected an image that is not empty, got shape {tuple(image.shape)}")
    image = image.detach()
    channels = 3 if image.shape[-3] >= 3 else 1
    values, alpha = image[..., :channels, :, :], image[..., channels:, :, :]
    black, white = _range(values) if data_range is None else _stated(values, data_range)
    pixels = values.to(torch.get_default_dtype(), copy=True).sub_(black).div_(white - black)

    def back(pixels: Tensor) -> Tensor:
        if image.is_floating_point():
            levels = pixels.clamp(0, 1).mul_(white - black).add_(black)
        else:
            ends = torch.iinfo(image.dtype)
            levels = pixels.clamp(0, 1)
            levels = levels.double() if white - black > 2**24 else levels
            levels = levels.mul_(white - black).add_(black).round_().clamp_(ends.min, ends.max)
        return torch.cat([levels.to(image.device, image.dtype), alpha], -3)

    return Picture(pixels, white - black, back, arranged=lambda numbers: numbers)


def _stated(values: Tensor, data_range: Range) -> Range:
    pair = np.asarray(data_range, dtype=float)
    if pair.shape != (2,) or not np.isfinite(pair).all() or not pair[0] < pair[1]:
        raise ImageError(
            "expected data_range (black, white), two numbers with black < white, such as (0, 255), "
            f"got {data_range}"
        )
    if values.is_complex() or values.dtype == torch.bool:
        raise ImageError(f"expected integers or floats, got {values.dtype}: convert it")
    if not values.isfinite().all():
        raise ImageError("expected finite numbers, got an image with NaN or infinity: mend it")
    return float(pair[0]), float(pair[1])


def _range(values: Tensor) -> Range:
    """Return black and white of a dtype, after a look at the values."""
    if values.dtype == torch.uint8:
        return 0.0, 255.0
    if values.dtype == torch.uint16:
        largest = int(values.to(torch.int32).max())
        bits = next((bits for bits in BITS if largest < 2**bits), 16)
        return 0.0, 2.0**bits - 1
    if not values.is_floating_point():
        if values.dtype == torch.bool:
            raise ImageError("1-bit images hold too little to be worked on: convert it to 8 bits")
        raise ImageError(
            f"expected uint8, uint16 or floats in [0, 1], got {values.dtype}: state the values of "
            "black and white, data_range=(black, white)"
        )
    if not values.isfinite().all():
        raise ImageError("expected finite numbers, got an image with NaN or infinity: mend it")
    lowest, highest = values.min().item(), values.max().item()
    if lowest < FAR[0] or highest > FAR[1]:
        raise ImageError(
            f"expected floats in [0, 1], up to noise, got [{lowest:.3g}, {highest:.3g}]: divide by "
            "255, or pass data_range=(black, white)"
        )
    return 0.0, 1.0
