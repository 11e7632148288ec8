"""Rolling checkpoints: the newest few stay, and what cannot be read is passed over."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ebrl import storage
from ebrl.rolling import (
    checkpoint_path,
    checkpoints_in,
    read_newest,
    remove_litter,
    step_of,
    write_newest,
)
from ebrl.storage import StorageError

FACTS = {"kind": "test"}
TENSORS = {"x": torch.arange(100.0)}


def fill(folder: Path, *steps: int, keep: int = 2) -> None:
    for step in steps:
        write_newest(folder, step, TENSORS, {**FACTS, "step": step}, keep)


def test_the_newest_stay(tmp_path: Path) -> None:
    fill(tmp_path, 1, 20, 300, keep=2)
    assert [step_of(path) for path in checkpoints_in(tmp_path)] == [300, 20]
    assert read_newest(tmp_path, "test").stored.facts["step"] == 300


def test_a_run_that_repeats_steps_keeps_the_unreadable_one_ahead(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    checkpoint_path(tmp_path, 9).write_bytes(b"")
    fill(tmp_path, 3, 4)
    assert [step_of(path) for path in checkpoints_in(tmp_path)] == [9, 4, 3]


SPOILED: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "one byte lost": lambda path: path.write_bytes(
        path.read_bytes()[:300] + path.read_bytes()[301:]
    ),
    "empty": lambda path: path.write_bytes(b""),
    "dangling link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "cannot be read": lambda path: (path.unlink(), path.symlink_to("/proc/self/mem")),
    "other kind": lambda path: storage.save(path, TENSORS, {"kind": "other"}),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_cannot_be_read_is_passed_over(tmp_path: Path, spoil: Callable) -> None:
    fill(tmp_path, 1, 2)
    spoil(checkpoint_path(tmp_path, 2))
    newest = read_newest(tmp_path, "test")
    assert newest.stored.facts["step"] == 1
    assert [note.startswith("passed over an unreadable checkpoint") for note in newest.notes] == [
        True
    ]
    fill(tmp_path, 2)  # the run that goes on comes there again
    assert read_newest(tmp_path, "test").stored.facts["step"] == 2
    checkpoint_path(tmp_path, 1).unlink()
    checkpoint_path(tmp_path, 2).unlink()
    checkpoint_path(tmp_path, 2).write_bytes(b"")
    with pytest.raises(StorageError, match="no checkpoint can be read; passed over"):
        read_newest(tmp_path, "test")


def test_none_at_all_is_another_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-latest.zip").write_bytes(b"")  # not one of ours
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint-\*\.zip, got none"):
        read_newest(tmp_path, "test")


def test_the_litter_of_a_killed_process_goes(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    (tmp_path / ".checkpoint-000000000002.zip.7.tmp").write_bytes(b"half")
    remove_litter(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoint-000000000001.zip"]
