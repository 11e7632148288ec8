"""Multilayer perceptrons as energies, alone or as an ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ebrl.energies import Energy
from ebrl.networks.folding import fold_network
from ebrl.networks.linear import (
    EnsembleLinear,
    bias_of,
    has_hooks,
    in_full,
    is_linear,
    make_linear,
    project,
    weight_of,
)
from ebrl.networks.normalization import (
    Affine,
    BatchNormalization,
    LayerNormalization,
    Normalization,
    check_normalization,
)
from ebrl.networks.perceptron import ACTIVATIONS, Layer, Perceptron, Reduction, Weights

REDUCTIONS = get_args(Reduction)
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
        self._kept: tuple[Any, MLPEnergy] | None = None  # a tuple, so that it is no submodule
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

    @torch.no_grad()
    def standardise(self, data: Tensor) -> None:
        """Shift and scale x by the mean and the deviation of `data: (n, dimension)` from now on.

        A network begins with weights for numbers of the order of 1. Constant columns are shifted
        alone.
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
    def project_weights(self) -> None:
        """Scale the weights into every hidden unit to norm 1, and its bias with them.

        Batch normalisation undoes a unit's scale if the activation is homogeneous, as ReLU is.
        Called after every step of an optimiser, it keeps the angle of a step from shrinking as the
        weights grow.

        Raises:
            ValueError: For a network without batch normalisation, whose values would change.
        """
        if self.normalization != "batch":
            raise ValueError(
                f"expected normalization 'batch', got {self.normalization!r}: without it the norm "
                "of the weights matters"
            )
        first, *others = self.layers
        project(first, *(() if self.condition_layer is None else (self.condition_layer,)))
        for layer in others:
            project(layer)

    @property
    def takes_condition(self) -> bool:
        return self.condition_dimension > 0

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
        if reduction not in REDUCTIONS:
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
        """Return the weights, parametrised ones as they apply, or None.

        It is None where the network is more than its weights: with hooks on a layer, with a layer
        that was replaced, with a normalisation, or with an activation whose derivative is not in
        the table.
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

    def folded(self) -> MLPEnergy | None:
        """Return the plain perceptron that a batch-normalised one is in evaluation mode.

        It is made anew when weights or statistics have changed. It is None for other networks, and
        where a layer is more than its weights.
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
        tensors.append(self.output_scale)
        now = tuple((t.data_ptr(), t._version) for t in tensors if t is not None)
        if self._kept is None or self._kept[0] != now:
            self._kept = (now, fold_network(self, None if self._kept is None else self._kept[1]))
        return self._kept[1]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name in BUFFERS:  # what is loaded may have some where this has none
            loaded = state_dict.get(prefix + name)
            setattr(
                self, name, None if loaded is None else loaded.to(next(self.parameters())).clone()
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


class BoundMLP(Energy):
    """An `MLPEnergy` with its condition fixed, `(*leading batch, condition_dimension)` or None.

    Unless it is `prepared`, it keeps nothing that is computed from the weights, and so always
    answers with those of now.
    """

    def __init__(
        self,
        network: MLPEnergy,
        condition: Tensor | None,
        reduction: Reduction,
        perceptron: Perceptron | None = None,
    ):
        super().__init__()
        self.network, self.condition, self.reduction = network, condition, reduction
        self._perceptron = perceptron  # of the weights, where these stay
        self._aligned: torch.Size | None = None  # the last shape that was looked at

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and (plain := self._plain()) is not None:
            return plain(x)
        values = self.member_values(x)
        return values.mean(0) if self.reduction == "mean" else values.amax(0)

    def member_values(self, x: Tensor, affines: Sequence[Affine] | None = None) -> Tensor:
        """Return the energy of each member, `(members, *batch)`.

        Args:
            x: `(*batch, dimension)`.
            affines: What the batch normalisations do, as `batch_values` returned it for another
                batch. By default it is decided by the mode that the network is in.
        """
        if affines is not None:
            given = iter(affines)
            return self._values(x, lambda _, h: next(given)(h))
        return self._values(x, lambda normalization, h: normalization(h))

    def batch_values(self, x: Tensor) -> tuple[Tensor, list[Affine]]:
        """Return the energy of each member, normalised by the statistics of this batch.

        It moves the running statistics, whatever the mode of the network is.

        Args:
            x: `(*batch, dimension)`, with one condition for each.

        Returns:
            The energies `(members, *batch)`, and what the batch normalisations did, for
            `member_values` of further rows that leave the statistics alone.
        """
        affines: list[Affine] = []

        def normalize(normalization: Any, h: Tensor) -> Tensor:
            affines.append(normalization.of_batch(h))
            return affines[-1](h)

        return self._values(x, normalize), affines

    def _values(self, x: Tensor, normalize: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """Return the energy of each member, with every batch normalisation by `normalize`."""
        self._check_aligned(x)
        network = self.network
        h = self._first_sums(x, normalize)
        for k, layer in enumerate(network.layers):
            h = layer(h) if k > 0 else h
            if network.normalization == "layer":
                h = network.normalizations[k](h)
            h = network.activation(h)
            if network.normalization == "batch":
                h = normalize(network.normalizations[k], h)
        values = in_full(network.head, h, network.head.weight.dtype)
        values = values.view(network.members, *x.shape[:-1])
        return values if network.output_scale is None else values * network.output_scale

    def _plain(self) -> BoundMLP | None:
        """Return the same energy of the folded network, where there is one."""
        if self.network.normalization is None:
            return None
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None
        folded = self.network.folded()
        return None if folded is None else BoundMLP(folded, self.condition, self.reduction)

    def prepared(self) -> Energy:
        if (plain := self._plain()) is not None:
            return plain.prepared()
        perceptron = self._direct()
        if perceptron is None:
            return self
        return BoundMLP(self.network, self.condition, self.reduction, perceptron)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
            return super().value_and_gradient(x)
        if (perceptron := self._perceptron) is None:
            if (plain := self._plain()) is not None:
                return plain.value_and_gradient(x)
            if (perceptron := self._direct()) is None:
                return super().value_and_gradient(x)
        if x.shape != self._aligned:
            self._check_aligned(x)
            self._aligned = x.shape
        network = self.network
        with torch.no_grad():
            rows = network.standardised(x.reshape(-1, network.dimension))
            value, gradient = perceptron.value_and_gradient(rows)
            if network.deviation is not None:
                gradient /= network.deviation
        return value.view(x.shape[:-1]), gradient.view(x.shape)

    @torch.no_grad()
    def _direct(self) -> Perceptron | None:
        """Return what gives value and gradient directly, for the weights of now.

        It is None where the network is more than its weights.
        """
        weights = None if has_hooks(self) else self.network.plain_weights()
        if weights is None:
            return None
        shift = self._condition_shift()
        if shift is None:
            shift = bias_of(self.network.layers[0])
        shift = shift.view(self.network.members, -1, shift.shape[-1])
        return Perceptron(weights, shift, self.reduction)

    def _first_sums(self, x: Tensor, normalize: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """Return the sums of the first layer, `(*members, rows, width)`."""
        network, first = self.network, self.network.layers[0]
        shift = self._condition_shift(normalize)
        rows = network.standardised(x.reshape(-1, network.dimension))
        if network.x_normalization is not None:
            rows = normalize(network.x_normalization, rows)
        if shift is None:
            return first(rows)
        runs = shift.shape[-2]
        if not is_linear(first) or torch.jit.is_tracing():
            # Hooks keep what a layer returns; ONNX loses what is added to a view in place.
            return (first(rows).unflatten(-2, (runs, -1)) + shift.unsqueeze(-2)).flatten(-3, -2)
        if 1 < runs == rows.shape[-2]:  # one condition for each x
            shift = shift.view(network.members, runs, -1)
            sums = torch.baddbmm(shift, rows.expand(network.members, -1, -1), weight_of(first))
            return sums if network.members > 1 else sums.squeeze(0)
        sums = first(rows)
        sums.unflatten(-2, (runs, -1)).add_(shift.unsqueeze(-2))
        return sums

    def _condition_shift(
        self, normalize: Callable[[nn.Module, Tensor], Tensor] = lambda one, h: one(h)
    ) -> Tensor | None:
        """Return what the condition adds to the first layer, `(*members, conditions, width)`."""
        network = self.network
        if self.condition is None or network.condition_layer is None:
            return None
        rows = self.condition.reshape(-1, self.condition.shape[-1])
        if network.condition_normalization is not None:
            rows = normalize(network.condition_normalization, rows)
        return network.condition_layer(rows)

    def _check_aligned(self, x: Tensor) -> None:
        if x.shape[-1:] != (self.network.dimension,):
            raise ValueError(
                f"expected x of shape (*batch, {self.network.dimension}), got {tuple(x.shape)}"
            )
        if self.condition is None:
            return
        batch = self.condition.shape[:-1]
        if math.prod(batch) != 1 and x.shape[:-1][: len(batch)] != batch:
            raise ValueError(
                "expected the condition's batch axes to be the leading ones of x, got a condition "
                f"of shape {tuple(self.condition.shape)} for x of shape {tuple(x.shape)}"
            )
