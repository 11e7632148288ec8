"""A network of linear layers, forth and back by hand, under `torch.no_grad`.

Its activations live in scratch memory and its gradients are added where they belong, without the
graphs and fresh tensors of autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebrl.slopes import Slope
from ebrl.workspace import Workspace, gradient_of


class Pass(NamedTuple):
    """What the way back needs, good until the workspace is used again."""

    inputs: list[Tensor]  # (batch, width), what entered each layer
    slopes: list[Tensor]  # (batch, width), what the slope of each activation follows from
    output: Tensor  # (batch, outputs), the caller's


def forward(
    layers: Sequence[nn.Linear], slope: Slope, features: Tensor, workspace: Workspace
) -> Pass:
    """Pass `features: (batch, inputs)` through the layers, with the activation between them."""
    inputs, slopes, h = [features], [], features
    *hidden, last = layers
    for k, layer in enumerate(hidden):
        sums = workspace.like("sum", k, h, width=layer.out_features)
        torch.addmm(layer.bias, h, layer.weight.t(), out=sums)
        scratch = sums if slope.of_output else workspace.like("out", k, sums)
        h, kept = slope.activate(sums, scratch)
        inputs.append(h)
        slopes.append(kept)
    return Pass(inputs, slopes, torch.addmm(last.bias, h, last.weight.t()))


def backward(
    layers: Sequence[nn.Linear], slope: Slope, past: Pass, gradient: Tensor, workspace: Workspace
) -> None:
    """Add to the parameters' gradients, from `gradient: (batch, outputs)` at the output.

    It flows on to what made the features.
    """
    for k in range(len(layers) - 1, -1, -1):
        layer, h = layers[k], past.inputs[k]
        gradient_of(layer.weight).addmm_(gradient.t(), h)
        gradient_of(layer.bias).add_(gradient.sum(0))
        if k > 0:
            back = workspace.like("back", k, h)
            torch.mm(gradient, layer.weight, out=back)
            gradient = slope.through(back, past.slopes[k - 1], back)
        elif h.requires_grad:
            h.backward(gradient @ layer.weight)
