"""A network of linear layers, forth and back by hand, under `torch.no_grad`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ebrl.networks import perceptron
from ebrl.networks.perceptron import Layer, add_gradient, affine, product
from ebrl.networks.slopes import Slope, run
from ebrl.networks.workspace import Workspace, gradient_of


class Pass(NamedTuple):
    """What the way back needs, good until the workspace is used again."""

    features: Tensor  # (batch, inputs)
    hidden: perceptron.Pass | None  # of the layers before the last, if there are any
    output: Tensor  # (batch, outputs), the caller's


def forward(
    layers: Sequence[nn.Linear], slope: Slope, features: Tensor, workspace: Workspace
) -> Pass:
    """Pass `features: (batch, inputs)` through the layers, with the activation between them."""
    *hidden, last = [Layer(layer.weight.t(), layer.bias) for layer in layers]
    if not hidden:
        return Pass(features, None, affine(features, last))
    scratch = workspace.of(features, tuple(len(layer.bias) for layer in hidden))
    affine(features, hidden[0], out=scratch.sums[0])
    past = perceptron.memory(scratch, slope)
    run(perceptron.way_up(hidden[1:], slope, scratch))
    return Pass(features, past, affine(past.outputs[-1], last))


def backward(layers: Sequence[nn.Linear], slope: Slope, past: Pass, gradient: Tensor) -> None:
    """Add to the parameters' gradients, from `gradient: (batch, outputs)` at the output.

    It flows on to what made the features.
    """
    gradients = [Layer(gradient_of(layer.weight).t(), gradient_of(layer.bias)) for layer in layers]
    if past.hidden is not None:
        add_gradient(gradients[-1], past.hidden.outputs[-1], gradient)
        between = [layer.weight for layer in layers[1:-1]]
        back = product(gradient, layers[-1].weight, out=past.hidden.free[-1])
        hidden = past.hidden
        calls, gradient = perceptron.way_down(back, between, slope, hidden, gradients[1:-1])
        run(calls)
    add_gradient(gradients[0], past.features, gradient)
    if past.features.requires_grad:
        past.features.backward(gradient @ layers[0].weight)
