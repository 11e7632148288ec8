"""Checkpoints of an energy's training: everything that a step changes, in a rolling folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ebrl import rolling, schema, storage
from ebrl.energies import Energy
from ebrl.rolling import checkpoints_in as checkpoints_in
from ebrl.storage import StorageError

KIND = "training"


def write_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write the state of a training into `folder`, and drop all but the newest: `write_newest`."""
    rolling.remove_litter(folder)
    tensors, facts = storage.flatten(state)
    head = {"kind": KIND, "step": step, "state": facts}
    return rolling.write_newest(folder, step, tensors, head, keep)


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the newest checkpoint that can be read, and the state in it.

    It warns of those that cannot be read. Errors are those of `ebrl.rolling.read_newest`.
    """
    newest = rolling.read_newest(folder, KIND)
    for note in newest.notes:
        warnings.warn(note, stacklevel=2)
    state = storage.unflatten(newest.stored.tensors, newest.stored.facts.get("state"))
    if not isinstance(state, dict):
        raise StorageError(f"{newest.path}: expected the state of a training, got {state!r}")
    return newest.path, state


def load_average(energy: Energy, folder: Path) -> int:
    """Load the averaged weights of the newest checkpoint, or its only weights, into `energy`.

    Returns the number of steps that trained them. Raises `StorageError` for the weights of another
    energy, or for NaN.
    """
    path, state = newest_checkpoint(folder)
    try:
        weights = state["energy"]
        if "averaged" in state:
            weights = {name: state["averaged"][f"module.{name}"] for name in weights}
        here = {name: schema.like(one) for name, one in energy.state_dict().items()}
        schema.record(here, rest=True)(weights, "energy")
        if lost := [name for name, one in weights.items() if one.isnan().any()]:
            raise ValueError(f"energy/{lost[0]} holds NaN")
        energy.load_state_dict(weights)
        return int(state["step"])
    # the state is no tree of weights, or names, shapes, dtypes or numbers do not fit
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise StorageError(f"{path}: these weights do not fit the energy: {error}") from error
