"""The denoisers that `denoising.py` compares, and the noise that it adds.

The rivals are told the true sigma. Their settings are the best for BSD400's images: total variation
of weight .9 sigma, non-local means of patches of 5 within 6 pixels and h = .6 sigma.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.restoration import (
    cycle_spin,
    denoise_nl_means,
    denoise_tv_chambolle,
    denoise_wavelet,
    estimate_sigma,
)

from ebrl import vision

Denoiser = Callable[[np.ndarray, float], np.ndarray]


# ---- the methods: (noisy image in [0, 1], sigma in its units) -> image ---------------------------


def noisy(y: np.ndarray, sigma: float) -> np.ndarray:
    return y


def total_variation(y: np.ndarray, sigma: float) -> np.ndarray:
    return denoise_tv_chambolle(y, weight=0.9 * sigma, channel_axis=channel_axis(y))


def non_local_means(y: np.ndarray, sigma: float) -> np.ndarray:
    settings = {"patch_size": 5, "patch_distance": 6, "channel_axis": channel_axis(y)}
    return denoise_nl_means(y, h=0.6 * sigma, sigma=sigma, fast_mode=True, **settings)


def wavelets(y: np.ndarray, sigma: float) -> np.ndarray:
    axis = channel_axis(y)
    options = {"rescale_sigma": True, "sigma": sigma, "channel_axis": axis}
    return cycle_spin(y, max_shifts=3, func=denoise_wavelet, func_kw=options, channel_axis=axis)


def bm3d(y: np.ndarray, sigma: float) -> np.ndarray:
    from bm3d import bm3d as peer
    from bm3d import bm3d_rgb

    return (bm3d_rgb if y.ndim == 3 else peer)(y, sigma)


def ours(y: np.ndarray, sigma: float) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of doubt
        return vision.denoise(y.astype(np.float32), sigma)


def ours_symmetric(y: np.ndarray, sigma: float) -> np.ndarray:
    prior = vision.pretrained("color" if y.ndim == 3 else "gray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of doubt
        return vision.denoise(y.astype(np.float32), sigma, prior=vision.Symmetric(prior))


def ours_camera(y: np.ndarray, sigma: float) -> np.ndarray:
    prior = vision.pretrained("color-camera" if y.ndim == 3 else "gray-camera")
    return vision.denoise(y.astype(np.float32), sigma, prior=prior)


def ours_blind(y: np.ndarray, sigma: float) -> np.ndarray:
    return vision.denoise(y.astype(np.float32))


METHODS: dict[str, Denoiser] = {
    "noisy": noisy,
    "total variation": total_variation,
    "non-local means": non_local_means,
    "wavelets": wavelets,
    **({"BM3D": bm3d} if find_spec("bm3d") else {}),
    "ebrl": ours,
    "ebrl, 8 symmetries": ours_symmetric,
}
SLOW = {"BM3D"}  # not on all of BSD68


# ---- the noise: (image, random state) -> (noisy image, the sigma that methods are told) ----------


def white(sigma: float) -> Callable[[np.ndarray, np.random.RandomState], tuple[np.ndarray, Any]]:
    def add(x: np.ndarray, random: np.random.RandomState) -> tuple[np.ndarray, Any]:
        return x + sigma / 255 * random.randn(*x.shape), sigma / 255

    return add


def poisson_gaussian(x: np.ndarray, random: np.random.RandomState) -> tuple[np.ndarray, Any]:
    """Of variance `.01 x + (5/255)²`: photons and a reading noise. Told: the standard deviation."""
    y = random.poisson(x / 0.01) * 0.01 + 5 / 255 * random.randn(*x.shape)
    return y, np.sqrt(0.01 * np.clip(y, 0, 1) + (5 / 255) ** 2)


def correlated(x: np.ndarray, random: np.random.RandomState) -> tuple[np.ndarray, Any]:
    """White noise blurred by a Gaussian of .7 pixels, as demosaicking leaves it, to sigma 25."""
    widths = (0.7, 0.7, 0)[: x.ndim]  # channels have noise of their own
    blurred = gaussian_filter(random.randn(*x.shape), widths, mode="wrap")
    return x + 25 / 255 * blurred / blurred.std(), 25 / 255


def compressed(x: np.ndarray, random: np.random.RandomState) -> tuple[np.ndarray, Any]:
    """White noise of sigma 15, clipped and kept as a JPEG of quality 80. Told: the estimate."""
    y = np.clip(x + 15 / 255 * random.randn(*x.shape), 0, 1)
    file = io.BytesIO()
    Image.fromarray((255 * y).round().astype(np.uint8)).save(file, "JPEG", quality=80)
    y = np.asarray(Image.open(file), dtype=np.float64) / 255
    return y, float(estimate_sigma(y))


def channel_axis(y: np.ndarray) -> int | None:
    return -1 if y.ndim == 3 else None
