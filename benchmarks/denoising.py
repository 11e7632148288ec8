"""Denoising: the shipped energies beside total variation, non-local means, wavelets and BM3D.

    EBRL_DATA=… python benchmarks/denoising.py --out benchmarks/results/denoising

Four tables: BSD68 (grey) at sigma 15, 25 and 50; five photographs of scikit-image, grey and colour;
the level of the noise unknown; noise that is not white. Images in [0, 1], noise of sigma/255 from
`numpy.random.RandomState(0)` drawn afresh for each image, not clipped; the result clipped; PSNR and
SSIM over the whole image, means over images. BM3D takes 13 s an image: it sees every `--every`th
image of BSD68, and so does ours once more, in the columns beside it. Every figure lands in OUT.json
as soon as it is known; what is there is not computed again.

The rivals are told the true sigma. Their settings are the best for BSD400's images: total variation
of weight .9 sigma, non-local means of patches of 5 within 6 pixels and h = .6 sigma.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.restoration import (
    cycle_spin,
    denoise_nl_means,
    denoise_tv_chambolle,
    denoise_wavelet,
    estimate_sigma,
)

from ebrl import vision
from ebrl.vision.files import save
from ebrl.vision.grids import side_by_side
from ebrl.vision.photograph import Photograph

PHOTOGRAPHS = ("camera", "astronaut", "coffee", "chelsea", "rocket")
SIGMAS = (15, 25, 50)
Denoiser = Callable[[np.ndarray, float], np.ndarray]
Images = list[np.ndarray]


# ---- the methods: (noisy image in [0, 1], sigma in its units) -> image ---------------------------


def noisy(y: np.ndarray, sigma: float) -> np.ndarray:
    return y


def total_variation(y: np.ndarray, sigma: float) -> np.ndarray:
    return denoise_tv_chambolle(y, weight=0.9 * sigma, channel_axis=_channel_axis(y))


def non_local_means(y: np.ndarray, sigma: float) -> np.ndarray:
    settings = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    return denoise_nl_means(
        y, h=0.6 * sigma, sigma=sigma, channel_axis=_channel_axis(y), **settings
    )


def wavelets(y: np.ndarray, sigma: float) -> np.ndarray:
    options = {"rescale_sigma": True, "sigma": sigma, "channel_axis": _channel_axis(y)}
    axis = _channel_axis(y)
    return cycle_spin(y, max_shifts=3, func=denoise_wavelet, func_kw=options, channel_axis=axis)


def bm3d(y: np.ndarray, sigma: float) -> np.ndarray:
    from bm3d import bm3d as peer
    from bm3d import bm3d_rgb

    return (bm3d_rgb if y.ndim == 3 else peer)(y, sigma)


def ours(y: np.ndarray, sigma: float) -> np.ndarray:
    return vision.denoise(y.astype(np.float32), sigma)


def ours_camera(y: np.ndarray, sigma: float) -> np.ndarray:
    return vision.denoise(y.astype(np.float32), sigma, prior=vision.pretrained("gray-camera"))


def ours_blind(y: np.ndarray, sigma: float) -> np.ndarray:
    return vision.denoise(y.astype(np.float32))


QUICK: dict[str, Denoiser] = {
    "noisy": noisy,
    "total variation": total_variation,
    "non-local means": non_local_means,
    "wavelets": wavelets,
    "ebrl": ours,
}
SLOW: dict[str, Denoiser] = {"BM3D": bm3d} if find_spec("bm3d") else {}


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
    blurred = gaussian_filter(random.randn(*x.shape), 0.7, mode="wrap")
    return x + 25 / 255 * blurred / blurred.std(), 25 / 255


def compressed(x: np.ndarray, random: np.random.RandomState) -> tuple[np.ndarray, Any]:
    """White noise of sigma 15, clipped and kept as a JPEG of quality 80. Told: the estimate."""
    y = np.clip(x + 15 / 255 * random.randn(*x.shape), 0, 1)
    file = io.BytesIO()
    Image.fromarray((255 * y).round().astype(np.uint8)).save(file, "JPEG", quality=80)
    y = np.asarray(Image.open(file), dtype=np.float64) / 255
    return y, float(estimate_sigma(y))


# ---- what is measured ----------------------------------------------------------------------------


class Record:
    """Scores by table, method and noise, kept in a file: `[psnr, ssim, seconds]` an image."""

    def __init__(self, path: Path):
        self.path = path
        self.scores: dict[str, list[list[float]]] = {}
        self.facts: dict[str, Any] = {}
        if path.exists():
            stored = json.loads(path.read_text())
            self.scores, self.facts = stored["scores"], stored["facts"]

    def measure(self, key: str, method: Denoiser, images: Images, noise: Any) -> None:
        """Score a method on images that carry this noise, unless that is known."""
        if key in self.scores:
            return
        self.scores[key] = [_score(method, image, noise) for image in images]
        self.write()
        print(f"{key:60} {fmean(row[0] for row in self.scores[key]):.2f}", flush=True)

    def mean(self, key: str, column: int = 0, places: int = 2) -> str:
        if key not in self.scores:
            return ""
        return f"{fmean(row[column] for row in self.scores[key]):.{places}f}"

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {"columns": ["psnr", "ssim", "seconds"], "facts": self.facts}
        self.path.write_text(json.dumps({**record, "scores": self.scores}) + "\n")


def _score(method: Denoiser, clean: np.ndarray, noise: Any) -> list[float]:
    y, sigma = noise(clean, np.random.RandomState(0))
    begun = time.process_time()
    result = np.clip(method(y, sigma), 0, 1).astype(np.float64)
    seconds = time.process_time() - begun
    psnr = peak_signal_noise_ratio(clean, result, data_range=1)
    ssim = structural_similarity(clean, result, data_range=1, channel_axis=_channel_axis(clean))
    return [round(float(psnr), 4), round(float(ssim), 5), round(seconds, 3)]


def _channel_axis(y: np.ndarray) -> int | None:
    return -1 if y.ndim == 3 else None


def bsd68() -> Images:
    folder = Path(os.environ.get("EBRL_DATA", "")) / "bsd68_gray"
    if not folder.is_dir():
        print("EBRL_DATA names no folder with bsd68_gray: BSD68 is left out")
        return []
    return [np.asarray(Image.open(path), dtype=float) / 255 for path in sorted(folder.glob("*"))]


def photographs(mode: str) -> Images:
    loaded = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    return [
        np.asarray(image.convert(mode), dtype=float) / 255
        for image in loaded
        if mode == "L" or image.mode == "RGB"
    ]


def peak_memory() -> float:
    """Return what denoising a 481x321 image adds to a process, in MB."""
    code = (
        "import resource, numpy as np; from ebrl import vision\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "y = np.random.rand(321, 481); vision.denoise(y[:16, :16], .1); before = peak()\n"
        "vision.denoise(y, .1); print(peak() - before)"
    )
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run(record: Record, every: int) -> None:
    images = bsd68()
    few = images[::every]
    record.facts.update(every=every, few=len(few), images=len(images), torch=torch.__version__)
    record.facts.setdefault("peak_memory", round(peak_memory()))
    for name, method in QUICK.items():
        for sigma in SIGMAS if images else ():
            record.measure(f"BSD68/{name}/{sigma}", method, images, white(sigma))
        for sigma in SIGMAS:
            for mode in ("L", "RGB"):
                key = f"photographs {mode}/{name}/{sigma}"
                record.measure(key, method, photographs(mode), white(sigma))
    for name, method in SLOW.items():
        for sigma in SIGMAS:
            for mode in ("L", "RGB"):
                key = f"photographs {mode}/{name}/{sigma}"
                record.measure(key, method, photographs(mode), white(sigma))
    if images:
        for sigma in (25, 35, 50):
            record.measure(f"level/known/{sigma}", ours, images, white(sigma))
            record.measure(f"level/estimated/{sigma}", ours_blind, images, white(sigma))
    others = {"noisy": noisy, "non-local means": _flat(non_local_means), "ebrl": ours}
    others |= {name: _flat(method) for name, method in SLOW.items()}
    others |= {"ebrl, gray-camera": ours_camera}
    kinds = {"Poisson-Gaussian": poisson_gaussian, "correlated": correlated, "JPEG": compressed}
    for name, method in others.items():
        for kind, noise in kinds.items() if few else ():
            record.measure(f"other noise/{name}/{kind}", method, few[:6], noise)
    for name, method in {**SLOW, "ebrl": ours, "ebrl, gray-camera": ours_camera}.items():
        for sigma in SIGMAS if few else ():
            record.measure(f"few of BSD68/{name}/{sigma}", method, few, white(sigma))


def _flat(method: Denoiser) -> Denoiser:
    """Tell a method that takes one sigma the root mean square of a map of them."""
    return lambda y, sigma: method(y, float(np.sqrt(np.mean(np.square(sigma)))))


# ---- the tables ----------------------------------------------------------------------------------


def tables(record: Record) -> str:
    few = record.facts["few"]
    lines = [
        f"| PSNR (SSIM) | BSD68, 15 | 25 | 50 | {few} of BSD68, 15 | 25 | 50 | s an image |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in [*list(QUICK)[:-1], *SLOW, "ebrl", "ebrl, gray-camera"]:
        cells = [
            _cell(record, f"{table}/{name}/{sigma}")
            for table in ("BSD68", "few of BSD68")
            for sigma in SIGMAS
        ]
        timed = "BSD68" if name in QUICK else "few of BSD68"
        lines.append(f"| {name} | {' | '.join(cells)} | {record.mean(f'{timed}/{name}/25', 2)} |")
    lines += ["", f"Denoising 481x321 pixels adds {record.facts['peak_memory']} MB to a process."]
    lines += ["", "| photographs, PSNR | grey, 15 | 25 | 50 | colour, 15 | 25 | 50 |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in [*list(QUICK)[:-1], *SLOW, "ebrl"]:
        keys = [f"photographs {mode}/{name}/{sigma}" for mode in ("L", "RGB") for sigma in SIGMAS]
        lines.append(f"| {name} | {' | '.join(map(record.mean, keys))} |")
    lines += ["", "| BSD68, ebrl | sigma 25 | 35 | 50 |", "|---|---|---|---|"]
    for name in ("known", "estimated"):
        keys = [f"level/{name}/{sigma}" for sigma in (25, 35, 50)]
        lines.append(f"| sigma {name} | {' | '.join(map(record.mean, keys))} |")
    kinds = ("Poisson-Gaussian", "correlated", "JPEG")
    lines += ["", f"| other noise, PSNR on 6 images | {' | '.join(kinds)} |", "|---|---|---|---|"]
    for name in ["noisy", "non-local means", *SLOW, "ebrl", "ebrl, gray-camera"]:
        cells = [record.mean(f"other noise/{name}/{kind}") for kind in kinds]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(record: Record, key: str) -> str:
    return f"{record.mean(key)} ({record.mean(key, 1, 3)})" if key in record.scores else ""


def picture(path: Path, sigma: float = 25.0) -> None:
    """Draw parts of two photographs with noise, denoised, and as they are."""
    parts = []
    for clean in (skimage.data.chelsea()[20:270, 60:310], skimage.data.coffee()[60:310, 150:400]):
        noise = sigma * np.random.RandomState(0).randn(*clean.shape)
        noisy = (clean + noise).round().clip(0, 255).astype(np.uint8)
        parts += [noisy, vision.denoise(noisy, sigma), clean]
    rows = [side_by_side([Photograph(part) for part in parts[i : i + 3]]) for i in (0, 3)]
    save(Photograph(np.concatenate([row.pixels for row in rows])), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="write OUT.md and OUT.json")
    parser.add_argument("--every", type=int, default=6, help="images of BSD68 between BM3D's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = Record(arguments.out.with_suffix(".json"))
    run(record, arguments.every)
    record.write()
    arguments.out.with_suffix(".md").write_text(tables(record))
    picture(arguments.out.with_suffix(".png"))
    print(tables(record))


if __name__ == "__main__":
    main()
