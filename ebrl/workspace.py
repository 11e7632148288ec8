"""Where analytic gradients write: scratch memory, and the parameters' own gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_of(parameter: Tensor) -> Tensor:
    """Return the parameter's gradient, to be added to."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


class Workspace:
    """Scratch tensors that a network reuses from call to call, one for each name and shape."""

    def __init__(self) -> None:
        self.buffers: dict[tuple, Tensor] = {}

    def like(self, name: str, layer: int, tensor: Tensor, width: int | None = None) -> Tensor:
        """Return scratch of the tensor's shape, with its last axis of `width` if given."""
        shape = tensor.shape if width is None else (*tensor.shape[:-1], width)
        key = (name, layer, shape, tensor.dtype, tensor.device)
        if key not in self.buffers:
            if len(self.buffers) >= 64:  # many batch sizes: keep the memory bounded
                self.buffers.clear()
            self.buffers[key] = tensor.new_empty(shape)
        return self.buffers[key]

    def __deepcopy__(self, memo: dict) -> Workspace:
        return Workspace()

    def __reduce__(self) -> tuple:
        return (Workspace, ())
