"""The learning curve of a run folder, of SB3's evaluations.npz, or of a Monitor file."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from ebrl.command.configs.files import read_tree
from ebrl.command.configs.trust import command
from ebrl.command.errors import UsageError
from ebrl.command.runs.folder import Run, existing, read_evaluations, task_of

WINDOW = 20  # episodes that a point of a Monitor's curve averages over
POINTS = 50  # of a Monitor's curve
OF_A_RUN = ("seed", "name", "run", "threads", "device")  # keys in which seeds may differ


class Curve(NamedTuple):
    """The mean return of one run at each of its evaluations."""

    source: str
    task: str
    method: str
    steps: np.ndarray  # (evaluations,), environment steps
    returns: np.ndarray  # (evaluations,), the mean of the episodes of each
    cpu_seconds: np.ndarray | None  # (evaluations,); None if unknown
    settings: str | None = None  # the config but for the seed, as JSON; None if unknown


def read_curves(sources: Sequence[str]) -> list[Curve]:
    """Read the runs; one error names all that cannot be read.

    Raises:
        UsageError: If a source is none of the kinds, is damaged, comes twice, or has no evaluation.
    """
    curves, refused = [], []
    seen: set[tuple[str, Path]] = set()
    for source in sources:
        try:
            label, path = _labelled_path(source)
            if (label, path.resolve()) in seen:
                raise UsageError("comes twice, and would count as two seeds")
            seen.add((label, path.resolve()))
            curves.append(_read(source))
        except (UsageError, OSError, ValueError, KeyError, BadZipFile) as error:  # noqa: PERF203, few runs
            refused.append(f"{source}: {error}")
    if refused:
        raise UsageError("cannot be compared: " + "; ".join(refused))
    return curves


def _read(source: str) -> Curve:
    label, path = _labelled_path(source)
    if path.is_dir() and (path / "config.yaml").is_file():
        return _of_our_run(source, label, existing(path))
    if not path.exists():
        raise UsageError("there is no such file or folder")
    if path.is_dir():
        path = path / "evaluations.npz"
        if not path.is_file():
            raise UsageError("this folder holds neither a run nor an evaluations.npz")
    if path.suffix == ".npz":
        return _labelled(source, label, path, *_of_evaluations(path))
    if path.name.endswith("monitor.csv"):
        return _labelled(source, label, path, *_of_monitor(path))
    raise UsageError("expected a run folder, evaluations.npz or *.monitor.csv")


def _labelled_path(source: str) -> tuple[str, Path]:
    """Split `LABEL=PATH`; a path that exists may have a `=` of its own."""
    parts = source.split("=")
    for i in range(len(parts)):
        if (path := Path("=".join(parts[i:]))).exists():
            return "=".join(parts[:i]), path
    return "=".join(parts[:-1]), Path(parts[-1])


def _of_our_run(source: str, label: str, run: Run) -> Curve:
    evaluations = read_evaluations(run)
    if not evaluations:
        raise UsageError(f"has not been evaluated yet: {command('resume', run.folder)}")
    own = task_of(run)
    method, _, task = label.partition("@")
    return Curve(
        source=source,
        task=task or own.environment,
        method=method or own.agent.rpartition(".")[2],
        steps=np.array([entry["timesteps"] for entry in evaluations]),
        returns=np.array([entry["mean"] for entry in evaluations]),
        cpu_seconds=np.array([entry["cpu_seconds"] for entry in evaluations]),
        settings=_settings(run),
    )


def _settings(run: Run) -> str:
    """Return a run's config but for its seed, its name and where it is kept."""
    tree = read_tree(run.config)
    kept = {name: value for name, value in tree.items() if name not in OF_A_RUN}
    agent = dict(kept["agent"])
    arguments = agent.get("init_args", {})
    agent["init_args"] = {name: value for name, value in arguments.items() if name != "seed"}
    return json.dumps({**kept, "agent": agent}, sort_keys=True, default=str)


def _labelled(source: str, label: str, path: Path, steps: np.ndarray, returns: np.ndarray) -> Curve:
    """Return the curve of a file of SB3, which names neither method nor task."""
    method, _, task = label.partition("@")
    folder = path.resolve().parent.name
    name = folder.rpartition("-")[0] or folder.rpartition("_")[0] or folder
    return Curve(source, task or "task", method or name, steps, returns, None)


def _of_evaluations(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        steps, results = archive["timesteps"], archive["results"]
    if results.ndim != 2 or steps.shape != results.shape[:1] or not results.size:
        raise ValueError(
            f"expected timesteps (evaluations,) and results (evaluations, episodes), got shapes "
            f"{steps.shape} and {results.shape}"
        )
    for name, array in (("timesteps", steps), ("results", results)):
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise ValueError(f"expected finite numbers as {name}")
    return steps, results.mean(1)


def _of_monitor(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the running mean over `WINDOW` episodes, at `POINTS` steps of the training."""
    with path.open(encoding="utf-8", newline="") as file:
        file.readline()  # the JSON comment: start time and environment
        try:
            rows = [(float(row["r"]), int(row["l"])) for row in csv.DictReader(file)]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("expected rows r,l,t of SB3's Monitor under its first line") from error
    if not rows:
        raise ValueError("no episode in it")
    returns, lengths = np.array(rows).T
    if not np.isfinite(returns).all():
        raise ValueError("expected finite returns, r, of every episode")
    ends = lengths.cumsum().astype(int)
    picks = np.unique(np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).astype(int))
    means = [returns[max(i + 1 - WINDOW, 0) : i + 1].mean() for i in picks]
    return ends[picks], np.array(means)
