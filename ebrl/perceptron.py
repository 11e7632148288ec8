"""A multilayer perceptron forth and back by hand, in scratch memory and without graphs.

Rows are `(rows, width)` and weights `(inputs, outputs)`. An ensemble's have the members in front
and run as one batched program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.slopes import Slope
from ebrl.workspace import Scratch


class Layer(NamedTuple):
    """A linear layer's weights as views, so that a step of a chain looks none up by name."""

    weight: Tensor  # (inputs, outputs)
    bias: Tensor  # (1, outputs)


class Pass(NamedTuple):
    """What the way back needs, a tensor for each activation, good until the memory's next use."""

    outputs: list[Tensor]  # (rows, width)
    kept: list[Tensor]  # (rows, width), what the slope follows from, the output for some
    free: list[Tensor]  # (rows, width), memory for the way back; the output unless it is kept

    def member(self, i: int, rows: Tensor) -> Pass:
        """Return one member's pass at some rows, gathered into the memory that is free."""
        free = [tensor[i, : len(rows)] for tensor in self.kept]
        kept = [
            torch.index_select(kept[i], 0, rows, out=out[i, : len(rows)])
            for kept, out in zip(self.kept, self.free, strict=True)
        ]
        return Pass([], kept, free)


def affine(rows: Tensor, layer: Layer, out: Tensor | None = None) -> Tensor:
    """Return `rows W + b`."""
    multiply = torch.addmm if rows.ndim == 2 else torch.baddbmm
    return multiply(layer.bias, rows, layer.weight, out=out)


def shared_affine(rows: Tensor, weight: Tensor, share: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `rows W + share`, where `share: (runs, outputs)` has one row for each run of rows."""
    runs = share.shape[-2]
    if runs in (1, rows.shape[-2]):
        return affine(rows, Layer(weight, share), out)
    sums = product(rows, weight, out)
    sums.unflatten(-2, (runs, -1)).add_(share.unsqueeze(-2))
    return sums


def product(rows: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `rows W`."""
    return (torch.mm if rows.ndim == 2 else torch.bmm)(rows, weight, out=out)


def activations(layers: Sequence[Layer], slope: Slope, scratch: Scratch) -> Tensor:
    """Return the last activations, from the sums of the layer before `layers`, in `scratch`."""
    h = slope.in_place(scratch.sums[0])
    for layer, sums in zip(layers, scratch.sums[1:], strict=True):
        h = slope.in_place(affine(h, layer, out=sums))
    return h


def forward(layers: Sequence[Layer], slope: Slope, scratch: Scratch) -> Pass:
    """Return the pass from the sums of the layer before `layers`, which are in `scratch`."""
    outputs, spare = scratch
    kept = [slope.activate(outputs[0], spare[0])]
    for k, layer in enumerate(layers):
        affine(outputs[k], layer, out=outputs[k + 1])
        kept.append(slope.activate(outputs[k + 1], spare[k + 1]))
    return Pass(outputs, kept, spare if slope.of_output else outputs)


def descend(back: Tensor, layers: Sequence[Layer], past: Pass, slope: Slope) -> Tensor:
    """Return the gradient at the first sums of the pass from that at its last activations.

    Both are `(rows, width)`; the last of what was kept is overwritten.
    """
    back = slope.through(back, past.kept[-1], past.kept[-1])
    for k in range(len(layers) - 1, -1, -1):
        back = _through(back, k, layers, past, slope)
    return back


def accumulate(
    back: Tensor, layers: Sequence[Layer], gradients: Sequence[Layer], past: Pass, slope: Slope
) -> Tensor:
    """Return the same as `descend` and add the layers' own gradients to `gradients`."""
    back = slope.through(back, past.kept[-1], past.kept[-1])
    for k in range(len(layers) - 1, -1, -1):
        add_gradient(gradients[k], past.outputs[k], back)
        back = _through(back, k, layers, past, slope)
    return back


def add_gradient(gradient: Layer, rows: Tensor, back: Tensor) -> None:
    """Add a layer's gradient, from its inputs `(rows, inputs)` and the gradient at its sums."""
    weight, bias = gradient
    (weight.addmm_ if weight.ndim == 2 else weight.baddbmm_)(rows.mT, back)
    bias.add_(back.sum(-2).view_as(bias))


def _through(back: Tensor, k: int, layers: Sequence[Layer], past: Pass, slope: Slope) -> Tensor:
    """Return the gradient at the sums before layer k from that at its own."""
    back = product(back, layers[k].weight.mT, out=past.free[k])
    return slope.through(back, past.kept[k], back)
