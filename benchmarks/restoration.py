"""Restoration with the shipped grey energy beside scikit-image's methods, at their best settings.

    EBRL_DATA=… python benchmarks/restoration.py --out benchmarks/results/restoration

Every 12th image of BSD68, or the middle of each, and two photographs of scikit-image in OUT.png.
What OUT.json holds already is not computed again. Deblurring: three kernels, noise 7.65/255, joined
borders. Super-resolution: the means of blocks of 2x2 or 3x3 pixels, no noise; bicubic interpolation
is on the same grid. Inpainting: 80 % of the pixels missing. PSNR over the whole image, means over
images. Wiener's balance and Richardson-Lucy's iterations are, image by image, those that are best
for the clean image, which no user has; ours has one setting for everything, chosen on BSD400.

The last table is of 19 posterior samples of the middles of 64x64 pixels. If the samples are right,
a true value lies between the lowest and the highest 18 of 20 times, whatever the law. With
--langevin the core's Langevin sampler along falling levels stands beside them: it takes seven times
as long.
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
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.Image import Image as Picture
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import inpaint_biharmonic, richardson_lucy, wiener
from torch import Tensor

from ebrl import schedules, vision
from ebrl.energies import Energy
from ebrl.kernels import ULA
from ebrl.sampling import Sampler
from ebrl.sampling.sampler import Stage
from ebrl.vision import pretrained
from ebrl.vision.observations import (
    Blurred,
    Direct,
    Downsampled,
    Masked,
    Observation,
    gaussian_kernel,
)
from ebrl.vision.restoration import FIRST, LAST, posterior, restore

NOISE = 7.65 / 255
EXACT = 1e-3  # the deviation that measurements without noise are given
SAMPLES, CROPS = 19, 4
Row = dict[str, float]
Scores = dict[str, dict[str, list[float]]]
Scoring = Callable[[Tensor], Row]
Sampling = Callable[[Observation, Energy, torch.Generator], Tensor]


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


def deblurring(clean: Tensor, kernel: Tensor, prior: Energy) -> Row:
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


def super_resolution(clean: Tensor, factor: int, prior: Energy) -> Row:
    observation = Downsampled(F.avg_pool2d(clean, factor), factor, deviation=EXACT)
    return {
        "as measured": psnr(clean, nearest(observation.y, factor)),
        "bicubic": psnr(clean, observation.start()),
        "ebrl": psnr(clean, restore(observation, prior)),
    }


def nearest(y: Tensor, factor: int) -> Tensor:
    return y.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def inpainting(clean: Tensor, prior: Energy) -> Row:
    known = torch.rand(clean.shape[-2:], generator=torch.Generator().manual_seed(0)) < 0.2
    observation = Masked(clean, known, EXACT)
    peer = inpaint_biharmonic(observation.y[0].numpy(), ~known.numpy())
    return {
        "as measured": psnr(clean, observation.y),
        "membrane": psnr(clean, observation.start()),
        "biharmonic": psnr(clean, peer),
        "ebrl": psnr(clean, restore(observation, prior)),
    }


# ---- posterior samples ---------------------------------------------------------------------------


def walk(observation: Observation, prior: Energy, generator: torch.Generator) -> Tensor:
    return posterior(observation, prior, generator=generator, samples=SAMPLES).samples


def langevin(observation: Observation, prior: Energy, generator: torch.Generator) -> Tensor:
    """Ten moves of ULA a level, from the restored image, by .3 of the stiffest variance."""
    start = restore(observation, prior)
    x = start + FIRST * torch.randn(SAMPLES, *start.shape, generator=generator)
    stages = [
        Stage(
            prior.given(level) + observation,
            10,
            0.3 / (1 / float(level) ** 2 + 1 / observation.deviation**2),
        )
        for level in schedules.geometric(FIRST, LAST, 16)
    ]
    return Sampler(ULA(), steps=1).anneal(stages, x, generator=generator).x


def from_noisy(observation: Observation, prior: Energy, generator: torch.Generator) -> Tensor:
    found = vision.denoise_samples(
        observation.y, observation.deviation, samples=SAMPLES, generator=generator, prior=prior
    )
    return torch.stack(found.samples)


SAMPLINGS: dict[str, Sampling] = {
    "posterior": walk,
    "denoise_samples": from_noisy,
    "annealed Langevin": langevin,
}


def coverage(clean: Tensor, samples: Tensor) -> Row:
    inside = (clean >= samples.amin(0)) & (clean <= samples.amax(0))
    error = (samples.mean(0) - clean).square().mean() / (1 + 1 / SAMPLES)  # the mean's own error
    return {
        "90 % interval holds": inside.float().mean().item(),
        "deviation": 255 * samples.var(0).mean().sqrt().item(),
        "error": 255 * error.sqrt().item(),
        "PSNR of the mean": psnr(clean, samples.mean(0)),
    }


def measurements(clean: Tensor) -> dict[str, Observation]:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    known = torch.rand(clean.shape[-2:], generator=torch.Generator().manual_seed(0)) < 0.5
    kernel = KERNELS["Gaussian, 1.6"]
    blurred = Blurred(clean, kernel, NOISE).operator(clean)
    return {
        "denoising, sigma 25": Direct(clean + 25 / 255 * noise, 25 / 255),
        "inpainting, half missing, sigma 5": Masked(clean + 5 / 255 * noise, known, 5 / 255),
        "deblurring, Gaussian, sigma 7.65": Blurred(blurred + NOISE * noise, kernel, NOISE),
    }


# ---- all of it -----------------------------------------------------------------------------------


class Record:
    """Figures by table, task and method, in a file as they come: what is there is not redone."""

    def __init__(self, path: Path, settings: dict[str, int]):
        self.path, self.settings = path, settings
        self.tables: dict[str, Scores] = {"restoration": {}, "posterior": {}}
        stored = json.loads(path.read_text()) if path.exists() else {"settings": settings}
        if stored["settings"] != settings:
            raise SystemExit(f"{path} holds figures of {stored['settings']}: choose another --out")
        self.tables |= stored.get("tables", {})

    def measure(self, table: str, task: str, images: list[Tensor], score: Scoring) -> None:
        """Score a task on the images that it was not scored on yet."""
        scores = self.tables[table].setdefault(task, {})
        for image in images[len(next(iter(scores.values()), [])) :]:
            begun = time.process_time()
            for name, value in score(image).items():
                scores.setdefault(name, []).append(round(value, 4))
            written = {"settings": self.settings, "tables": self.tables}
            self.path.write_text(json.dumps(written) + "\n")
            self.path.with_suffix(".md").write_text(tables(self))
            last = {name: row[-1] for name, row in scores.items()}
            print(f"{task}: {last} ({time.process_time() - begun:.0f} s)", flush=True)


def run(record: Record, prior: Energy, slow: bool) -> None:
    loaded = images(record.settings["every"])
    middles = [middle(image, 64) for image in loaded[:CROPS]]
    names = [*measurements(middles[0])]
    for method, draw in SAMPLINGS.items():
        if draw is langevin and not slow:
            continue
        for name in names[:1] if draw is from_noisy else names:

            def covered(clean: Tensor, name: str = name, draw: Sampling = draw) -> Row:
                generator = torch.Generator().manual_seed(0)
                return coverage(clean, draw(measurements(clean)[name], prior, generator))

            record.measure("posterior", f"{name} | {method}", middles, covered)
        if draw is walk:
            side = record.settings["middle"]
            restoration(
                record, prior, [middle(image, side) for image in loaded] if side else loaded
            )


def restoration(record: Record, prior: Energy, loaded: list[Tensor]) -> None:
    tasks: dict[str, Scoring] = {
        "inpainting, 80 % missing": lambda x: inpainting(x, prior),
        "super-resolution, 2x": lambda x: super_resolution(x, 2, prior),
        "super-resolution, 3x": lambda x: super_resolution(x, 3, prior),
        **{
            f"deblurring, {name}": lambda x, kernel=kernel: deblurring(x, kernel, prior)
            for name, kernel in KERNELS.items()
        },
    }
    for upto in range(1, len(loaded) + 1):  # an image of each task, then the next
        for task, score in tasks.items():
            record.measure("restoration", task, loaded[:upto], score)


def middle(image: Tensor, side: int) -> Tensor:
    top, left = ((length - side) // 2 for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def tables(record: Record) -> str:
    lines = [
        "| PSNR | images | as measured | scikit-image's best | ebrl |",
        "|---|---|---|---|---|",
    ]
    for task, methods in record.tables["restoration"].items():
        peers = {
            name: fmean(row) for name, row in methods.items() if name not in ("as measured", "ebrl")
        }
        best = max(peers, key=lambda name: peers[name])
        measured, ours = fmean(methods["as measured"]), fmean(methods["ebrl"])
        count = len(methods["ebrl"])
        lines.append(
            f"| {task} | {count} | {measured:.2f} | {peers[best]:.2f} ({best}) | {ours:.2f} |"
        )
    names = ["90 % interval holds", "deviation", "error", "PSNR of the mean"]
    lines += ["", f"| posterior | samples | images | {' | '.join(names)} |"]
    lines.append("|---|---|---|---|---|---|---|")
    for task, row in record.tables["posterior"].items():
        means = {name: fmean(row[name]) for name in names}
        cells = [
            f"{means[name]:.3f}" if name == names[0] else f"{means[name]:.2f}" for name in names
        ]
        lines.append(f"| {task} | {len(row[names[0]])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def before_and_after(prior: Energy) -> Picture:
    """Return the camera blurred and the coffee with holes: before, after, clean."""
    rows = []
    camera = torch.from_numpy(skimage.data.camera()[60:316, 140:396].copy()).float().div(255)[None]
    kernel = KERNELS["Gaussian, 1.6"]
    noise = torch.randn(camera.shape, generator=torch.Generator().manual_seed(0))
    y = Blurred(camera, kernel, NOISE).operator(camera) + NOISE * noise
    rows.append([y, restore(Blurred(y, kernel, NOISE), prior), camera])
    coffee = skimage.data.coffee()[60:316, 160:416].copy()
    colour = torch.from_numpy(coffee).float().div(255).movedim(-1, 0)
    known = torch.rand(256, 256, generator=torch.Generator().manual_seed(0)) < 0.2
    observation = Masked(colour, known, EXACT)
    rows.append([observation.y, restore(observation, pretrained("color")), colour])
    gap = torch.ones(3, 256, 8)
    strips = [
        torch.cat([part for image in row for part in (gap, image.expand(3, -1, -1))][1:], -1)
        for row in rows
    ]
    whole = torch.cat([strips[0], torch.ones(3, 8, strips[0].shape[-1]), strips[1]], -2)
    return Image.fromarray(whole.clamp(0, 1).mul(255).round().byte().movedim(0, -1).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="write OUT.json, OUT.md, OUT.png")
    parser.add_argument("--every", type=int, default=12, help="images of BSD68 between two")
    parser.add_argument(
        "--middle", type=int, default=0, help="restore the middle N x N pixels, N a multiple of 6"
    )
    parser.add_argument("--langevin", action="store_true", help="sample by Langevin moves too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prior = pretrained("gray")
    settings = {"every": arguments.every, "middle": arguments.middle}
    record = Record(arguments.out.with_suffix(".json"), settings)
    picture = arguments.out.with_suffix(".png")
    if not picture.exists():
        before_and_after(prior).save(picture)
    run(record, prior, arguments.langevin)
    arguments.out.with_suffix(".md").write_text(tables(record))
    print(tables(record))


if __name__ == "__main__":
    main()
