"""Multilayer perceptrons as energies, alone or as an ensemble."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ebrl.energies import Energy
from ebrl.networks.bound import BoundMLP
from ebrl.networks.linear import (
    EnsembleLinear,
    bias_of,
    folded,
    has_hooks,
    is_linear,
    make_linear,
    normalise_weights,
    weight_of,
)
from ebrl.networks.normalization import (
    BatchNormalization,
    LayerNormalization,
    Normalization,
    check_normalization,
)
from ebrl.networks.perceptron import ACTIVATIONS, Layer, Reduction, Weights

BUFFERS = ("mean", "deviation", "output_scale")  # each of them None unless it is set


class MLPEnergy(Energy):
    """A multilayer perceptron over x, or over a condition and x, with an ensemble of members.

    The condition enters the first layer alone, through `condition_layer`, whose output all x of one
    condition share. One member consists of `nn.Linear`, several of `EnsembleLinear`. As an energy
    the ensemble is the mean of its members; `given(condition, "max")` is their maximum, the
    pessimist's choice, and `given(condition).member_values(x)` the value of each. `standardise`
    gives it a mean and a deviation, by which it shifts and scales x.

    Args:
        dimension: Size of x.
        hidden: Widths of the hidden layers.
        condition_dimension: Size of the condition; 0 for an energy of x alone.
        members: Size of the ensemble.
        activation: A class such as `nn.SiLU`. Smooth ones have gradients that samplers can follow.
        normalization: "batch" normalises the condition, x and every activation. In training mode it
            does so by the statistics of the batch, in evaluation mode by running ones, which fold
            into the weights. "layer" normalises what enters each activation.

    Raises:
        ValueError: For sizes that are not positive.
    """

    condition_layer: nn.Module | None
    mean: Tensor | None  # (dimension,)
    deviation: Tensor | None  # (dimension,)
    output_scale: Tensor | None  # 0-dim

    def __init__(
        self,
        dimension: int,
        hidden: Sequence[int] = (256, 256),
        *,
        condition_dimension: int = 0,
        members: int = 1,
        activation: type[nn.Module] = nn.SiLU,
        normalization: Normalization | None = None,
    ):
        super().__init__()
        if dimension < 1 or members < 1 or not hidden or min(hidden) < 1 or condition_dimension < 0:
            raise ValueError(
                "expected dimension, members and every hidden size at least 1, got "
                f"{dimension=}, {members=}, {hidden=}, {condition_dimension=}"
            )
        check_normalization(normalization)
        self.dimension, self.condition_dimension = dimension, condition_dimension
        self.takes_condition = condition_dimension > 0
        self.members, self.hidden = members, tuple(hidden)
        self.activation = activation()
        fan_in = condition_dimension + dimension
        first = make_linear(members, dimension, hidden[0], fan_in, bias=condition_dimension == 0)
        self.condition_layer = None
        if condition_dimension > 0:
            self.condition_layer = make_linear(members, condition_dimension, hidden[0], fan_in)
        self.layers = nn.ModuleList(
            [first, *(make_linear(members, *io) for io in pairwise(hidden))]
        )
        self.head = make_linear(members, hidden[-1], 1)
        self.normalization = normalization
        self._kept: tuple[Any, MLPEnergy | None] = ((), None)  # a tuple, so that it is no submodule
        of_layers = LayerNormalization if normalization == "layer" else BatchNormalization
        widths = hidden if normalization is not None else ()
        self.normalizations = nn.ModuleList(of_layers(members, width) for width in widths)
        self.x_normalization = self.condition_normalization = None
        if normalization == "batch":
            self.x_normalization = BatchNormalization(members, dimension)
            if condition_dimension > 0:
                self.condition_normalization = BatchNormalization(members, condition_dimension)
        for name in BUFFERS:
            self.register_buffer(name, None)
        self.fresh = True  # until weights are loaded or trained

    @torch.no_grad()
    def standardise(self, data: Tensor) -> None:
        """Shift and scale x by the mean and the deviation of `data: (n, dimension)` from now on.

        Initial weights suit numbers of the order of 1. Constant columns are only shifted.
        """
        deviation = data.std(0)
        like = next(self.parameters())
        self.mean = data.mean(0).to(like)
        self.deviation = torch.where(deviation > 0, deviation, 1.0).to(like)

    def standardised(self, x: Tensor) -> Tensor:
        """Return what the first layer sees of `x: (*batch, dimension)`."""
        if self.mean is None or self.deviation is None:
            return x
        return (x - self.mean) / self.deviation

    @torch.no_grad()
    def project_weights(self, frozen: bool = True) -> None:
        """Scale the weights into every hidden unit to norm 1, and its bias with them.

        Batch normalisation undoes a unit's scale if the activation is homogeneous, as ReLU is.
        Called after every step, it keeps the steps' angles from shrinking as the weights grow.

        Args:
            frozen: Scale layers with frozen parameters, too.

        Raises:
            ValueError: For a network without batch normalisation, whose values would change.
        """
        if self.normalization != "batch":
            raise ValueError(
                f"expected normalization 'batch', got {self.normalization!r}: without it the norm "
                "of the weights matters"
            )
        first, *others = self.layers
        inputs = (first,) if self.condition_layer is None else (first, self.condition_layer)
        for group in (inputs, *((layer,) for layer in others)):
            parameters = [parameter for layer in group for parameter in layer.parameters()]
            if frozen or all(parameter.requires_grad for parameter in parameters):
                normalise_weights(*group)

    def given(self, condition: Tensor, reduction: Reduction = "mean") -> BoundMLP:
        """Return the energy of x alone.

        Args:
            condition: `(*leading batch, condition_dimension)`, aligned with x from the left; for a
                condition of one number also `(*leading batch,)`.
            reduction: How the members' energies become one, "mean" or "max".

        Raises:
            TypeError: For a network without a condition.
            ValueError: For a condition of another size and an unknown reduction.
        """
        if not self.takes_condition:
            super().given(condition)
        if self.condition_dimension == 1 and condition.shape[-1:] != (1,):
            condition = condition.unsqueeze(-1)
        if condition.shape[-1:] != (self.condition_dimension,):
            raise ValueError(
                f"expected a condition of shape (*batch, {self.condition_dimension}), "
                f"got {tuple(condition.shape)}"
            )
        if reduction not in get_args(Reduction):
            raise ValueError(f"expected reduction 'mean' or 'max', got {reduction!r}")
        return BoundMLP(self, condition, reduction)

    def forward(self, x: Tensor) -> Tensor:
        return self.unconditional()(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if has_hooks(self):
            return super().value_and_gradient(x)
        return self.unconditional().value_and_gradient(x)

    def prepared(self) -> Energy:
        return self if has_hooks(self) else self.unconditional().prepared()

    def unconditional(self) -> BoundMLP:
        """Return the energy of x alone; `TypeError` for a network with a condition."""
        if self.takes_condition:
            raise TypeError("this energy is conditional: call energy.given(condition) first")
        return BoundMLP(self, None, "mean")

    def plain_weights(self) -> Weights | None:
        """Return the weights, with parametrisations applied, or None if they are not enough.

        They are not enough for a network with hooks, a layer that was replaced, a normalisation,
        or an activation that is not in `ACTIVATIONS`.
        """
        activate = ACTIVATIONS.get(type(self.activation))
        layers: list[Any] = [*self.layers, self.head]
        if activate is None or self.normalization is not None:
            return None
        if has_hooks(self.activation) or not all(map(is_linear, layers)):
            return None
        first, *others = layers
        if any(layer.bias is None for layer in (others if self.takes_condition else layers)):
            return None
        *hidden, head = (Layer(weight_of(layer), bias_of(layer)) for layer in others)
        if self.output_scale is not None:
            head = Layer(*(part * self.output_scale for part in head))
        return Weights(weight_of(first), hidden, head, activate)

    def folded_network(self) -> MLPEnergy | None:
        """Return the plain perceptron that equals a batch-normalised one in evaluation mode.

        It is rebuilt when weights or statistics have changed. The result is None for other
        networks, and where a layer does more than apply its weights.
        """
        if self.normalization != "batch" or self.training:
            return None
        layers: list[Any] = [*self.layers, self.head]
        normalizations = [self.x_normalization, *self.normalizations]
        if self.condition_layer is not None:
            layers.append(self.condition_layer)
            normalizations.append(self.condition_normalization)
        if not all(type(layer) in (nn.Linear, EnsembleLinear) for layer in layers):
            return None
        parts = [*layers, *normalizations]
        if any(map(has_hooks, (*parts, self.activation))):
            return None
        tensors = [t for one in parts for t in (*one._parameters.values(), *one._buffers.values())]
        tensors += [self.mean, self.deviation, self.output_scale]
        now = tuple((t.data_ptr(), t._version) for t in tensors if t is not None)
        if self._kept[0] != now:
            self._kept = (now, _fold(self, self._kept[1]))
        return self._kept[1]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.fresh = False
        for name in BUFFERS:  # a buffer is None here until it is set or loaded
            loaded = state_dict.get(prefix + name)
            if loaded is not None:
                setattr(self, name, loaded.to(next(self.parameters())).clone())
            elif name != "output_scale":  # this one stays: loading reports it as missing
                setattr(self, name, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


@torch.no_grad()
def _fold(network: Any, plain: Any | None) -> Any:
    """Return the plain perceptron that `network`, in evaluation mode, equals.

    `plain` is an earlier result for this network, which is overwritten if it fits.
    """
    place = network.head.weight.device, network.head.weight.dtype
    if plain is None or place != (plain.head.weight.device, plain.head.weight.dtype):
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
