"""Linear layers of one network or of an ensemble, with weights of the same shape for both."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from ebrl.networks.normalization import FeatureAffine


class EnsembleLinear(nn.Module):
    """A linear layer for each member of an ensemble, as one batched program.

    It maps `(members, rows, inputs)`, or `(rows, inputs)` shared by all members, to
    `(members, rows, outputs)`. Initial weights are those of `make_linear`.
    """

    weight: nn.Parameter  # (members, inputs, outputs)
    bias: nn.Parameter | None  # (members, 1, outputs)

    def __init__(
        self, members: int, inputs: int, outputs: int, fan_in: int | None = None, bias: bool = True
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs)) if bias else None
        _initialize(self, fan_in or inputs)

    def forward(self, rows: Tensor) -> Tensor:
        return multiply(rows, self.weight, self.bias)


def multiply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `rows @ weight + bias` for each member, `(members, rows, outputs)`.

    Args:
        rows: `(members, rows, inputs)`, or `(rows, inputs)` shared by all members.
        weight: `(members, inputs, outputs)`.
        bias: `(members, 1, outputs)` or None.
    """
    if weight.shape[-1] == 1:  # ten times as fast as a batched product with one column
        out = (rows * weight.transpose(-1, -2)).sum(-1, keepdim=True)
        return out if bias is None else out + bias
    rows = rows.expand(len(weight), -1, -1)
    return torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias, rows, weight)


def make_linear(
    members: int, inputs: int, outputs: int, fan_in: int | None = None, bias: bool = True
) -> nn.Linear | EnsembleLinear:
    """Return a linear layer with weights from `U(-1/√fan_in, 1/√fan_in)`, as `nn.Linear` has."""
    if members > 1:
        return EnsembleLinear(members, inputs, outputs, fan_in, bias)
    layer = nn.Linear(inputs, outputs, bias)
    _initialize(layer, fan_in or inputs)
    return layer


def _initialize(layer: nn.Module, fan_in: int) -> None:
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)


def in_full_precision(
    layer: Callable[[Tensor], Tensor], rows: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return `layer(rows)` in the layer's own precision, under autocast too.

    In bfloat16, energies near 300 are 2 apart, which is coarser than a reward.
    """
    if not torch.is_autocast_enabled(rows.device.type):
        return layer(rows)
    with torch.autocast(rows.device.type, enabled=False):
        return layer(rows.to(dtype))


def folded(affine: FeatureAffine | None, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return the weight and the bias of the linear layer that equals the map followed by `layer`.

    They are differentiable, `(members, inputs, outputs)` and `(members, 1, outputs)`.
    """
    weight, bias = weight_of(layer), None if layer.bias is None else bias_of(layer)
    if affine is None:
        return weight, bias
    shift = affine.shift @ weight
    scaled = affine.scale.transpose(-1, -2) * weight  # an exporter to ONNX does not know `mT`
    return scaled, shift if bias is None else bias + shift


def side_by_side(*linears: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Return the layer on the concatenated inputs whose output is the sum of all outputs."""
    biases = [bias for _, bias in linears if bias is not None]
    weight = torch.cat([weight for weight, _ in linears], 1)
    return weight, reduce(torch.add, biases) if biases else None


def apply_after(affine: FeatureAffine | None, layer: nn.Module, rows: Tensor) -> Tensor:
    """Return `layer(affine(rows))`, by folded weights where the layer is only its weights.

    That spares a pass over the rows and two sums over them in the backward pass.
    """
    if affine is None:
        return layer(rows)
    if not is_linear(layer):
        return layer(affine(rows))
    out = multiply(rows, *folded(affine, layer))
    return out.squeeze(0) if isinstance(layer, nn.Linear) else out


@torch.no_grad()
def normalise_weights(*layers: nn.Module) -> None:
    """Scale linear layers so that the weights into each unit have norm 1, and the biases alike.

    Layers whose outputs are added share one norm.
    """
    squares = [weight_of(layer).square().sum(1, keepdim=True) for layer in layers]
    norm = torch.stack(squares).sum(0).sqrt()  # (members, 1, outputs)
    norm = torch.where(norm > 0, norm, 1.0)
    for layer in layers:
        weight_of(layer).div_(norm)
        if layer.bias is not None:
            bias_of(layer).div_(norm)


def is_linear(layer: nn.Module) -> bool:
    """Whether the layer is only its weights, which may be parametrised."""
    forward = type(layer).forward
    return forward in (nn.Linear.forward, EnsembleLinear.forward) and not has_hooks(layer)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def weight_of(layer: Any) -> Tensor:
    """Return the weight of a linear layer, `(members, inputs, outputs)`."""
    weight: Tensor = layer.weight
    return weight if weight.ndim == 3 else weight.mT.unsqueeze(0)


def bias_of(layer: Any) -> Tensor:
    """Return the bias of a linear layer, `(members, 1, outputs)`."""
    bias: Tensor = layer.bias
    return bias.view(-1, 1, bias.shape[-1])
