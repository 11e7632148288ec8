"""Keep the allocator from returning freed memory to the system."""

from __future__ import annotations

from functools import cache

import torch

MMAP_THRESHOLD = 2**25 - 2**16  # bytes; no larger block moves glibc's threshold


@cache
def keep_freed_memory() -> None:
    """Let the allocator keep what an update frees, for the next one.

    glibc returns blocks above a threshold to the system. Each page of a new block then costs a page
    fault: a tenth of an eager update. The threshold rises to the largest block that was freed
    (`man mallopt`, M_MMAP_THRESHOLD), so a large block is allocated here and freed untouched.
    """
    torch.empty(MMAP_THRESHOLD, dtype=torch.uint8, device="cpu")
