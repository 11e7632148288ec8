"""The picture of an energy on a line or in the plane, with samples on it."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset

from ebrl.command.configs.energy_config import Setup
from ebrl.command.pictures.landscapes import BLUE, ORANGE, draw_plane, save_figure
from ebrl.energies import Energy
from ebrl.sampling import Sampler
from ebrl.training import take_rows

SAMPLES = 2_000
GRID = 201  # points a dimension


def draw(energy: Energy, sampler: Sampler, n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` samples from the space's reference; a sampler that adapts does so on a first run."""
    if sampler.adaptation is not None:
        sampler.sample(energy, n=min(n, 500), generator=generator)
    return sampler.sample(energy, n=n, generator=generator, adapt=False).x


def shown(data: Tensor | Dataset) -> Tensor:
    """Return the first rows of the data, which pictures show."""
    assert isinstance(data, Sized)  # training refuses other data
    return take_rows(data, torch.arange(min(len(data), SAMPLES)), torch.device("cpu"))[0]


def draw_run(path: Path, title: str, setup: Setup, energy: Energy) -> list[str]:
    """Sample the energy and draw it to the PNG `path`; return its path, or why there is none."""
    data, sampler = shown(setup.data), setup.sampler
    why = why_no_picture(energy, data)
    if why or sampler is None:
        return [f"  no picture: {why or 'the config names no sampler'}."]
    samples = draw(energy, sampler, SAMPLES, torch.Generator().manual_seed(0))
    picture(path, title, energy, data, samples)
    return [f"  picture  {path}"]


def why_no_picture(energy: Energy, x: Tensor) -> str:
    """Return the reason why an energy of such x cannot be drawn, '' where it can."""
    if energy.takes_condition:
        return "the energy is conditional"
    if x.ndim != 2 or x.shape[1] > 2:
        return f"x has shape {tuple(x.shape[1:])}, and a picture has two dimensions"
    return ""


def picture(path: Path, title: str, energy: Energy, data: Tensor, samples: Tensor) -> None:
    """Draw the data, and the energy with samples on it, to the PNG `path`, atomically."""
    dimension = data.shape[1]
    figure = Figure(figsize=(5.5 * dimension, 4.8), layout="constrained")
    figure.suptitle(title, fontsize=12)
    low, high = data.numpy().min(0), data.numpy().max(0)
    margin = 0.15 * (high - low)
    axes = [np.linspace(a, b, GRID) for a, b in zip(low - margin, high + margin, strict=True)]
    if dimension == 1:
        _line(figure.subplots(), axes[0], energy, data, samples)
    else:
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        left.plot(*data.T, ".", color=BLUE, ms=3, alpha=0.6)
        left.set_title(f"{len(data):,} data", fontsize=10)
        _plane(right, axes, energy, samples)
        left.set_box_aspect(1)
    save_figure(figure, path)


@torch.no_grad()
def _line(axes: Axes, grid: np.ndarray, energy: Energy, data: Tensor, samples: Tensor) -> None:
    x = torch.as_tensor(grid, dtype=data.dtype).unsqueeze(-1)
    density = torch.softmax(-energy(x).double(), 0) / (grid[1] - grid[0])
    for values, colour, label in ((data, BLUE, "data"), (samples, ORANGE, "samples")):
        axes.hist(
            values[:, 0].numpy(),
            bins=60,
            range=(grid[0], grid[-1]),
            density=True,
            color=colour,
            alpha=0.4,
            label=label,
        )
    axes.plot(grid, density, color="black", lw=1.8, label="exp(-E)/Z")
    axes.set(xlabel="x", ylabel="density")
    axes.legend(fontsize=8)


@torch.no_grad()
def _plane(axes: Axes, grid: list[np.ndarray], energy: Energy, samples: Tensor) -> None:
    points = torch.as_tensor(np.stack(np.meshgrid(*grid), -1), dtype=samples.dtype)
    heights = energy(points).numpy()
    draw_plane(axes, grid, heights - heights.min(), samples.numpy(), "energy above its lowest")
    axes.set_title(f"energy, {len(samples):,} samples", fontsize=10)
