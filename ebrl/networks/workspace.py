"""Where analytic gradients write: scratch memory, and the parameters' own gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

LIMIT = 2**22  # numbers in the layers of a pass


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
    them. The memory of a pass above the limit is its caller's alone: one large batch would occupy
    it for ever. A copy starts empty.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit
        self.made: dict[tuple, Any] = {}

    def keeps(self, rows: Tensor, widths: tuple[int, ...]) -> bool:
        """Whether the memory of a pass of `rows: (*rows, inputs)` stays here."""
        return rows.shape[:-1].numel() * sum(widths) <= self.limit

    def of(self, rows: Tensor, widths: tuple[int, ...]) -> Scratch:
        """Return the memory of a pass of `rows: (*rows, inputs)`, good until the next one."""
        batch = rows.shape[:-1]

        def tensors() -> list[Tensor]:
            return [rows.new_empty(*batch, width) for width in widths]

        if not self.keeps(rows, widths):
            return Scratch(tensors(), tensors())
        key = (batch, rows.dtype, rows.device)
        return self.kept(key, lambda: Scratch(tensors(), tensors()))

    def like(self, tensor: Tensor, layer: int) -> Tensor:
        """Return a layer's memory of the shape and layout of `tensor`, good until its next use."""
        key = (layer, tensor.shape, tensor.dtype, tensor.device)
        return self.kept(key, lambda: torch.empty_like(tensor))

    def kept(self, key: tuple, make: Callable[[], Any]) -> Any:
        """Return what was made for the key, made now if it was not."""
        if key not in self.made:
            if len(self.made) >= 16:  # many batch sizes: keep the memory bounded
                self.made.clear()
            # No call outside of inference mode could write to tensors that were made within.
            with torch.inference_mode(False), torch.no_grad():
                self.made[key] = make()
        return self.made[key]

    def __deepcopy__(self, memo: dict) -> Workspace:
        return Workspace(self.limit)

    def __reduce__(self) -> tuple:
        return (Workspace, (self.limit,))
