"""Restoration with the shipped grey energy beside scikit-image's methods, at their best settings.

    EBRL_DATA=… python benchmarks/restoration.py --out benchmarks/results/restoration

Every 12th image of BSD68. Deblurring: three kernels, noise 7.65/255, joined borders.
Super-resolution: every 2nd or 3rd pixel of an image blurred by a Gaussian of .4 times the factor, no
noise. Inpainting: 80 % of the pixels missing. PSNR over the whole image, means over images. Wiener's balance and
Richardson-Lucy's iterations are those that are best for the clean image, which no user has.

The last table is of posterior samples: how many of the pixels' true values lie in the interval
between the 5 % and 95 % points of their normal approximation, and its deviation against the error.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import inpaint_biharmonic, richardson_lucy, wiener
from torch import Tensor

from ebrl.energies import Energy
from ebrl.vision import pretrained
from ebrl.vision.observations import (
    Blurred,
    Direct,
    Downsampled,
    Masked,
    Observation,
    gaussian_kernel,
)
from ebrl.vision.restoration import posterior, restore

NOISE = 7.65 / 255
EXACT = 1e-3  # the deviation that measurements without noise are given
Scores = dict[str, dict[str, list[float]]]


def motion_kernel(length: int = 9) -> Tensor:
    """A camera that moves along a diagonal."""
    kernel = torch.eye(length) + 0.5 * torch.eye(length).roll(1, 1).triu()
    return kernel / kernel.sum()


KERNELS = {
    "Gaussian, 1.6": gaussian_kernel(1.6),
    "motion, 9": motion_kernel(),
    "box, 5": torch.full((5, 5), 0.04),
}


def images(every: int) -> list[Tensor]:
    folder = Path(os.environ.get("EBRL_DATA", "")) / "bsd68_gray"
    if not folder.is_dir():
        raise SystemExit("set EBRL_DATA to a folder with bsd68_gray")
    loaded = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*"))[::every]]
    even = [pixels[: len(pixels) // 6 * 6, : pixels.shape[1] // 6 * 6] for pixels in loaded]
    return [torch.from_numpy(pixels.copy()).float().div(255).unsqueeze(0) for pixels in even]


def psnr(clean: Tensor, found: Tensor | np.ndarray) -> float:
    pixels = np.clip(np.asarray(found, dtype=float).reshape(clean.shape), 0, 1)
    return float(peak_signal_noise_ratio(clean.double().numpy(), pixels, data_range=1))


def best(clean: Tensor, method: Callable[[float], np.ndarray], settings: list[float]) -> float:
    return max(psnr(clean, method(setting)) for setting in settings)


def deblurring(clean: Tensor, kernel: Tensor, prior: Energy) -> dict[str, float]:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    y = Blurred(clean, kernel, NOISE).operator(clean) + NOISE * noise
    observation, blurred, psf = Blurred(y, kernel, NOISE), y[0].numpy(), kernel.numpy()
    balances, iterations = [0.01, 0.03, 0.1, 0.3, 1.0], [5, 10, 20, 40]
    return {
        "as measured": psnr(clean, y),
        "Richardson-Lucy": best(
            clean, lambda n: richardson_lucy(blurred.clip(0.01, 1), psf, int(n)), iterations
        ),
        "Wiener": best(clean, lambda b: wiener(blurred, psf, b), balances),
        "ebrl": psnr(clean, restore(observation, prior)),
    }


def super_resolution(clean: Tensor, factor: int, prior: Energy) -> dict[str, float]:
    shape = [clean.shape[-2] // factor, clean.shape[-1] // factor]
    y = Downsampled(torch.zeros(1, *shape), factor).operator(clean)
    observation = Downsampled(y, factor, deviation=EXACT)
    return {
        "bicubic": psnr(clean, observation.start()),
        "ebrl": psnr(clean, restore(observation, prior)),
    }


def inpainting(clean: Tensor, prior: Energy) -> dict[str, float]:
    known = torch.rand(clean.shape[-2:], generator=torch.Generator().manual_seed(0)) < 0.2
    observation = Masked(clean, known, EXACT)
    peer = inpaint_biharmonic(observation.y[0].numpy(), ~known.numpy())
    return {
        "mean around": psnr(clean, observation.start()),
        "biharmonic": psnr(clean, peer),
        "ebrl": psnr(clean, restore(observation, prior)),
    }


def coverage(clean: Tensor, observation: Observation, prior: Energy) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    found = posterior(observation, prior, generator=generator, samples=12)
    off = (found.mean - clean).abs()
    inside = off < 1.645 * found.deviation * (1 + 1 / 12) ** 0.5
    return {
        "90 % interval holds": inside.float().mean().item(),
        "mean deviation": found.deviation.square().mean().sqrt().item(),
        "root mean squared error": off.square().mean().sqrt().item(),
    }


def measure(prior: Energy, every: int) -> tuple[Scores, Scores]:
    tasks: dict[str, Callable[[Tensor], dict[str, float]]] = {
        **{
            f"deblurring, {name}": lambda x, kernel=kernel: deblurring(x, kernel, prior)
            for name, kernel in KERNELS.items()
        },
        "super-resolution, 2x": lambda x: super_resolution(x, 2, prior),
        "super-resolution, 3x": lambda x: super_resolution(x, 3, prior),
        "inpainting, 80 % missing": lambda x: inpainting(x, prior),
    }
    scores: Scores = {}
    loaded = images(every)
    for task, run in tasks.items():
        begun = time.process_time()
        rows = [run(clean) for clean in loaded]
        scores[task] = {name: [row[name] for row in rows] for name in rows[0]}
        means = ", ".join(f"{name} {fmean(row):.2f}" for name, row in scores[task].items())
        print(f"{task}: {means} ({time.process_time() - begun:.0f} s)", flush=True)
    crop = loaded[0][..., 60:156, 60:156]
    noise = torch.randn(crop.shape, generator=torch.Generator().manual_seed(1))
    known = torch.rand(crop.shape[-2:], generator=torch.Generator().manual_seed(0)) < 0.5
    observations = {
        "denoising, 25": Direct(crop + 25 / 255 * noise, 25 / 255),
        "inpainting, half missing, noise 5": Masked(crop + 5 / 255 * noise, known, 5 / 255),
    }
    intervals = {
        name: {key: [value] for key, value in coverage(crop, each, prior).items()}
        for name, each in observations.items()
    }
    return scores, intervals


def tables(scores: Scores, intervals: Scores) -> str:
    lines = ["| PSNR | as measured | scikit-image's best | ebrl |", "|---|---|---|---|"]
    for task, methods in scores.items():
        measured, *peers, ours = ((fmean(row), name) for name, row in methods.items())
        peer = "{:.2f} ({})".format(*max(peers)) if peers else f"{measured[0]:.2f} (bicubic)"
        first = f"{measured[0]:.2f}" if peers else ""
        lines.append(f"| {task} | {first} | {peer} | {ours[0]:.2f} |")
    names = list(next(iter(intervals.values())))
    lines += ["", f"| posterior | {' | '.join(names)} |", "|---|---|---|---|"]
    for task, row in intervals.items():
        lines.append(f"| {task} | {' | '.join(f'{row[name][0]:.3f}' for name in names)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="write OUT.md and OUT.json")
    parser.add_argument("--every", type=int, default=12, help="images of BSD68 between two")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scores, intervals = measure(pretrained("gray"), arguments.every)
    record = {"every": arguments.every, "scores": scores, "intervals": intervals}
    arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(tables(scores, intervals))
    print(tables(scores, intervals))


if __name__ == "__main__":
    main()
