"""Patches of a folder of photographs, to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
POSES = 8  # of a square: four turns, mirrored or not


class Patches(Dataset[Tensor]):
    """Square patches `(channels, size, size)` in [0, 1] of all images under `folders`.

    Item i is always the same: positions lie `stride` apart, each patch comes in all eight poses,
    and which come when is the training's own random order. Images are held as bytes. Raises
    `ValueError` for channels other than 1 and 3, `FileNotFoundError` where no image is large
    enough.
    """

    def __init__(
        self, folders: str | list[str], channels: int = 1, size: int = 64, stride: int = 16
    ):
        if channels not in (1, 3) or size < 1 or stride < 1:
            raise ValueError(
                f"expected 1 or 3 channels, size and stride >= 1, got {channels=}, {size=}, "
                f"{stride=}"
            )
        self.size, self.stride = size, stride
        folders = [folders] if isinstance(folders, str) else folders
        self.images = [
            image
            for folder in folders
            for path in sorted(Path(folder).rglob("*"))
            if path.suffix.lower() in SUFFIXES
            and min((image := _read(path, channels)).shape[:2]) >= size
        ]
        if not self.images:
            raise FileNotFoundError(
                f"expected images of at least {size}x{size} pixels ({', '.join(sorted(SUFFIXES))}) "
                f"under {', '.join(map(str, folders))}, found none"
            )
        self.grids = [
            tuple((n - size) // stride + 1 for n in image.shape[:2]) for image in self.images
        ]
        self.ends = np.cumsum([rows * columns for rows, columns in self.grids])

    def __len__(self) -> int:
        return POSES * int(self.ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        place, pose = divmod(index, POSES)
        which = int(np.searchsorted(self.ends, place, side="right"))
        first = int(self.ends[which - 1]) if which else 0
        row, column = (self.stride * i for i in divmod(place - first, self.grids[which][1]))
        patch = self.images[which][row : row + self.size, column : column + self.size]
        patch = np.rot90(patch if pose < 4 else patch[:, ::-1], pose % 4)
        return torch.from_numpy(patch.copy()).movedim(-1, 0).float().div_(255)


def _read(path: Path, channels: int) -> np.ndarray:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)
