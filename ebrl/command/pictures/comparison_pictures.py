"""The picture of a comparison: curves of each task, scores, performance profiles."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from ebrl.command.pictures.landscapes import save_figure
from ebrl.command.runs.comparison import Band, Comparison

COLOURS = ("#2b5c8a", "#e07b39", "#3c8d5a", "#a8455e", "#7a5aa8", "#8a7a2b")


def draw(path: Path, comparison: Comparison) -> None:
    """Draw a comparison to a PNG, atomically."""
    save_figure(drawn(comparison), path)


def drawn(comparison: Comparison) -> Figure:
    """Return the figure of a comparison, with profiles where there are several runs."""
    tasks = comparison.tasks
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(comparison.scores)}
    figure = Figure(figsize=(10, 3.4 * (len(tasks) + 1)), layout="constrained")
    axes = figure.subplots(len(tasks) + 1, 2, squeeze=False)
    for row, task in zip(axes, tasks, strict=False):
        _draw_curves(row[0], task, comparison.over_steps, colours, "environment steps")
        _draw_curves(row[1], task, comparison.over_seconds, colours, "CPU seconds")
    _draw_scores(axes[-1, 0], comparison, colours)
    if sum(comparison.seeds.values()) * len(tasks) > 1:
        _draw_profiles(axes[-1, 1], comparison, colours)
    else:  # a single run has no distribution
        axes[-1, 1].set_axis_off()
    axes[0, 0].legend(fontsize=8)
    return figure


def _draw_curves(
    axes: Axes, task: str, bands: dict[tuple[str, str], Band], colours: dict[str, str], label: str
) -> None:
    for (of, method), band in bands.items():
        if of == task:
            axes.plot(band.x, band.value, color=colours[method], lw=1.8, label=method)
            axes.fill_between(band.x, band.low, band.high, color=colours[method], alpha=0.2, lw=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set(xlabel=label, ylabel="return, interquartile mean", title=task)
    axes.grid(alpha=0.25)


def _draw_scores(axes: Axes, comparison: Comparison, colours: dict[str, str]) -> None:
    for i, (name, score) in enumerate(comparison.scores.items()):
        axes.barh(i, score.high - score.low, left=score.low, color=colours[name], alpha=0.5)
        axes.plot([score.value] * 2, [i - 0.4, i + 0.4], color="black", lw=1.8)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.use_sticky_edges = False
    axes.margins(x=0.1)
    axes.set_yticks(range(len(comparison.scores)), comparison.scores)
    axes.set(xlabel=f"interquartile mean ({comparison.unit})", title="last evaluations")
    axes.grid(alpha=0.25, axis="x")


def _draw_profiles(axes: Axes, comparison: Comparison, colours: dict[str, str]) -> None:
    for name, band in comparison.profiles.items():
        axes.plot(band.x, band.value, color=colours[name], lw=1.8)
        axes.fill_between(band.x, band.low, band.high, color=colours[name], alpha=0.2, lw=0)
    axes.set(xlabel=f"x ({comparison.unit})", ylabel="share of runs above x", ylim=(0, 1.02))
    axes.set_title("performance profiles")
    axes.grid(alpha=0.25)
