"""Photographs in files, and a prior of which everything is known in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from ebrl import Energy
from ebrl.energies import align_left, over_event


class GaussianImages(Energy):
    """Images of independent pixels of mean 1/2 and the given deviation."""

    event_ndim = 3
    takes_condition = True

    def __init__(self, deviation: float = 0.2, sigma: Tensor | None = None):
        super().__init__()
        self.deviation, self.sigma = deviation, sigma
        self.levels = (0.0, 60 / 255)

    def given(self, condition: Tensor) -> GaussianImages:
        return GaussianImages(self.deviation, condition)

    def in_bfloat16(self) -> GaussianImages:
        return self

    def forward(self, x: Tensor) -> Tensor:
        assert self.sigma is not None
        sigma = self.sigma
        if sigma.ndim < 3:
            sigma = over_event(align_left(sigma, x.ndim - 3), 3)
        return ((x - 0.5) ** 2 / (2 * (self.deviation**2 + sigma**2))).sum((-3, -2, -1))

    def denoised(self, y: Tensor, sigma: float) -> Tensor:
        """Return the mean of the clean image: Wiener's filter."""
        return y + sigma**2 / (sigma**2 + self.deviation**2) * (0.5 - y)


def colour(height: int = 40, width: int = 56) -> np.ndarray:
    return skimage.data.astronaut()[:height, 180 : 180 + width]


def grey(height: int = 40, width: int = 56) -> np.ndarray:
    return skimage.data.camera()[100 : 100 + height, 180 : 180 + width]


def noisy(image: np.ndarray, sigma: float = 25, seed: int = 0) -> np.ndarray:
    """Return the uint8 image with noise, in 8 bits."""
    noise = sigma * np.random.RandomState(seed).randn(*image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def names(folder: str | Path = ".") -> set[str]:
    """Return the paths of all files in a folder."""
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def wiener(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return what `GaussianImages` makes of a uint8 image with noise of `sigma` of 255."""
    clean = GaussianImages().denoised(torch.from_numpy(image.copy()) / 255, sigma / 255)
    return (clean * 255).clamp(0, 255).round().byte().numpy()
