"""A multilayer perceptron forth and back by hand, in scratch memory and without graphs.

Rows are `(rows, width)` and weights `(inputs, outputs)`. An ensemble's have the members in front
and run as one batched program. A pass is a list of calls on memory that stays: whoever makes it
often, as the steps of a chain do, keeps the list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.networks.slopes import Call, Slope
from ebrl.networks.workspace import Scratch


class Layer(NamedTuple):
    """A linear layer's weights as views, so that a step of a chain looks none up by name."""

    weight: Tensor  # (inputs, outputs)
    bias: Tensor  # (1, outputs)


class Weights(NamedTuple):
    """The weights as views: of one member as matrices, of several with the members in front."""

    first: Layer  # of the condition and x together
    x: Tensor  # (dimension, hidden), the share of x in the first layer
    hidden: list[Layer]
    back: list[Tensor]  # (outputs, inputs), the hidden layers' transposed
    head: Layer  # (hidden, 1)

    def member(self, i: int) -> Weights:
        """Return the matrices of one of several members."""
        first, *hidden, head = (
            Layer(layer.weight[i], layer.bias[i]) for layer in (self.first, *self.hidden, self.head)
        )
        return Weights(first, self.x[i], hidden, [weight[i] for weight in self.back], head)


class Pass(NamedTuple):
    """The memory of a pass, a tensor for each activation, good until its next use."""

    outputs: list[Tensor]  # (rows, width), a layer's sums and then its activations
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


def memory(scratch: Scratch, slope: Slope) -> Pass:
    """Return the memory of a pass in `scratch`, whose first sums are the first layer's."""
    outputs, spare = scratch
    return Pass(outputs, outputs, spare) if slope.of_output else Pass(outputs, spare, outputs)


def affine(rows: Tensor, layer: Layer, out: Tensor | None = None) -> Tensor:
    """Return `rows W + b`."""
    return addmm_for(rows)(layer.bias, rows, layer.weight, out=out)


def shared_affine(rows: Tensor, weight: Tensor, share: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `rows W + share`, where `share: (runs, outputs)` has one row for each run of rows."""
    runs = share.shape[-2]
    if runs in (1, rows.shape[-2]):
        return addmm_for(rows)(share, rows, weight, out=out)
    sums = product(rows, weight, out)
    sums.unflatten(-2, (runs, -1)).add_(share.unsqueeze(-2))
    return sums


def product(rows: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `rows W`."""
    return mm_for(rows)(rows, weight, out=out)


def activations(layers: Sequence[Layer], slope: Slope, scratch: Scratch) -> Tensor:
    """Return the last activations, from the sums of the layer before `layers`, in `scratch`."""
    h = slope.in_place(scratch.sums[0])
    for layer, sums in zip(layers, scratch.sums[1:], strict=True):
        h = slope.in_place(affine(h, layer, out=sums))
    return h


def way_up(layers: Sequence[Layer], slope: Slope, scratch: Scratch) -> list[Call]:
    """Return the calls from the sums of the layer before `layers` to the last activations."""
    outputs, spare = scratch
    calls = slope.activate(outputs[0], spare[0])
    for k, layer in enumerate(layers):
        rows, out = outputs[k], outputs[k + 1]
        calls.append(partial(addmm_for(rows), layer.bias, rows, layer.weight, out=out))
        calls += slope.activate(out, spare[k + 1])
    return calls


def way_down(
    upstream: Tensor,
    transposed: Sequence[Tensor],
    slope: Slope,
    past: Pass,
    gradients: Sequence[Layer] | None = None,
) -> tuple[list[Call], Tensor]:
    """Return the calls from `upstream`, the gradient at the last activations, and where they end.

    They end with the gradient `(rows, width)` at the sums of the layer before those whose weights
    are `transposed: (outputs, inputs)`, and add these layers' own to `gradients`, if there are any.
    The last of what was kept is overwritten.
    """
    last = past.kept[-1]
    calls: list[Call] = [slope.through(upstream, last, last)]
    back = last
    for k in range(len(transposed) - 1, -1, -1):
        if gradients is not None:
            calls.append(partial(add_gradient, gradients[k], past.outputs[k], back))
        calls.append(partial(mm_for(back), back, transposed[k], out=past.free[k]))
        back = past.free[k]
        calls.append(slope.through(back, past.kept[k], back))
    return calls, back


def addmm_for(rows: Tensor) -> Callable[..., Tensor]:
    """Return torch's `bias + rows W` of one member or of several."""
    return torch.addmm if rows.ndim == 2 else torch.baddbmm


def mm_for(rows: Tensor) -> Callable[..., Tensor]:
    """Return torch's `rows W` of one member or of several."""
    return torch.mm if rows.ndim == 2 else torch.bmm


def add_gradient(gradient: Layer, rows: Tensor, back: Tensor) -> None:
    """Add a layer's gradient, from its inputs `(rows, inputs)` and the gradient at its sums."""
    weight, bias = gradient
    left, right = rows.mT, back
    # Of one input `nn.Linear`'s weights the other way round are no matrix that cuBLAS can write.
    if weight.stride(-2) == 1 and weight.shape[-1] > 1:
        weight, left, right = weight.mT, back.mT, rows
    (weight.addmm_ if weight.ndim == 2 else weight.baddbmm_)(left, right)
    bias.add_(back.sum(-2).view_as(bias))
