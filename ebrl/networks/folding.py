"""A batch-normalised perceptron in evaluation mode, folded into a plain one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ebrl.networks.linear import bias_of, folded, weight_of


@torch.no_grad()
def fold_network(network: Any, plain: Any | None) -> Any:
    """Return an `MLPEnergy` without normalisations that equals `network`, which has them.

    Args:
        network: An `MLPEnergy` with `normalization="batch"`.
        plain: An earlier result for this network, to be overwritten if it fits.
    """
    here = network.head.weight
    if plain is None or (plain.head.weight.device, plain.head.weight.dtype) != (
        here.device,
        here.dtype,
    ):
        plain = copy.deepcopy(network).requires_grad_(False)
        plain.normalization, plain.normalizations = None, nn.ModuleList()
        plain.x_normalization = plain.condition_normalization = None
    affines = [one.running() for one in (network.x_normalization, *network.normalizations)]
    layers = zip([*network.layers, network.head], [*plain.layers, plain.head], strict=True)
    for affine, (layer, target) in zip(affines, layers, strict=True):
        _write(folded(affine, layer), target)
    if network.condition_layer is not None and network.condition_normalization is not None:
        running = network.condition_normalization.running()
        weight, bias = folded(running, network.condition_layer)
        bias = bias + affines[0].shift @ weight_of(network.layers[0])
        _write((weight, bias), plain.condition_layer)
    plain.mean, plain.deviation = network.mean, network.deviation
    plain.output_scale = network.output_scale
    return plain


def _write(linear: tuple[Tensor, Tensor | None], target: nn.Module) -> None:
    """Write a weight and a bias into a linear layer, which may have no bias."""
    weight, bias = linear
    weight_of(target).copy_(weight)
    if target.bias is not None and bias is not None:
        bias_of(target).copy_(bias)
