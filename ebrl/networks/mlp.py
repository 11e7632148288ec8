"""Trainable energies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from ebrl.energies import Energy
from ebrl.energies.energy import Recording
from ebrl.networks.passes import RecordedPass, Reduction
from ebrl.networks.perceptron import (
    Layer,
    Weights,
    activations,
    add_gradient,
    affine,
    memory,
    product,
    shared_affine,
    way_down,
    way_up,
)
from ebrl.networks.slopes import Slope, known_slope, run
from ebrl.networks.workspace import Scratch, Workspace, gradient_of

REDUCTIONS = get_args(Reduction)


class MLPEnergy(Energy):
    """A multilayer perceptron over x, or over (condition, x), with an ensemble of members.

    The members run as one batched program. As an energy it is their mean; `given(c).member_values`
    has each one's value, and `given(c, "max")` is the largest, the pessimist's choice. The
    condition enters the first layer alone, and `given` computes its share there once for all x.

    `activation` is a class such as `nn.SiLU`: smooth ones give gradients that samplers can follow.
    Raises `ValueError` for sizes that are not positive.
    """

    def __init__(
        self,
        dimension: int,
        hidden: Sequence[int] = (256, 256),
        *,
        condition_dimension: int = 0,
        members: int = 1,
        activation: type[nn.Module] = nn.SiLU,
    ):
        super().__init__()
        if dimension < 1 or members < 1 or not hidden or min(hidden) < 1 or condition_dimension < 0:
            raise ValueError(
                "expected dimension, members and every hidden size at least 1, got "
                f"{dimension=}, {members=}, {hidden=}, {condition_dimension=}"
            )
        self.dimension, self.condition_dimension = dimension, condition_dimension
        self.members, self.hidden = members, tuple(hidden)
        self.activation = activation()
        fan_in = condition_dimension + dimension
        self.first_weight = _uniform(members, fan_in, hidden[0], fan_in=fan_in)
        self.first_bias = _uniform(members, 1, hidden[0], fan_in=fan_in)
        sizes = list(pairwise(hidden))
        self.weights = nn.ParameterList(_uniform(members, i, o, fan_in=i) for i, o in sizes)
        self.biases = nn.ParameterList(_uniform(members, 1, o, fan_in=i) for i, o in sizes)
        self.head = _uniform(members, 1, hidden[-1], fan_in=hidden[-1])
        self.head_bias = _uniform(members, 1, fan_in=hidden[-1])
        self.workspace = Workspace()

    @property
    def takes_condition(self) -> bool:
        return self.condition_dimension > 0

    def given(self, condition: Tensor, reduction: Reduction = "mean") -> BoundMLP:
        if not self.takes_condition:
            super().given(condition)
        if self.condition_dimension == 1 and condition.shape[-1:] != (1,):
            condition = condition.unsqueeze(-1)  # a number each, such as a noise level
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
        return self.unconditional().value_and_gradient(x)

    def recording(self, x: Tensor) -> Recording:
        return self.unconditional().recording(x)

    def unconditional(self) -> BoundMLP:
        """Return the energy of x alone; an error for one that is conditional."""
        if self.takes_condition:
            raise TypeError("this energy is conditional: call energy.given(condition) first")
        return BoundMLP(self, None, "mean")

    def views(self) -> Views:
        """Return the weights as views and what was recorded on them, while they stay in place."""
        pairs = (*in_order(self.weights), *in_order(self.biases))
        ends = (self.first_weight, self.first_bias, self.head, self.head_bias)
        place = tuple(weight.data_ptr() for weight in (*ends, *pairs))
        return self.workspace.kept(place, lambda: Views(weights_of(self), Workspace()))


class Views(NamedTuple):
    """Views of a network's weights, and the passes that were recorded on them."""

    weights: Weights
    passes: Workspace


def weights_of(network: MLPEnergy, of: Callable[[Tensor], Tensor] = lambda own: own) -> Weights:
    """Return views of what `of` gives for each parameter: itself or its gradient."""

    def view(parameter: Tensor) -> Tensor:
        return of(parameter)[0] if network.members == 1 else of(parameter)

    first = view(network.first_weight)
    pairs = zip(in_order(network.weights), in_order(network.biases), strict=True)
    hidden = [Layer(view(weight), view(bias)) for weight, bias in pairs]
    return Weights(
        Layer(first, view(network.first_bias)),
        first[..., network.condition_dimension :, :],
        hidden,
        [layer.weight.mT for layer in hidden],
        Layer(view(network.head).mT, view(network.head_bias).unsqueeze(-1)),
    )


class BoundMLP(Energy):
    """An `MLPEnergy` with its condition fixed, `(*leading batch, condition_dimension)` or None.

    What it computes without a graph rests on the condition's share of the first layer and on copies
    of weights, both made once: bind anew after the weights change.
    """

    def __init__(self, network: MLPEnergy, condition: Tensor | None, reduction: Reduction):
        super().__init__()
        self.network, self.condition, self.reduction = network, condition, reduction
        self.passes = Workspace()  # that are too large for the network to keep

    @cached_property
    def views(self) -> Views:
        return self.network.views()

    @property
    def weights(self) -> Weights:
        return self.views.weights

    @cached_property
    def share(self) -> Tensor:
        """The condition's share of the first layer with the bias, `(conditions, hidden)`."""
        with torch.no_grad():
            return self._share(self.weights.first)

    def _share(self, first: Layer) -> Tensor:
        if self.condition is None:
            return first.bias
        own = Layer(first.weight[..., : self.condition.shape[-1], :], first.bias)
        return affine(self._each(self.condition.reshape(-1, self.condition.shape[-1])), own)

    def forward(self, x: Tensor) -> Tensor:
        values = self.member_values(x)
        return values.mean(0) if self.reduction == "mean" else values.amax(0)

    def member_values(self, x: Tensor) -> Tensor:
        """Return each member's energy, `(members, *batch)`."""
        self._check_aligned(x)
        net = self.network
        slope = known_slope(net.activation, x.device)
        if slope is not None and not torch.is_grad_enabled():
            scratch = self._first_sums(x.reshape(-1, net.dimension), self.share)
            h = activations(self.weights.hidden, slope, scratch)
            return affine(h, self.weights.head).view(net.members, *x.shape[:-1])
        weights = weights_of(net)
        h = net.activation(self._first_layer(x, weights))
        for layer in weights.hidden:
            h = net.activation(affine(h, layer))  # (rows, width)
        values = (h * weights.head.weight.mT).sum(-1, keepdim=True) + weights.head.bias
        return values.view(net.members, *x.shape[:-1])

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and gradient, analytically where the activation's derivative is known."""
        if torch.compiler.is_compiling():  # plans its own memory
            return self.traced_value_and_gradient(x)
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.value_and_gradient(x)
        recorded = self._recorded(x)
        if recorded is None:
            return super().value_and_gradient(x)
        recorded.x.copy_(x)
        value, gradient = recorded.follow()
        return value.clone(), gradient.clone()

    def recording(self, x: Tensor) -> Recording:
        recorded = self._recorded(x)
        if recorded is None:
            return super().recording(x)
        recorded.x.copy_(x)
        return Recording(recorded.x, recorded.follow)

    def _recorded(self, x: Tensor) -> RecordedPass | None:
        """Return the pass of x's shape, recorded once; None where autograd makes it."""
        net, condition = self.network, self.condition
        slope = known_slope(net.activation, x.device)
        if slope is None:
            self._check_aligned(x)
            return None
        widths = net.members * net.hidden  # every layer of every member
        passes = self.views.passes if net.workspace.keeps(x, widths) else self.passes
        key = (x.shape, x.dtype, self.reduction, None if condition is None else condition.shape)

        def record() -> RecordedPass:
            self._check_aligned(x)
            return RecordedPass(x, self.weights, self.share, slope, self.reduction, net.workspace)

        recorded = passes.kept(key, record)
        recorded.bind(self.share)
        return recorded

    def regress(self, x: Tensor, values: Tensor) -> Tensor:
        """Return `½ Σ_members mean (E_i(x) - values)²` and add its gradient to the parameters'.

        One condition for each x, `values: (*batch,)`. The gradient also flows on to what made the
        condition. It is analytic, in scratch memory, where the activation's derivative is known.
        """
        self._check_aligned(x)
        if self.condition is not None and self.condition.shape[:-1] != x.shape[:-1]:
            raise ValueError(
                f"expected one condition for each x of shape {tuple(x.shape)}, "
                f"got conditions of shape {tuple(self.condition.shape)}"
            )
        slope = known_slope(self.network.activation, x.device)
        if slope is None:
            loss = 0.5 * (self.member_values(x) - values).square().flatten(1).mean(1).sum()
            loss.backward()
            return loss.detach()
        with torch.no_grad():
            loss, back = self._regress(x, values, slope)
        if self.condition is not None and self.condition.requires_grad:
            own = self.weights.first.weight.detach()[..., : self.condition.shape[-1], :]
            gradient = product(back, own.mT).view(-1, *self.condition.shape)
            self.condition.backward(gradient.sum(0))
        return loss

    def _regress(self, x: Tensor, values: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient at the first layer's sums."""
        net, weights = self.network, self.weights
        gradients = weights_of(net, gradient_of)
        rows = self._each(self._pairs(x))
        scratch = net.workspace.of(rows, net.hidden)
        affine(rows, weights.first, out=scratch.sums[0])
        past = memory(scratch, slope)
        run(way_up(weights.hidden, slope, scratch))
        error = affine(past.outputs[-1], weights.head).sub_(values.reshape(-1, 1))
        upstream = error / error.shape[-2]  # (rows, 1)
        loss = 0.5 * torch.dot(error.flatten(), upstream.flatten())
        add_gradient(gradients.head, past.outputs[-1], upstream)
        back = torch.mul(upstream, weights.head.weight.mT, out=past.free[-1])
        calls, back = way_down(back, weights.back, slope, past, gradients.hidden)
        run(calls)
        add_gradient(gradients.first, rows, back)
        return loss, back

    def _check_aligned(self, x: Tensor) -> None:
        if x.shape[-1:] != (self.network.dimension,):
            raise ValueError(
                f"expected x of shape (*batch, {self.network.dimension}), got {tuple(x.shape)}"
            )
        if self.condition is None:
            return
        batch = self.condition.shape[:-1]
        if batch.numel() != 1 and x.shape[:-1][: len(batch)] != batch:
            raise ValueError(
                "expected the condition's batch axes to be the leading ones of x, got a condition "
                f"of shape {tuple(self.condition.shape)} for x of shape {tuple(x.shape)}"
            )

    def _each(self, rows: Tensor) -> Tensor:
        """Return the rows for every member."""
        members = self.network.members
        return rows if members == 1 else rows.expand(members, -1, -1)

    def _pairs(self, x: Tensor) -> Tensor:
        """Return rows of (condition, x), one condition for each x."""
        rows = x.reshape(-1, self.network.dimension)
        if self.condition is None:
            return rows
        return torch.cat([self.condition.reshape(len(rows), -1), rows], -1)

    def _first_layer(self, x: Tensor, weights: Weights) -> Tensor:
        """Return the first layer's sums `(rows, hidden)`, with a graph where one is asked for."""
        constant = self.condition is not None and not (
            self.condition.requires_grad or self.network.first_weight.requires_grad
        )
        share = self.share if constant else self._share(weights.first)
        return shared_affine(self._each(x.reshape(-1, x.shape[-1])), weights.x, share)

    def _first_sums(self, rows: Tensor, share: Tensor) -> Scratch:
        """Return scratch memory with the first layer's sums in it, for the conditions' share."""
        rows = self._each(rows)
        scratch = self.network.workspace.of(rows, self.network.hidden)
        shared_affine(rows, self.weights.x, share, out=scratch.sums[0])
        return scratch


def in_order(parameters: nn.ParameterList) -> list[Tensor]:
    """Return the parameters of a list, which itself looks each up by its number as a name."""
    return [each for each in parameters._parameters.values() if each is not None]


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Return weights from `U(-1/√fan_in, 1/√fan_in)`, the law of `nn.Linear`."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
