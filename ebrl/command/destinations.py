"""Files and folders that a command writes, checked before its work."""

from __future__ import annotations

import os
from pathlib import Path

from ebrl.command.errors import UsageError


def check_file(option: str, path: Path, endings: tuple[str, ...] = (), *, overwrite: bool) -> None:
    """Check that a file can be written.

    Args:
        option: The option that names the file, for messages.
        path: The file.
        endings: Suffixes that are allowed; any if there are none.
        overwrite: Whether a file may be there already.

    Raises:
        UsageError: If it cannot.
    """
    if endings and path.suffix not in endings:
        raise UsageError(
            f"{option}: expected a file that ends in {' or '.join(endings)}, got {path}."
        )
    if path.is_dir() or not path.parent.is_dir():
        what = "that is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise UsageError(f"{option}: expected a file in a folder that exists, got {path}: {what}.")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{option}: {path.parent} cannot be written to.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already: --overwrite, or another {option}.")


def make_folder(option: str, path: Path) -> Path:
    """Make a folder, if it is not there, and return it.

    Raises:
        UsageError: If there is a file, or it cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option}: expected a folder, got {path} ({error.strerror}).") from error
    if not os.access(path, os.W_OK):
        raise UsageError(f"{option}: {path} cannot be written to.")
    return path
