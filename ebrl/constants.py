"""Constant tensors of objects that are not modules: bounds, masses, ladders of temperatures."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """A tensor that keeps a copy for each device and dtype in which it was requested.

    Kernels and spaces use it for chains on any device, without a copy at every step.
    """

    def __init__(self, tensor: Tensor):
        with torch.inference_mode(False):  # a tensor made in it cannot enter a graph
            self.tensor = tensor = tensor.clone() if tensor.is_inference() else tensor
        self._copies = {(tensor.device, tensor.dtype): tensor}

    def to(self, x: Tensor) -> Tensor:
        """Return the tensor on the device and in the dtype of x."""
        return self.on(x.device, x.dtype)

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Return the tensor on a device, by default in its own dtype."""
        place = (device, dtype or self.tensor.dtype)
        if torch.compiler.is_compiling():
            return self.tensor.to(*place)
        if place not in self._copies:
            with torch.inference_mode(False):
                self._copies[place] = self.tensor.to(*place)
        return self._copies[place]
