"""The colours, levels and files of all pictures of energies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ebrl.storage import replacing

BLUE, ORANGE = "#2b5c8a", "#e07b39"
LEVELS = 24  # of a filled contour


def draw_plane(
    axes: Axes, grid: list[np.ndarray], energies: np.ndarray, samples: np.ndarray, label: str
) -> None:
    """Draw energies over the plane as a filled contour, with samples on it.

    Args:
        axes: Where to draw.
        grid: The two coordinates, `(columns,)` and `(rows,)`.
        energies: `(rows, columns)`.
        samples: `(n, 2)`.
        label: Label of the colour bar.
    """
    # Levels are denser at low energies, where the samples are.
    levels = energies.min() + np.linspace(0, 1, LEVELS) ** 2 * max(float(np.ptp(energies)), 1e-6)
    filled = axes.contourf(*grid, energies, levels=levels, cmap="viridis")
    axes.figure.colorbar(filled, ax=axes, label=label, shrink=0.8, format="%.3g")
    size, alpha = (3, 0.7) if len(samples) < 3_000 else (2, 0.6)
    name = f"{len(samples):,} samples"
    axes.plot(*samples.T, ".", color=ORANGE, ms=size, alpha=alpha, label=name)
    axes.set_xlim(grid[0][0], grid[0][-1])
    axes.set_ylim(grid[1][0], grid[1][-1])
    axes.set_box_aspect(1)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG, atomically."""
    with replacing(path) as file:
        figure.savefig(file, dpi=150, format="png")
