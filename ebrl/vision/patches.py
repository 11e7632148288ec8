"""Patches of a folder of photographs, to learn from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.utils.data import Dataset

from ebrl.data_folder import find
from ebrl.vision.drawings import drawings
from ebrl.vision.files import SUFFIXES, load
from ebrl.vision.grids import in_eight_bits
from ebrl.vision.photograph import to_pil

PACKAGED = ("astronaut", "camera", "coffee", "chelsea", "rocket")  # with scikit-image itself
POSES = 8  # of a square: four turns, mirrored or not
ADVICE = (
    "bsds500_color is the Berkeley Segmentation Dataset (folders train and test of BSDS500); any "
    "folder of photographs does"
)


class Patches(Dataset[Tensor]):
    """Square patches `(channels, size, size)` in [0, 1] of the images in some folders.

    Item i is always the same patch; the training chooses the order. Every
    patch comes in eight poses: four turns, mirrored or not. Images are held as bytes.

    Args:
        folders: As in `photographs`.
        channels: 1 for grey, 3 for colour.
        size: Pixels a side of a patch.
        stride: Distance between patches, in pixels of a whole photograph.
        leave_out: Number of images of each folder, the last by name, that are kept for tests.
        scales: Scales of the copies that patches are cut from; 1 is the photograph itself. About as
            many patches come from each. The colours of most JPEGs have half the resolution of their
            brightness, but not those of a smaller copy.
        saturations: Saturations of the copies, likewise: 0 is grey, 1 is unchanged, and above 1 the
            colours are stronger.

    Raises:
        ValueError: For channels other than 1 and 3, sizes below 1, scales outside (0, 1], and
            saturations below 0.
        FileNotFoundError: For a folder without images, and where no image is large enough.
    """

    def __init__(
        self,
        folders: str | list[str],
        channels: int = 1,
        size: int = 64,
        stride: int = 16,
        leave_out: int = 0,
        scales: Sequence[float] = (1.0,),
        saturations: Sequence[float] = (1.0,),
    ):
        if channels not in (1, 3) or size < 1 or stride < 1 or leave_out < 0:
            raise ValueError(
                f"expected 1 or 3 channels, size and stride >= 1, leave_out >= 0, got {channels=}, "
                f"{size=}, {stride=}, {leave_out=}"
            )
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"expected scales in (0, 1], got {list(scales)}")
        if not saturations or not all(0 <= each < math.inf for each in saturations):
            raise ValueError(f"expected saturations >= 0, got {list(saturations)}")
        if channels == 1 and set(saturations) != {1}:
            raise ValueError(f"expected saturations for colour alone, got {list(saturations)}")
        self.size = size
        folders = [folders] if isinstance(folders, str) else folders
        images = [
            (_copy(image, scale, saturation), max(round(stride * scale), 1))
            for folder in folders
            for image in list(photographs(folder, channels))[: -leave_out or None]
            for scale, saturation in product(scales, saturations)
        ]
        usable = [pair for pair in images if min(pair[0].shape[:2]) >= size]
        if not usable:
            cure = "of each folder: leave_out=0 takes all (--data.leave_out 0)"
            left = f", with {leave_out=} {cure}" if leave_out else ""
            raise FileNotFoundError(
                f"expected images of at least {size}x{size} pixels in {', '.join(folders)}, got "
                f"{len(images)} smaller ones{left}"
            )
        self.images, self.strides = zip(*usable, strict=True)
        self.grids = [
            tuple((n - size) // stride + 1 for n in image.shape[:2]) for image, stride in usable
        ]
        self.ends = np.cumsum([rows * columns for rows, columns in self.grids])

    def __len__(self) -> int:
        return POSES * int(self.ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        place, pose = divmod(range(len(self))[index], POSES)
        which = int(np.searchsorted(self.ends, place, side="right"))
        first = int(self.ends[which - 1]) if which else 0
        at = divmod(place - first, self.grids[which][1])
        row, column = (self.strides[which] * i for i in at)
        patch = self.images[which][row : row + self.size, column : column + self.size]
        patch = np.rot90(patch if pose < 4 else patch[:, ::-1], pose % 4)
        return torch.from_numpy(patch.copy()).movedim(-1, 0).float().div_(255)


def photographs(folder: str, channels: int) -> Iterator[np.ndarray]:
    """Yield the images `(height, width, channels)` under a folder, as bytes, in the order of names.

    Args:
        folder: Looked for here and under the environment variable EBRL_DATA. "skimage" stands for
            the photographs that come with scikit-image, "drawings" for `ebrl.vision.drawings`.
        channels: 1 or 3.

    Raises:
        FileNotFoundError: For a folder that does not exist or holds no images.
    """
    if folder == "drawings":
        pictures: Iterable[Image.Image] = drawings()
    elif folder == "skimage":
        arrays = (getattr(skimage.data, name)() for name in PACKAGED)
        pictures = map(Image.fromarray, arrays)
    else:
        files = sorted(find(folder, ADVICE, kind="folder").rglob("*"))
        paths = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not paths:
            known = ", ".join(sorted(SUFFIXES))
            raise FileNotFoundError(f"expected images ({known}) in {folder}, found none")
        pictures = map(_eight_bits, paths)
    for picture in pictures:
        pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
        yield pixels.reshape(*pixels.shape[:2], channels)


def _copy(image: np.ndarray, scale: float, saturation: float) -> np.ndarray:
    """Return an image `(height, width, channels)` of bytes, made smaller, with stronger colours."""
    if scale == saturation == 1:
        return image
    height, width = (max(round(scale * n), 1) for n in image.shape[:2])
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if saturation != 1:
        picture = ImageEnhance.Color(picture).enhance(saturation)
    return np.asarray(picture).reshape(height, width, -1)


def _eight_bits(path: Path) -> Image.Image:
    """Return the image of a file, of 16 bits or floats by their range."""
    photograph = load(path)
    whole = photograph.pixels.dtype == np.uint8 and photograph.pixels.ndim == 3
    return to_pil(photograph if whole else in_eight_bits(photograph))
