"""Files and folders that cannot be written are refused before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebrl.command.destinations import check_file, make_folder
from ebrl.command.errors import UsageError


def test_a_folder_is_made(tmp_path: Path) -> None:
    assert make_folder("--out", tmp_path / "a" / "b").is_dir()
    assert make_folder("--out", tmp_path / "a" / "b").is_dir()


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="--out: expected a folder"):
            make_folder("--out", path)


def test_a_folder_that_is_read_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # tests may be root's
    with pytest.raises(UsageError, match="cannot be written to"):
        make_folder("--out", tmp_path)
    with pytest.raises(UsageError, match="cannot be written to"):
        check_file("--out", tmp_path / "new.npz", overwrite=False)
