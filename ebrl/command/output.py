"""Output that cannot stop a training: any encoding, a closed pipe, a lost terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Lasting:
    """A text stream that drops its text once nobody can read it.

    Args:
        stream: Where text goes until its reader has left, the disk behind it is full, or the
            terminal has hung up.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the text if possible; return its length."""
        self._attempt(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        self._attempt(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _attempt(self, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except OSError:
            with open(os.devnull, "w") as nowhere:  # the interpreter's own last flush, too
                os.dup2(nowhere.fileno(), self.stream.fileno())


@contextmanager
def lasting_output() -> Iterator[None]:
    """A context in which printing works even after the readers of the output have left."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Lasting(before[0]), Lasting(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def open_output() -> None:
    """Make standard output usable: open, and able to print every character in some form."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, for the life of the process
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def abandon_output() -> None:
    """Discard all further standard output.

    The interpreter's own last flush would otherwise fail and change the exit code to 120.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
