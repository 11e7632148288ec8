"""Where analytic gradients write: scratch memory, and the parameters' own gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def gradient_of(parameter: Tensor) -> Tensor:
    """Return the parameter's gradient, to be added to."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


class Scratch(NamedTuple):
    """Two tensors for each hidden layer, `(*rows, width)`."""

    sums: list[Tensor]
    spare: list[Tensor]


class Workspace:
    """Scratch memory that the networks of one shape reuse from call to call.

    Fresh tensors of this size cost more in page faults and cache misses than the kernels that fill
    them.
    """

    def __init__(self) -> None:
        self.scratch: dict[tuple, Scratch] = {}

    def of(self, rows: Tensor, widths: tuple[int, ...]) -> Scratch:
        """Return the memory of a pass of `rows: (*rows, inputs)`, good until the next one."""
        key = (rows.shape[:-1], rows.dtype, rows.device)
        if key not in self.scratch:
            if len(self.scratch) >= 16:  # many batch sizes: keep the memory bounded
                self.scratch.clear()
            sums, spare = (
                [rows.new_empty(*rows.shape[:-1], width) for width in widths] for _ in range(2)
            )
            self.scratch[key] = Scratch(sums, spare)
        return self.scratch[key]

    def __deepcopy__(self, memo: dict) -> Workspace:
        return Workspace()

    def __reduce__(self) -> tuple:
        return (Workspace, ())
