"""Data by their names: here, or in the folder that the environment variable EBRL_DATA names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal


def find(name: str | Path, advice: str, *, kind: Literal["file", "folder"] = "file") -> Path:
    """Return the path of a file or folder, here or under EBRL_DATA.

    Args:
        name: A path relative to either folder, or an absolute path.
        advice: What the file or folder should be and where to get it, for the error message.
        kind: Whether to look for a file or a folder.

    Raises:
        FileNotFoundError: If there is no such file or folder.
    """
    for path in (Path(name), Path(os.environ.get("EBRL_DATA", ".")) / name):
        if path.is_dir() if kind == "folder" else path.is_file():
            return path
    raise FileNotFoundError(f"there is no {kind} {name}, here or under EBRL_DATA: {advice}")
