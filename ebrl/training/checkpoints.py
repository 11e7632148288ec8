"""Checkpoints of an energy's training: a folder with the newest two, each whole or absent."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ebrl import storage
from ebrl.energies import Energy
from ebrl.storage import StorageError


def write_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write the state of a training into `folder`, atomically, and drop all but the newest."""
    for litter in folder.glob(".checkpoint-*.tmp"):  # of a process killed while it wrote
        litter.unlink()
    path = folder / f"checkpoint-{step:012d}.zip"
    tensors, facts = storage.flatten(state)
    storage.save(path, tensors, {"kind": "training", "step": step, "state": facts})
    # Newer ones are the damaged leavings of a run that this one repeats.
    for old in [one for one in checkpoints_in(folder) if one.name <= path.name][keep:]:
        old.unlink()
    return path


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the newest whole checkpoint in `folder` and the state in it.

    Damaged ones are passed over, with a warning. Raises FileNotFoundError when there is none,
    StorageError when none is whole or what it finds is no training of an energy.
    """
    paths = checkpoints_in(folder)
    if not paths:
        raise FileNotFoundError(f"{folder}: expected a checkpoint-*.zip, got none")
    for path in paths:
        try:
            stored = storage.load(path)
        except StorageError as error:
            warnings.warn(f"passed over a damaged checkpoint: {error}", stacklevel=2)
            continue
        if stored.facts.get("kind") != "training":
            raise StorageError(f"{path}: expected the checkpoint of an energy's training")
        return path, storage.unflatten(stored.tensors, stored.facts["state"])
    raise StorageError(f"{folder}: no whole checkpoint among {len(paths)}")


def load_average(energy: Energy, folder: Path) -> int:
    """Put the averaged weights of the newest checkpoint, or its only ones, into `energy`.

    Returns the steps of training behind them. Raises as `newest_checkpoint` does, and StorageError
    for the weights of another energy.
    """
    path, state = newest_checkpoint(folder)
    weights = state["energy"]
    if "averaged" in state:
        weights = {name: state["averaged"][f"module.{name}"] for name in weights}
    try:
        energy.load_state_dict(weights)
    except RuntimeError as error:
        raise StorageError(f"{path}: these are the weights of another energy: {error}") from error
    return state["step"]


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first, whole or not."""
    return sorted(folder.glob("checkpoint-*.zip"), reverse=True)
