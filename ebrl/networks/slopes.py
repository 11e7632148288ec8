"""Activations and their derivatives, both into memory that is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

Call = Callable[[], object]


class Slope(NamedTuple):
    """An activation and its derivative, both into given memory."""

    # (sums, spare) -> calls: the sums become the activations, and the spare, unless `of_output`,
    # what the slope follows from
    activate: Callable[[Tensor, Tensor], list[Call]]
    # (upstream, kept, out) -> the call that makes `out` their product, of upstream and the slope
    through: Callable[[Tensor, Tensor, Tensor], Callable[[], Tensor]]
    in_place: Callable[[Tensor], Tensor]  # the activation alone
    of_output: bool  # whether the slope follows from the activation: the spare is left alone


def known_slope(activation: nn.Module, device: torch.device) -> Slope | None:
    """Return the activation's derivative where it is known; autocast is left to autograd."""
    if torch.is_autocast_enabled(device.type):
        return None
    return _SLOPES.get(type(activation))


def run(calls: Iterable[Call]) -> None:
    for call in calls:
        call()


def _relu(sums: Tensor, spare: Tensor) -> list[Call]:
    return [sums.relu_]


def _relu_slope(upstream: Tensor, output: Tensor, out: Tensor) -> Callable[[], Tensor]:
    return partial(torch.ops.aten.threshold_backward, upstream, output, 0, grad_input=out)


def _silu(sums: Tensor, spare: Tensor) -> list[Call]:
    """Keep the slope itself, `σ + h (1 - σ)` with `h = s σ`: cheaper than to compute σ again."""
    return [
        partial(torch.sigmoid, sums, out=spare),
        partial(sums.mul_, spare),
        partial(torch.lerp, sums, sums.new_ones(()), spare, out=spare),
    ]


def _silu_slope(upstream: Tensor, slope: Tensor, out: Tensor) -> Callable[[], Tensor]:
    return partial(torch.mul, upstream, slope, out=out)


def _tanh(sums: Tensor, spare: Tensor) -> list[Call]:
    return [sums.tanh_]


def _tanh_slope(upstream: Tensor, output: Tensor, out: Tensor) -> Callable[[], Tensor]:
    return partial(torch.ops.aten.tanh_backward, upstream, output, grad_input=out)


_SLOPES: dict[type[nn.Module], Slope] = {
    nn.ReLU: Slope(_relu, _relu_slope, torch.relu_, of_output=True),
    nn.SiLU: Slope(_silu, _silu_slope, torch.ops.aten.silu_, of_output=False),
    nn.Tanh: Slope(_tanh, _tanh_slope, torch.tanh_, of_output=True),
}
