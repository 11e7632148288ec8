"""The processes of a data-parallel training, as `torch.distributed` knows them.

Without an initialised process group there is one process, and nothing here communicates.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Return the rank of this process; rank 0 writes files."""
    return dist.get_rank() if _initialised() else 0


def process_count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _initialised() else 1


def mean_over_processes(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean of each number, 0-dim, over the processes; all have the same names."""
    if process_count() == 1:
        return numbers
    values = torch.stack([value.double() for value in numbers.values()])
    dist.all_reduce(values)
    return dict(zip(numbers, (values / process_count()).float().unbind(), strict=True))


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    if process_count() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    set_in = torch.tensor(int(flag), device=device)
    dist.all_reduce(set_in, dist.ReduceOp.MAX)
    return bool(set_in)


def gathered(parts: list[Any]) -> list[Any]:
    """Return the parts of all processes on rank 0, by rank, and [] elsewhere."""
    if process_count() == 1:
        return parts
    everywhere: list[Any] | None = [None] * process_count() if rank() == 0 else None
    dist.gather_object(parts, everywhere)
    return [part for each in everywhere or [] for part in each]


def same_in_all(number: int) -> bool:
    """Return whether all processes have the same number."""
    if process_count() == 1:
        return True
    numbers: list[Any] = [None] * process_count()
    dist.all_gather_object(numbers, number)
    return len(set(numbers)) == 1


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def check_minutes(minutes: float | None) -> None:
    """Raise `ValueError` for minutes out of range, or for more than one process.

    The clocks of several processes differ, and so would their learning rates and their ends.
    """
    if minutes is None:
        return
    if not 0 < minutes < math.inf:
        raise ValueError(f"expected minutes > 0, got {minutes}")
    if process_count() > 1:
        raise ValueError(f"expected one process for {minutes=}, got {process_count()}: give steps")
