"""Activations and their derivatives, both into memory that is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Slope(NamedTuple):
    """An activation and its derivative, both into given memory."""

    # (sums, scratch) -> the activations and what is kept for the way back; both are overwritten
    activate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    through: Callable[[Tensor, Tensor, Tensor], Tensor]  # (upstream, kept, out) -> upstream * slope
    in_place: Callable[[Tensor], Tensor]  # the activation alone
    of_output: bool  # whether the slope follows from the activation: no scratch is needed


def known_slope(activation: nn.Module, device: torch.device) -> Slope | None:
    """Return the activation's derivative where it is known; autocast is left to autograd."""
    if torch.is_autocast_enabled(device.type):
        return None
    return _SLOPES.get(type(activation))


def _relu(sums: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    return sums.clamp_(min=0), sums


def _relu_slope(upstream: Tensor, output: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(upstream, output, 0, grad_input=out)


def _silu(sums: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the slope itself, `σ + h (1 - σ)` with `h = s σ`: cheaper than to compute σ again."""
    sigmoid = torch.sigmoid(sums, out=scratch)
    output = sums.mul_(sigmoid)
    return output, torch.lerp(output, output.new_ones(()), sigmoid, out=scratch)


def _silu_slope(upstream: Tensor, slope: Tensor, out: Tensor) -> Tensor:
    return torch.mul(upstream, slope, out=out)


def _tanh(sums: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    return sums.tanh_(), sums


def _tanh_slope(upstream: Tensor, output: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.tanh_backward(upstream, output, grad_input=out)


_SLOPES: dict[type[nn.Module], Slope] = {
    nn.ReLU: Slope(_relu, _relu_slope, torch.relu_, of_output=True),
    nn.SiLU: Slope(_silu, _silu_slope, torch.ops.aten.silu_, of_output=False),
    nn.Tanh: Slope(_tanh, _tanh_slope, torch.tanh_, of_output=True),
}
