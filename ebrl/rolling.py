"""Rolling checkpoints: a folder that keeps the newest few, each whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ebrl import storage
from ebrl.storage import Source, StorageError, Stored


class Newest(NamedTuple):
    """The newest checkpoint that can be read."""

    path: Path
    stored: Stored
    notes: list[str]  # why each newer one was passed over


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return folder / f"checkpoint-{step:012d}.zip"


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint, from its name."""
    return int(checkpoint.stem.rpartition("-")[2])


def checkpoints_in(folder: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first, whether they can be read or not."""
    return sorted(Path(folder).glob(f"checkpoint-{'[0-9]' * 12}.zip"), reverse=True)


def write_newest(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: dict[str, Any], keep: int = 2
) -> Path:
    """Write the checkpoint of a step, atomically, and drop all but the newest `keep`.

    Raises:
        OSError: When the disk refuses; the checkpoints that are there already stay whole.
    """
    path = checkpoint_path(folder, step)
    if path.is_dir():  # cannot be replaced by a file
        path.rename(path.with_name(f"{path.name}.set-aside"))
    storage.save(path, tensors, facts)
    # Newer ones are the unreadable remains of a run that this one repeats.
    for old in [one for one in checkpoints_in(folder) if one.name <= path.name][keep:]:
        if not old.is_dir():
            old.unlink()
    return path


def remove_litter(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left."""
    for litter in folder.glob(".checkpoint-*.tmp"):
        litter.unlink()


def read_newest(folder: str | Path, kind: str) -> Newest:
    """Read the newest checkpoint whose fact `"kind"` is `kind`, passing over unreadable ones.

    Raises:
        FileNotFoundError: When there is no checkpoint.
        StorageError: When there are some, and none can be read.
    """
    paths = checkpoints_in(folder)
    if not paths:
        raise FileNotFoundError(f"{folder}: expected a checkpoint-*.zip, got none")
    notes: list[str] = []
    for path in paths:
        try:
            return Newest(path, read_checkpoint(path, kind), notes)
        except (StorageError, OSError) as error:  # noqa: PERF203, one or two files
            notes.append(f"passed over an unreadable checkpoint: {error}")
    raise StorageError(f"{folder}: no checkpoint can be read; " + "; ".join(notes))


def read_checkpoint(path: Source, kind: str) -> Stored:
    """Read one checkpoint; `StorageError` when it cannot be read, or is of another kind."""
    stored = storage.load(path)
    if stored.facts.get("kind") != kind:
        raise StorageError(f"{path}: expected a {kind}, got {stored.facts.get('kind')!r}")
    return stored
