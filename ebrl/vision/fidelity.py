"""How close an image is to the clean one."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from ebrl.vision.photograph import ImageError

WINDOW = 7  # pixels a side of structural similarity's window, scikit-image's own


class Fidelity(NamedTuple):
    """Scikit-image's figures at data range 1."""

    psnr: float  # dB; infinite for equal images
    ssim: float | None  # None for images smaller than its window


def fidelity(pixels: Tensor, reference: Tensor) -> Fidelity:
    """Return PSNR and SSIM of pixels in [0, 1] against clean ones, means over pages.

    Args:
        pixels: `(*pages, channels, height, width)`.
        reference: The clean ones, likewise.

    Raises:
        ImageError: For different shapes.
    """
    if pixels.shape != reference.shape:
        raise ImageError(
            "expected a reference of the image's own channels, height and width, "
            f"{tuple(pixels.shape)}, got {tuple(reference.shape)}"
        )
    shape = (-1, *pixels.shape[-3:])
    pages = zip(pixels.reshape(shape), reference.reshape(shape), strict=True)
    figures = [_page_fidelity(ours.cpu().numpy(), clean.cpu().numpy()) for ours, clean in pages]
    psnr, ssim = (list(each) for each in zip(*figures, strict=True))
    return Fidelity(float(np.mean(psnr)), None if None in ssim else float(np.mean(ssim)))


def _page_fidelity(ours: np.ndarray, clean: np.ndarray) -> Fidelity:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the infinite PSNR of equal images
        psnr = float(peak_signal_noise_ratio(clean, ours, data_range=1))
    if min(ours.shape[-2:]) < WINDOW:
        return Fidelity(psnr, None)
    ssim = structural_similarity(clean, ours, data_range=1, channel_axis=0, win_size=WINDOW)
    return Fidelity(psnr, float(ssim))
