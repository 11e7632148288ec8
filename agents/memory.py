"""The memory that updates take and free, again and again."""

from __future__ import annotations

from functools import cache

import torch

LARGEST = 2**25 - 2**16  # bytes; no larger block moves glibc's threshold


@cache
def keep_freed_memory() -> None:
    """Let the allocator keep what an update frees, for the next one.

    glibc gives blocks above a threshold back to the system, and each page of a new one costs a
    fault: a tenth of an eager update. The threshold rises to the largest block that was freed
    (`man mallopt`, M_MMAP_THRESHOLD), here one whose pages nobody touches.
    """
    torch.empty(LARGEST, dtype=torch.uint8, device="cpu")
