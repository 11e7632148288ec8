"""A run is a folder; this is what lies where in it, and who may write there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ebrl.command.errors import UsageError
from ebrl.storage import replacing


class Run(NamedTuple):
    """The folder of a run. TensorBoard's event files lie at its top."""

    folder: Path

    @property
    def config(self) -> Path:
        """The resolved config: `ebrl train` reads it like any other."""
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
        """The trained agent, for `AGENT.load`."""
        return self.folder / "model.zip"

    @property
    def picture(self) -> Path:
        return self.folder / "plot.png"


def create(folder: str | Path, config: str) -> Run:
    """Make the run folder and write the resolved `config` into it.

    Raises UsageError when something is there already.
    """
    run = Run(Path(folder))
    taken = f"{folder} already holds a run. Go on: ebrl resume {folder}. Another: --run OTHER"
    if run.config.exists():
        raise UsageError(taken)
    if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty. Choose another folder: --run OTHER")
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(run.config, "x", encoding="utf-8") as file:  # exclusive: two at once, one wins
            file.write(config)
    except FileExistsError as error:
        raise UsageError(taken) from error
    return run


def existing(folder: str | Path, of: Literal["agent", "energy"] | None = "agent") -> Run:
    """The run of an agent or an energy in `folder`, or of either.

    Raises UsageError when there is none, or one of the other kind.
    """
    run = Run(Path(folder))
    if not run.config.is_file():
        raise UsageError(f"{folder} is not the folder of a run: there is no {run.config}.")
    if of is not None and trains_energy(run) != (of == "energy"):
        other = "an energy: ebrl sample RUN" if of == "agent" else "an agent: ebrl evaluate RUN"
        raise UsageError(f"{folder} is the run of {other}, ebrl resume RUN.")
    return run


def trains_energy(run: Run) -> bool:
    """Whether `ebrl fit` made the run: only its config has an objective."""
    lines = run.config.read_text(encoding="utf-8").splitlines()
    return any(line.startswith("objective:") for line in lines)


@contextmanager
def sole_writer(run: Run) -> Iterator[None]:
    """Hold the run while it trains. Raises UsageError when another process trains it.

    The lock is the operating system's (POSIX `flock`): it falls with the process, however that
    ends. Where there is none (Windows), nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(run.folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{run.folder} is being trained by another process.") from error
        yield


def write(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_evaluations(run: Run) -> list[dict[str, Any]]:
    """The evaluations of a run; none when it has not been evaluated yet.

    Raises UsageError when the file is not what this command writes.
    """
    if not run.evaluations.exists():
        return []
    try:
        evaluations = json.loads(run.evaluations.read_text(encoding="utf-8"))
        return [entry for entry in evaluations if entry["timesteps"] >= 0 and entry["returns"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run.evaluations} is damaged: {error!r}.") from error
