"""How close an image is to the clean one."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from ebrl.vision.photograph import ImageError

WINDOW = 7  # pixels a side of structural similarity's window, scikit-image's own


class Fidelity(NamedTuple):
    """Scikit-image's figures at data range 1."""

    psnr: float  # dB; infinite for equal images
    ssim: float | None  # of images that hold its window


def fidelity(pixels: Tensor, reference: Tensor) -> Fidelity:
    """Return PSNR and SSIM of pixels in [0, 1], `(channels, height, width)`, against clean ones.

    Raises:
        ImageError: For different shapes.
    """
    if pixels.shape != reference.shape:
        raise ImageError(
            "expected a reference of the image's own channels, height and width, "
            f"{tuple(pixels.shape)}, got {tuple(reference.shape)}"
        )
    ours, clean = pixels.cpu().numpy(), reference.cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the infinite PSNR of equal images
        psnr = float(peak_signal_noise_ratio(clean, ours, data_range=1))
    if min(pixels.shape[-2:]) < WINDOW:
        return Fidelity(psnr, None)
    ssim = structural_similarity(clean, ours, data_range=1, channel_axis=0, win_size=WINDOW)
    return Fidelity(psnr, float(ssim))
