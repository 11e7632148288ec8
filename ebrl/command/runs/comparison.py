"""Comparison of methods over seeds and tasks: interquartile means with confidence intervals.

Statistics and bootstrap are rliable's (Agarwal et al. 2021, "Deep reinforcement learning at the
edge of the statistical precipice").
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rliable import library, metrics

from ebrl.command.errors import UsageError
from ebrl.command.runs.curves import Curve
from ebrl.command.runs.folder import write

GRID = 25  # points of a curve
CONFIDENCE = 0.95


class Bootstrap(NamedTuple):
    """How intervals are drawn."""

    repetitions: int
    seed: int


class IntervalEstimate(NamedTuple):
    """A statistic with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


class Band(NamedTuple):
    """An interquartile mean along an axis, with its interval."""

    x: np.ndarray  # (points,)
    value: np.ndarray  # (points,)
    low: np.ndarray
    high: np.ndarray


class Comparison(NamedTuple):
    """The statistics of all methods."""

    tasks: list[str]
    seeds: dict[str, int]  # of each method: the fewest on any task
    scores: dict[str, IntervalEstimate]  # interquartile mean of the last evaluations
    improvement: dict[tuple[str, str], IntervalEstimate]  # P(the first beats the second)
    over_steps: dict[tuple[str, str], Band]  # by task and method
    over_seconds: dict[tuple[str, str], Band]  # methods whose runs counted CPU seconds
    profiles: dict[str, Band]  # the share of runs that scored above x
    unit: str
    notes: list[str]  # what a reader should know of the runs

    def markdown(self) -> str:
        """Return the tables as Markdown."""
        lines = [
            f"Interquartile mean of the last evaluations, {self.unit}, over {len(self.tasks)} "
            f"task{'s' * (len(self.tasks) > 1)} ({', '.join(self.tasks)}), with 95 % intervals of "
            "the stratified bootstrap:",
            "",
            "| method | seeds | interquartile mean |",
            "|---|---|---|",
        ]
        best_first = sorted(self.scores, key=lambda name: -self.scores[name].value)
        lines += [f"| {name} | {self.seeds[name]} | {self.scores[name]} |" for name in best_first]
        if self.improvement:
            lines += ["", "Probability of improvement of one run over another:", ""]
            lines += ["| | probability |", "|---|---|"]
            lines += [f"| {x} over {y} | {p} |" for (x, y), p in self.improvement.items()]
        if few := [name for name, count in self.seeds.items() if count < 3]:
            lines += ["", f"Fewer than 3 seeds: the intervals of {', '.join(few)} mean little."]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"


def compare(curves: list[Curve], bootstrap: Bootstrap) -> Comparison:
    """Compare the methods of these runs.

    Args:
        curves: Curves of all runs.
        bootstrap: How intervals are drawn.

    Raises:
        UsageError: If a method has no run on a task that another has.
    """
    tasks = sorted({curve.task for curve in curves})
    methods = sorted({curve.method for curve in curves})
    groups = {
        (task, method): [c for c in curves if (c.task, c.method) == (task, method)]
        for task in tasks
        for method in methods
    }
    if empty := [f"{method} on {task}" for (task, method), runs in groups.items() if not runs]:
        raise UsageError(
            f"expected every method on every task, got no run of {'; '.join(empty)}. Train these, "
            "or compare the runs of one task at a time."
        )
    matrices = _score_matrices(tasks, methods, groups)
    scores = {name: _estimate(matrix, bootstrap) for name, matrix in matrices.items()}
    return Comparison(
        tasks=tasks,
        seeds={name: len(matrix) for name, matrix in matrices.items()},
        scores=scores,
        improvement=_improvements(matrices, bootstrap),
        over_steps={key: _band(runs, _steps, bootstrap) for key, runs in groups.items()},
        over_seconds={
            key: _band(runs, _seconds, bootstrap)
            for key, runs in groups.items()
            if all(run.cpu_seconds is not None for run in runs)
        },
        profiles=_profiles(matrices, bootstrap),
        unit="returns" if len(tasks) == 1 else "returns scaled to [0, 1] a task",
        notes=_notes(tasks, methods, groups),
    )


def _notes(
    tasks: list[str], methods: list[str], groups: dict[tuple[str, str], list[Curve]]
) -> list[str]:
    """Return a sentence for everything in which the runs are unlike each other."""
    notes = []
    for task in tasks:
        ends = sorted({int(c.steps[-1]) for method in methods for c in groups[task, method]})
        if len(ends) > 1:
            shown = f"{ends[0]:,} to {ends[-1]:,} steps"
            notes.append(f"Runs on {task} end after {shown}: their last evaluations are compared.")
    for method in methods:
        fewest = min(len(groups[task, method]) for task in tasks)
        for task in tasks:
            runs = groups[task, method]
            if len(runs) > fewest:
                left = ", ".join(run.source for run in runs[fewest:])
                notes.append(
                    f"{method} has {fewest} seeds on another task: its score leaves out {left}."
                )
            if len({run.settings for run in runs if run.settings}) > 1:
                notes.append(f"Configs differ among the runs of {method} on {task}.")
    return notes


def _score_matrices(
    tasks: list[str], methods: list[str], groups: dict[tuple[str, str], list[Curve]]
) -> dict[str, np.ndarray]:
    """Return the last returns of each method, (seeds, tasks), scaled where tasks are several."""
    matrices = {}
    for method in methods:
        seeds = min(len(groups[task, method]) for task in tasks)
        rows = [[run.returns[-1] for run in groups[task, method][:seeds]] for task in tasks]
        matrices[method] = np.array(rows, dtype=float).T
    if len(tasks) == 1:
        return matrices
    lows, highs = [], []
    for task in tasks:
        seen = np.concatenate([run.returns for m in methods for run in groups[task, m]])
        lows.append(seen.min())
        highs.append(seen.max())
    low, width = np.array(lows), np.maximum(np.array(highs) - lows, 1e-12)
    return {name: (matrix - low) / width for name, matrix in matrices.items()}


def _interval(
    statistic: Callable[..., np.ndarray], scores: np.ndarray | list[np.ndarray], how: Bootstrap
) -> tuple[np.ndarray, np.ndarray]:
    """Return the statistic and its interval, (2, …), by rliable's stratified bootstrap."""
    stream = np.random.get_state()  # noqa: NPY002, rliable draws from the global one
    np.random.seed(how.seed)  # noqa: NPY002
    try:
        points, intervals = library.get_interval_estimates(
            {"": scores}, statistic, reps=how.repetitions, confidence_interval_size=CONFIDENCE
        )
    finally:
        np.random.set_state(stream)  # noqa: NPY002
    return points[""], intervals[""]


def _estimate(matrix: np.ndarray, how: Bootstrap) -> IntervalEstimate:
    value, interval = _interval(lambda x: np.array([metrics.aggregate_iqm(x)]), matrix, how)
    return IntervalEstimate(float(value[0]), float(interval[0, 0]), float(interval[1, 0]))


def _improvements(
    matrices: dict[str, np.ndarray], how: Bootstrap
) -> dict[tuple[str, str], IntervalEstimate]:
    pairs = [(x, y) for x in matrices for y in matrices if x < y]
    found = {}
    for x, y in pairs:
        value, interval = _interval(
            lambda a, b: np.array([metrics.probability_of_improvement(a, b)]),
            [matrices[x], matrices[y]],
            how,
        )
        found[x, y] = IntervalEstimate(
            float(value[0]), float(interval[0, 0]), float(interval[1, 0])
        )
    return found


def _steps(run: Curve) -> np.ndarray:
    return run.steps


def _seconds(run: Curve) -> np.ndarray:
    assert run.cpu_seconds is not None  # asked for where all runs have them
    return run.cpu_seconds


def _band(runs: list[Curve], axis: Callable[[Curve], np.ndarray], how: Bootstrap) -> Band:
    """Return the interquartile mean of the runs' curves on a grid that all of them cover."""
    first = max(axis(run)[0] for run in runs)
    last = max(min(axis(run)[-1] for run in runs), first)
    points = np.unique(np.linspace(first, last, GRID))
    curves = np.stack([np.interp(points, axis(run), run.returns) for run in runs])
    scores = curves[:, None, :]  # (seeds, one task, points)

    def middle(scores: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_iqm(scores[..., i]) for i in range(scores.shape[-1])])

    value, interval = _interval(middle, scores, how)
    return Band(points, value, interval[0], interval[1])


def _profiles(matrices: dict[str, np.ndarray], how: Bootstrap) -> dict[str, Band]:
    everything = np.concatenate([matrix.ravel() for matrix in matrices.values()])
    thresholds = np.linspace(everything.min(), everything.max(), 4 * GRID)

    def shares(scores: np.ndarray) -> np.ndarray:
        return (scores[..., None] > thresholds).mean((0, 1))

    profiles = {}
    for name, matrix in matrices.items():
        value, interval = _interval(shares, matrix, how)
        profiles[name] = Band(thresholds, value, interval[0], interval[1])
    return profiles


def write_table(path: Path, comparison: Comparison) -> None:
    """Write the curves over steps as CSV, atomically."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["task", "method", "timesteps", "interquartile_mean", "low", "high"])
    for (task, method), band in comparison.over_steps.items():
        rows.writerows([task, method, *map(float, point)] for point in zip(*band, strict=True))
    write(path, text.getvalue())
