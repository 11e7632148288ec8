"""A multilayer perceptron with its condition fixed: an energy of x alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ebrl.energies import Energy
from ebrl.networks.linear import (
    apply_after,
    bias_of,
    folded,
    has_hooks,
    in_full_precision,
    is_linear,
    multiply,
    side_by_side,
)
from ebrl.networks.normalization import FeatureAffine
from ebrl.networks.perceptron import Perceptron, Reduction

# Maps a normalisation and its input rows to `(affine, rows)`; `affine`, if any, is still to be
# folded into the next layer.
Normalize = Callable[[nn.Module, Tensor], tuple[FeatureAffine | None, Tensor]]


class BoundMLP(Energy):
    """An `MLPEnergy` with its condition fixed, `(*leading batch, condition_dimension)` or None.

    Unless it is `prepared`, it caches nothing that is computed from the weights, and so always
    uses the current ones. Folded batch statistics are renewed after every change that torch
    tracks, which excludes changes through `weight.data`.
    """

    def __init__(
        self,
        network: Any,  # MLPEnergy, whose module imports this one
        condition: Tensor | None,
        reduction: Reduction,
        perceptron: Perceptron | None = None,
    ):
        super().__init__()
        self.network, self.condition, self.reduction = network, condition, reduction
        self._perceptron = perceptron  # of the weights, where these stay
        self._aligned: torch.Size | None = None  # the last shape that was looked at

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and (perceptron := self._direct(x)) is not None:
            return perceptron.value(self._rows(x)).view(x.shape[:-1])
        values = self.member_values(x)
        return values.mean(0) if self.reduction == "mean" else values.amax(0)

    def member_values(self, x: Tensor, affines: Sequence[FeatureAffine] | None = None) -> Tensor:
        """Return the energy of each member at `x: (*batch, dimension)`, `(members, *batch)`.

        `affines` are the maps by which to normalise, as `batch_values` returned them for another
        batch. By default the mode of the network decides between batch and running statistics.
        """
        if affines is not None:
            given = iter(affines)
            return self._values(x, lambda _, h: (next(given), h))
        return self._values(x, _by_mode)

    def batch_values(self, x: Tensor) -> tuple[Tensor, list[FeatureAffine]]:
        """Return each member's energy under this batch's statistics, and the normalising maps.

        x is `(*batch, dimension)`, with one condition for each; the energies are `(members,
        *batch)`. The running statistics are updated, whatever the mode of the network is. Pass the
        returned maps to `member_values` to normalise further rows in the same way, without
        updating them.
        """
        affines: list[FeatureAffine] = []

        def normalize(normalization: Any, h: Tensor) -> tuple[FeatureAffine, Tensor]:
            affines.append(normalization.of_batch(h))
            return affines[-1], h

        return self._values(x, normalize), affines

    def _values(self, x: Tensor, normalize: Normalize) -> Tensor:
        """Return the energy of each member, with every batch normalisation by `normalize`."""
        self._check_aligned(x)
        network, affine = self.network, None
        h = self._first_preactivations(x, normalize)
        for k, layer in enumerate(network.layers):
            h = apply_after(affine, layer, h) if k > 0 else h
            if network.normalization == "layer":
                h = network.normalizations[k](h)
            h = network.activation(h)
            if network.normalization == "batch":
                affine, h = normalize(network.normalizations[k], h)
        head = network.head
        values = in_full_precision(
            lambda rows: apply_after(affine, head, rows), h, head.weight.dtype
        )
        values = values.view(network.members, *x.shape[:-1])
        return values if network.output_scale is None else values * network.output_scale

    def prepared(self) -> Energy:
        perceptron = self._current_perceptron()
        if perceptron is None:
            return self
        return BoundMLP(self.network, self.condition, self.reduction, perceptron)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if (perceptron := self._direct(x)) is None:
            return super().value_and_gradient(x)
        with torch.no_grad():
            value, gradient = perceptron.value_and_gradient(self._rows(x))
            if self.network.deviation is not None:
                gradient /= self.network.deviation
        return value.view(x.shape[:-1]), gradient.view(x.shape)

    def _direct(self, x: Tensor) -> Perceptron | None:
        """Return what evaluates x directly, or None where autograd or the compiler has to."""
        if _is_traced() or torch.is_autocast_enabled(x.device.type):
            return None
        perceptron = self._perceptron or self._current_perceptron()
        if perceptron is not None and x.shape != self._aligned:
            self._check_aligned(x)
            self._aligned = x.shape
        return perceptron

    def _rows(self, x: Tensor) -> Tensor:
        """Return what the first layer sees of x, `(rows, dimension)`."""
        return self.network.standardised(x.reshape(-1, self.network.dimension))

    @torch.no_grad()
    def _current_perceptron(self) -> Perceptron | None:
        """Return the perceptron of the current weights, or None for a network that is more."""
        if has_hooks(self):
            return None
        plain = None if _is_traced() else self.network.folded_network()
        if plain is not None:
            return BoundMLP(plain, self.condition, self.reduction)._current_perceptron()
        weights = self.network.plain_weights()
        if weights is None:
            return None
        if self.network.condition_layer is None:
            shift = bias_of(self.network.layers[0])
        else:
            shift = self.network.condition_layer(self._conditions())
        shift = shift.view(self.network.members, -1, shift.shape[-1])
        return Perceptron(weights, shift, self.reduction)

    def _first_preactivations(self, x: Tensor, normalize: Normalize) -> Tensor:
        """Return the first layer's preactivations, `(*members, rows, width)`."""
        network, first = self.network, self.network.layers[0]
        affine, rows = None, self._rows(x)
        if network.x_normalization is not None:
            affine, rows = normalize(network.x_normalization, rows)
        if network.condition_layer is None:
            return apply_after(affine, first, rows)
        affine_of_conditions, conditions = None, self._conditions()
        if network.condition_normalization is not None:
            of_conditions = network.condition_normalization
            affine_of_conditions, conditions = normalize(of_conditions, conditions)
        linear = is_linear(first) and is_linear(network.condition_layer)
        if linear and 1 < conditions.shape[-2] == rows.shape[-2]:  # one for each x: one product
            weight, bias = side_by_side(
                folded(affine_of_conditions, network.condition_layer), folded(affine, first)
            )
            preactivations = multiply(torch.cat([conditions, rows], -1), weight, bias)
            return preactivations if network.members > 1 else preactivations.squeeze(0)
        shift = apply_after(affine_of_conditions, network.condition_layer, conditions)
        preactivations, runs = apply_after(affine, first, rows), shift.shape[-2]
        if not preactivations.numel():  # no row to add a shift to
            return preactivations
        if not linear or torch.jit.is_tracing():
            # Hooks keep what a layer returns; ONNX loses what is added to a view in place.
            return (preactivations.unflatten(-2, (runs, -1)) + shift.unsqueeze(-2)).flatten(-3, -2)
        preactivations.unflatten(-2, (runs, -1)).add_(shift.unsqueeze(-2))
        return preactivations

    def _conditions(self) -> Tensor:
        """Return the conditions, `(conditions, condition_dimension)`."""
        assert self.condition is not None  # as `given` left it
        return self.condition.reshape(-1, self.condition.shape[-1])

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


def _is_traced() -> bool:
    """Whether a compiler, an exporter or a transform of `torch.func` sees every operation.

    Under them only the modules' own calls are used, because scratch memory cannot be traced.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def _by_mode(normalization: nn.Module, h: Tensor) -> tuple[None, Tensor]:
    """Normalise by what the mode says: the statistics of the batch, or running ones."""
    return None, normalization(h)
