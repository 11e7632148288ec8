"""Numbers that stay: bounds, masses, ladders of temperatures."""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.networks.workspace import Workspace


class Constant:
    """A tensor that follows the chains to their device and type: moved once, not at each step.

    To move it waits for the device. Kernels and spaces are no modules, which would move with
    `.to`.
    """

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.moved = Workspace()

    def to(self, x: Tensor) -> Tensor:
        """Return it on the device and in the type of x."""
        return self.on(x.device, x.dtype)

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or self.tensor.dtype
        here = self.tensor.device == device and self.tensor.dtype == dtype
        if here or torch.compiler.is_compiling():
            return self.tensor.to(device, dtype)
        return self.moved.kept((device, dtype), lambda: self.tensor.to(device, dtype))
