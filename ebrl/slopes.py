"""Activations and their derivatives, both into memory that is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Slope(NamedTuple):
    """An activation and its derivative, both into given memory."""

    activate: Callable[[Tensor, Tensor], Tensor]  # (sums, out) -> activation(sums)
    through: Callable[[Tensor, Tensor, Tensor], Tensor]  # (upstream, kept, out) -> upstream * slope
    of_output: bool  # whether the slope follows from the activation, which then replaces the sums


def known_slope(activation: nn.Module, device: torch.device) -> Slope | None:
    """Return the activation's derivative where it is known; autocast is left to autograd."""
    if torch.is_autocast_enabled(device.type):
        return None
    return _SLOPES.get(type(activation))


def _relu(sums: Tensor, out: Tensor) -> Tensor:
    return torch.clamp(sums, min=0, out=out)


def _relu_slope(upstream: Tensor, output: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(upstream, output, 0, grad_input=out)


def _silu(sums: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.silu(sums, out=out)


def _silu_slope(upstream: Tensor, sums: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward(upstream, sums, grad_input=out)


def _tanh(sums: Tensor, out: Tensor) -> Tensor:
    return torch.tanh(sums, out=out)


def _tanh_slope(upstream: Tensor, output: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.tanh_backward(upstream, output, grad_input=out)


_SLOPES: dict[type[nn.Module], Slope] = {
    nn.ReLU: Slope(_relu, _relu_slope, of_output=True),
    nn.SiLU: Slope(_silu, _silu_slope, of_output=False),
    nn.Tanh: Slope(_tanh, _tanh_slope, of_output=True),
}
