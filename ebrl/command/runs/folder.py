"""The folder of a run: its files, and its lock."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from ebrl.command.configs.files import read_tree
from ebrl.command.configs.trust import command
from ebrl.command.errors import RunError, UsageError
from ebrl.storage import replacing


class Run(NamedTuple):
    """The folder of a run. TensorBoard's event files lie at its top."""

    folder: Path

    @property
    def config(self) -> Path:
        """The resolved config, which `ebrl train` reads, too."""
        return self.folder / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def evaluations(self) -> Path:
        """List of the evaluations so far, in the order of their timesteps."""
        return self.folder / "evaluations.json"

    @property
    def model(self) -> Path:
        """The trained agent, for `AGENT.load`, or the weights of the trained energy."""
        return self.folder / "model.zip"

    @property
    def best(self) -> Path:
        """The agent of the best evaluation so far, if the config asks for it."""
        return self.folder / "best_model.zip"

    @property
    def picture(self) -> Path:
        return self.folder / "plot.png"

    @property
    def traceback(self) -> Path:
        """The full traceback of an environment's error."""
        return self.folder / "error.txt"


@contextmanager
def new_run(folder: str | Path, config: str) -> Iterator[Run]:
    """Hold a new run folder with the resolved `config` in it, written atomically.

    Raises:
        UsageError: If the folder is in use: it has contents, or another process works there.
    """
    run = Run(Path(folder))
    if run.folder.exists() and not run.folder.is_dir():
        raise UsageError(f"{folder} is a file. Choose another folder: --run OTHER")
    _expect_free(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(run):
        _expect_free(run)
        for litter in run.folder.glob(".config.yaml.*.tmp"):  # of a process that was killed
            litter.unlink()
        write(run.config, config)
        yield run


def _expect_free(run: Run) -> None:
    """Raise UsageError for a folder that holds more than the remains of a failed start."""
    if run.config.exists():
        raise UsageError(
            f"{run.folder} already holds a run. Go on: {command('resume', run.folder)}. "
            "Another: --run OTHER"
        )
    names = {path.name for path in run.folder.iterdir()} if run.folder.exists() else set()
    if any(name != ".lock" and not name.startswith(".config.yaml.") for name in names):
        raise UsageError(f"{run.folder} exists and is not empty. Choose another: --run OTHER")


def existing(folder: str | Path, of: Literal["agent", "energy"] | None = "agent") -> Run:
    """Return the run of an agent or an energy in `folder`, or of either.

    Raises:
        UsageError: If there is none, or one of the other kind.
    """
    run = Run(Path(folder))
    if not run.config.is_file():
        raise UsageError(f"{folder} is not the folder of a run: there is no {run.config}.")
    if of is not None and trains_energy(run) != (of == "energy"):
        other = "an energy: ebrl sample RUN" if of == "agent" else "an agent: ebrl evaluate RUN"
        raise UsageError(f"{folder} is the run of {other}, ebrl resume RUN.")
    return run


def no_checkpoint(run: Run) -> RunError:
    """Return the error of a run without a checkpoint."""
    return RunError(
        f"{run.folder} has no checkpoint yet. Train it: {command('resume', run.folder)}"
    )


def trains_energy(run: Run) -> bool:
    """Whether `ebrl fit` made the run: only its config has an objective."""
    try:
        lines = run.config.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"the config {run.config} cannot be read: {error}.") from error
    return any(line.startswith("objective:") for line in lines)


class Task(NamedTuple):
    """The agent of a run, and the environment that it trains in."""

    agent: str  # dotted name of the class
    environment: str


def task_of(run: Run) -> Task:
    """Return the task of an agent's run; its config is read as data, without importing anything.

    Raises:
        UsageError: If the config cannot be read, or names no agent.
    """
    tree = read_tree(run.config)
    try:
        return Task(str(tree["agent"]["class_path"]), str(tree["agent"]["init_args"]["env"]))
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{run.config}: expected a config with agent.class_path and agent.init_args.env."
        ) from error


@contextmanager
def sole_writer(run: Run) -> Iterator[None]:
    """Hold the lock of a run while it trains; any end of the process releases it.

    Raises:
        UsageError: If another process trains it.
    """
    try:
        with FileLock(run.folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise UsageError(f"{run.folder} is being trained by another process.") from error


def write(path: Path, text: str) -> None:
    """Write a file atomically, with escapes for what UTF-8 cannot hold."""
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_evaluations(run: Run, evaluations: list[dict[str, Any]]) -> None:
    """Write the evaluations as JSON, as SB3's `evaluations.npz`, and as a table.

    If evaluations differ in their number of episodes, because the config was changed, the array has
    the first episodes of each.
    """
    write_json(run.evaluations, evaluations)
    if not evaluations:
        return
    count = min(len(entry["returns"]) for entry in evaluations)
    with replacing(run.evaluations.with_suffix(".npz")) as file:
        np.savez(
            file,
            timesteps=np.array([entry["timesteps"] for entry in evaluations]),
            results=np.array([entry["returns"][:count] for entry in evaluations]),
            ep_lengths=np.array([entry["lengths"][:count] for entry in evaluations]),
        )
    columns = ["timesteps", "mean", "std", "cpu_seconds", "wall_seconds"]
    table = io.StringIO()
    rows = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows(evaluations)
    write(run.evaluations.with_suffix(".csv"), table.getvalue())


def read_evaluations(run: Run) -> list[dict[str, Any]]:
    """Return the evaluations of a run, [] before the first.

    Raises:
        UsageError: If the file is not what this command writes.
    """
    if not run.evaluations.exists():
        return []
    try:
        evaluations = json.loads(run.evaluations.read_text(encoding="utf-8"))
        whole = [entry for entry in evaluations if entry["timesteps"] >= 0 and entry["returns"]]
        if all(_is_whole(entry) for entry in whole):
            return whole
        raise TypeError("returns and seconds are numbers")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{run.evaluations} is damaged ({error!r}). Remove it: "
            f"{command('resume', run.folder)} evaluates again."
        ) from error


def _is_whole(entry: dict[str, Any]) -> bool:
    """Return whether an evaluation has the numbers that pictures and clocks need."""
    numbers = [entry["mean"], entry["std"], entry["cpu_seconds"], entry["wall_seconds"]]
    return all(isinstance(n, int | float) for n in [*numbers, *entry["returns"], *entry["lengths"]])
