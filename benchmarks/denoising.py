"""Denoising: the shipped energies beside total variation, non-local means, wavelets and BM3D.

    EBRL_DATA=… python benchmarks/denoising.py --out benchmarks/results/denoising
    … --sets BSD68 --methods ebrl          # some of the figures; the others stay as they are
    … --real folder/of/noisy/photographs   # and OUT_real.jpg, before and after

White noise of seven levels on BSD68 (grey), on five photographs of scikit-image and on 20 of
BSDS500 that `leave_out: 20` in a config keeps out of a training; the level unknown; noise that is
not white; line art; time and memory for 12 megapixels. Images in [0, 1], noise of sigma/255 from
`numpy.random.RandomState(0)` drawn afresh for each image, not clipped; the result clipped; PSNR and
SSIM over the whole image, means over images. BM3D takes 8 s an image: it sees every `--every`th
image of BSD68. Figures land in OUT.json as they are known, and are not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import skimage.data
import torch
from denoising_methods import (
    METHODS,
    SLOW,
    Denoiser,
    channel_axis,
    compressed,
    correlated,
    noisy,
    non_local_means,
    ours,
    ours_blind,
    ours_camera,
    poisson_gaussian,
    white,
)
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ebrl import vision
from ebrl.vision.files import save
from ebrl.vision.grids import GAP, in_eight_bits, side_by_side
from ebrl.vision.photograph import Photograph

PHOTOGRAPHS = ("camera", "astronaut", "coffee", "chelsea", "rocket")
SIGMAS = (2, 5, 10, 15, 25, 50, 75)
LEFT_OUT = 20  # photographs of bsds500_color/test
Images = list[np.ndarray]


# ---- what is measured ----------------------------------------------------------------------------


class Record:
    """Scores by table, method and noise, kept in a file: `[psnr, ssim, seconds]` an image."""

    def __init__(self, path: Path):
        self.path = path
        self.scores: dict[str, list[list[float]]] = {}
        self.worst: dict[str, list[list[float]]] = {}
        self.facts: dict[str, Any] = {}
        if path.exists():
            stored = json.loads(path.read_text())
            self.scores, self.facts = stored["scores"], stored["facts"]
            self.worst = stored.get("worst", {})

    def measure(self, key: str, method: Denoiser, images: Images, noise: Any) -> None:
        """Score a method on images that carry this noise, unless that is known."""
        if key in self.scores:
            return
        self.scores[key] = [_score(method, image, noise) for image in images]
        self.write()
        print(f"{key:60} {fmean(row[0] for row in self.scores[key]):.2f}", flush=True)

    def measure_worst(self, key: str, method: Denoiser, images: Images, sigma: float) -> None:
        """Note rms error and the most that a pixel gets worse, over sigma, for each image."""
        if key in self.worst:
            return
        self.worst[key] = []
        for clean in images:
            y = clean + sigma / 255 * np.random.RandomState(0).randn(*clean.shape)
            error = np.abs(np.clip(method(y, sigma / 255), 0, 1) - clean)
            found = np.sqrt(np.square(error).mean()), (error - np.abs(y - clean)).max()
            self.worst[key].append([round(255 / sigma * float(x), 3) for x in found])
        self.write()

    def mean(self, key: str, column: int = 0, places: int = 2) -> str:
        if key not in self.scores:
            return ""
        return f"{fmean(row[column] for row in self.scores[key]):.{places}f}"

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {"columns": ["psnr", "ssim", "seconds"], "facts": self.facts}
        self.path.write_text(
            json.dumps({**record, "scores": self.scores, "worst": self.worst}) + "\n"
        )


def _score(method: Denoiser, clean: np.ndarray, noise: Any) -> list[float]:
    y, sigma = noise(clean, np.random.RandomState(0))
    begun = time.process_time()
    result = np.clip(method(y, sigma), 0, 1).astype(np.float64)
    seconds = time.process_time() - begun
    psnr = peak_signal_noise_ratio(clean, result, data_range=1)
    ssim = structural_similarity(clean, result, data_range=1, channel_axis=channel_axis(clean))
    return [round(float(psnr), 4), round(float(ssim), 5), round(seconds, 3)]


def folder(name: str) -> list[Path]:
    """Return the files of a data folder, none where EBRL_DATA has no such folder."""
    found = Path(os.environ.get("EBRL_DATA", "")) / name
    if not found.is_dir():
        print(f"EBRL_DATA names no folder with {name}: it is left out")
        return []
    return sorted(path for path in found.iterdir() if path.suffix in (".png", ".jpg"))


def read(paths: list[Path], mode: str) -> Images:
    return [np.asarray(Image.open(path).convert(mode), dtype=float) / 255 for path in paths]


def photographs(mode: str) -> Images:
    loaded = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    return [
        np.asarray(image.convert(mode), dtype=float) / 255
        for image in loaded
        if mode == "L" or image.mode == "RGB"
    ]


def image_sets(every: int) -> dict[str, Images]:
    grey, left_out = read(folder("bsd68_gray"), "L"), folder("bsds500_color/test")[-LEFT_OUT:]
    return {
        "BSD68": grey,
        "few of BSD68": grey[::every],
        "photographs L": photographs("L"),
        "photographs RGB": photographs("RGB"),
        "left out L": read(left_out, "L"),
        "left out RGB": read(left_out, "RGB"),
    }


def line_art() -> Images:
    """Return lines and checks a few pixels wide, on which denoisers of photographs go astray."""
    rows, columns = np.indices((128, 128))
    return [
        np.where(on, dark, bright) / 255
        for on, dark, bright in (
            ((rows + columns) % 2 == 0, 60, 200),
            ((rows + columns) % 3 == 0, 40, 200),
            (columns % 2 == 0, 20, 235),
            (rows // 4 % 2 == columns // 4 % 2, 20, 235),
            ((rows % 12 == 0) | (columns % 16 == 0), 20, 235),
        )
    ]


def cost(height: int, width: int) -> dict[str, float]:
    """Return CPU seconds and the MB that denoising a colour image adds to a process."""
    code = (
        "import resource, time, numpy as np, torch; from ebrl import vision\n"
        "torch.set_num_threads(1)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        f"y = np.random.RandomState(0).randint(0, 256, ({height}, {width}, 3)).astype(np.uint8)\n"
        "vision.denoise(y[:16, :16], 25); before = peak(); begun = time.process_time()\n"
        "vision.denoise(y, 25); print(time.process_time() - begun, peak() - before)"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, memory = map(float, said.split())
    return {"seconds": round(seconds, 1), "MB": round(memory)}


def run(record: Record, sets: dict[str, Images], methods: dict[str, Denoiser]) -> None:
    for key, images in sets.items():
        for name, method in methods.items():
            if not images or (key == "BSD68" and name in SLOW):
                continue
            for sigma in SIGMAS:
                record.measure(f"{key}/{name}/{sigma}", method, images, white(sigma))
    for name in methods:
        for sigma in SIGMAS:
            record.measure_worst(f"line art/{name}/{sigma}", methods[name], line_art(), sigma)


def run_other_noise(record: Record, grey: Images, few: Images, colour: Images) -> None:
    for sigma in (25, 35, 50) if grey else ():
        record.measure(f"level/known/{sigma}", ours, grey, white(sigma))
        record.measure(f"level/estimated/{sigma}", ours_blind, grey, white(sigma))
    others = {"noisy": noisy, "non-local means": _flat(non_local_means), "ebrl": ours}
    others |= {name: _flat(METHODS[name]) for name in SLOW & set(METHODS)}
    others |= {"ebrl, gray-camera": ours_camera}
    kinds = {"Poisson-Gaussian": poisson_gaussian, "correlated": correlated, "JPEG": compressed}
    for name, method in others.items():
        for kind, noise in kinds.items() if few else ():
            record.measure(f"other noise/{name}/{kind}", method, few[:6], noise)
    in_colour = {"noisy": noisy, "non-local means": non_local_means, "ebrl": ours}
    for name, method in (in_colour | {"ebrl, color-camera": ours_camera}).items():
        for kind, noise in {"correlated": correlated, "white": white(25)}.items():
            record.measure(f"noise in colour/{name}/{kind}", method, colour, noise)


def _flat(method: Denoiser) -> Denoiser:
    """Tell a method the root mean square of a map of sigmas."""
    return lambda y, sigma: method(y, float(np.sqrt(np.mean(np.square(sigma)))))


# ---- the tables ----------------------------------------------------------------------------------


def tables(record: Record, sets: dict[str, Images]) -> str:
    lines = []
    for key, images in sets.items():
        title = f"{key} ({len(images)} images), PSNR" if images else f"{key}, PSNR"
        lines += _table(
            title, record, lambda name, sigma, key=key: record.mean(f"{key}/{name}/{sigma}")
        )
    lines += [
        "Line art: root mean square error over sigma, and the most that a pixel gets worse.",
        "",
    ]
    lines += _table("line art", record, lambda name, sigma: _worst(record, name, sigma))
    lines += ["| BSD68, ebrl | sigma 25 | 35 | 50 |", "|---|---|---|---|"]
    for name in ("known", "estimated"):
        keys = [f"level/{name}/{sigma}" for sigma in (25, 35, 50)]
        lines.append(f"| sigma {name} | {' | '.join(map(record.mean, keys))} |")
    kinds = ("Poisson-Gaussian", "correlated", "JPEG")
    lines += ["", f"| other noise, PSNR on 6 images | {' | '.join(kinds)} |", "|---|---|---|---|"]
    for name in ["noisy", "non-local means", *sorted(SLOW), "ebrl", "ebrl, gray-camera"]:
        cells = " | ".join(record.mean(f"other noise/{name}/{kind}") for kind in kinds)
        lines.append(f"| {name} | {cells} |")
    lines += ["", "| noise in colour, PSNR on 4 images | correlated | white, 25 |", "|---|---|---|"]
    for name in ("noisy", "non-local means", "ebrl", "ebrl, color-camera"):
        cells = " | ".join(
            record.mean(f"noise in colour/{name}/{kind}") for kind in ("correlated", "white")
        )
        lines.append(f"| {name} | {cells} |")
    for name, found in record.facts.get("cost", {}).items():
        lines += ["", f"{name} pixels, colour: {found['seconds']} CPU s, {found['MB']} MB more."]
    return "\n".join(lines) + "\n"


def _table(title: str, record: Record, cell: Callable[[str, int], str]) -> list[str]:
    head = [f"| {title} | {' | '.join(map(str, SIGMAS))} |", "|---" * (len(SIGMAS) + 1) + "|"]
    rows = {name: [cell(name, sigma) for sigma in SIGMAS] for name in METHODS}
    return [*head, *(f"| {n} | {' | '.join(row)} |" for n, row in rows.items() if any(row)), ""]


def _worst(record: Record, name: str, sigma: int) -> str:
    rows = record.worst.get(f"line art/{name}/{sigma}")
    return f"{max(row[0] for row in rows):.2f}, {max(row[1] for row in rows):.1f}" if rows else ""


def real(photographs: Path, path: Path, side: int = 300) -> None:
    """Draw the middles of noisy photographs before and after, by the estimate, two pairs a row."""
    pairs = []
    for source in sorted(photographs.iterdir()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of doubt
            before = vision.load(source)
            shown = side_by_side(
                [in_eight_bits(one) for one in (before, vision.denoise(before))], side
            )
        canvas = np.full((side + GAP, 2 * side + 4 * GAP, 3), 255, np.uint8)
        canvas[: shown.pixels.shape[0], : shown.pixels.shape[1]] = shown.pixels
        pairs.append(canvas)
    pairs += [np.full_like(pairs[0], 255)] * (len(pairs) % 2)
    rows = [np.concatenate(pairs[i : i + 2], 1) for i in range(0, len(pairs), 2)]
    save(Photograph(np.concatenate(rows)), path)


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
    parser.add_argument("--sets", nargs="*", help="which sets of images (default: all)")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--real", type=Path, help="a folder of photographs with real noise")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = Record(arguments.out.with_suffix(".json"))
    sets = image_sets(arguments.every)
    record.facts.update(every=arguments.every, torch=torch.__version__)
    chosen = {key: sets[key] for key in (sets if arguments.sets is None else arguments.sets)}
    run(record, chosen, {name: METHODS[name] for name in arguments.methods})
    if arguments.sets is None:
        run_other_noise(record, sets["BSD68"], sets["few of BSD68"], sets["photographs RGB"])
        sizes = {"321x481": (321, 481), "3000x4000": (3000, 4000)}
        record.facts.setdefault("cost", {name: cost(*size) for name, size in sizes.items()})
        picture(arguments.out.with_suffix(".png"))
    if arguments.real:
        real(arguments.real, arguments.out.with_name(f"{arguments.out.name}_real.jpg"))
    record.write()
    arguments.out.with_suffix(".md").write_text(tables(record, sets))
    print(tables(record, sets))


if __name__ == "__main__":
    main()
