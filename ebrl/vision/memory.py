"""Memory that holds nothing, given back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

LIBC: Any = ctypes.CDLL(None) if sys.platform == "linux" else None


def give_back() -> None:
    """Give free memory back to the system where the C library is glibc, in a few milliseconds."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)


@lru_cache(maxsize=4096)
def give_back_once(shape: tuple[int, ...]) -> None:
    """Call `give_back` after work on tensors of a shape that is new to the process.

    Convolutions keep a kernel for each shape. These lie between the tensors of the call that made
    them, which therefore leave holes that do not join: a process would grow with every new shape.
    """
    give_back()
