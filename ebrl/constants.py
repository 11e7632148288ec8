"""Constant tensors of objects that are no modules: bounds, masses, ladders of temperatures."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """A tensor with a copy on every device and in every type in which it was needed.

    Kernels and spaces follow the chains in this way: to move the tensor at each step would wait for
    the device.
    """

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self._copies = {(tensor.device, tensor.dtype): tensor}

    def to(self, x: Tensor) -> Tensor:
        """Return it on the device and in the type of x."""
        return self.on(x.device, x.dtype)

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Return it on a device, in its own type if there is none given."""
        place = (device, dtype or self.tensor.dtype)
        if torch.compiler.is_compiling():
            return self.tensor.to(*place)
        if place not in self._copies:
            with torch.inference_mode(False):  # or no graph could ever use the copy
                self._copies[place] = self.tensor.to(*place)
        return self._copies[place]
