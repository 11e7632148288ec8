"""Trainable energies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ebrl.energies import Energy
from ebrl.slopes import Slope, known_slope
from ebrl.workspace import Workspace, gradient_of

Reduction = Literal["mean", "max"]
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

    def unconditional(self) -> BoundMLP:
        """Return the energy of x alone; an error for one that is conditional."""
        if self.takes_condition:
            raise TypeError("this energy is conditional: call energy.given(condition) first")
        return BoundMLP(self, None, "mean")


class Weights(NamedTuple):
    """A network's weights as views, so that a step of a chain looks none of them up by name."""

    first: Tensor  # (members, dimension, hidden), of x alone
    hidden: list[tuple[Tensor, Tensor]]  # (members, inputs, outputs) and (members, 1, outputs)
    head: Tensor  # (members, 1, hidden)
    head_bias: Tensor  # (members, 1)

    def member(self, i: int) -> Weights:
        """Return one member's, as an ensemble of one."""
        own = slice(i, i + 1)
        hidden = [(weight[own], bias[own]) for weight, bias in self.hidden]
        return Weights(self.first[own], hidden, self.head[own], self.head_bias[own])


class BoundMLP(Energy):
    """An `MLPEnergy` with its condition fixed, `(*leading batch, condition_dimension)` or None."""

    _share: Tensor | None = None
    _weights: Weights | None = None
    _evaluated = False

    def __init__(self, network: MLPEnergy, condition: Tensor | None, reduction: Reduction):
        super().__init__()
        self.network, self.condition, self.reduction = network, condition, reduction

    @property
    def share(self) -> Tensor:
        """The condition's share of the first layer with the bias, computed once.

        `(members, conditions, hidden)`, or `(members, 1, hidden)` without a condition. It is kept
        only where no gradient is: a graph belongs to one call. Bind anew after the weights change.
        """
        net = self.network
        if self.condition is None:
            return net.first_bias
        if self._share is not None and not torch.is_grad_enabled():
            return self._share
        rows = self.condition.reshape(-1, net.condition_dimension)
        weight = net.first_weight[:, : net.condition_dimension]
        share = torch.baddbmm(net.first_bias, rows.expand(net.members, -1, -1), weight)
        if not torch.is_grad_enabled():
            self._share = share
        return share

    @property
    def weights(self) -> Weights:
        """The weights, collected once, for use without a graph."""
        if self._weights is None:
            net = self.network
            hidden = list(zip(in_order(net.weights), in_order(net.biases), strict=True))
            first = net.first_weight[:, net.condition_dimension :]
            self._weights = Weights(first, hidden, net.head, net.head_bias)
        return self._weights

    def forward(self, x: Tensor) -> Tensor:
        values = self.member_values(x)
        return values.mean(0) if self.reduction == "mean" else values.amax(0)

    def member_values(self, x: Tensor) -> Tensor:
        """Return each member's energy, `(members, *batch)`."""
        self._expect_aligned(x)
        net = self.network
        first = self._joint_first_layer(x) if self._paired(x) else self._first_layer(x)
        slope = known_slope(net.activation, x.device)
        if slope is not None and not torch.is_grad_enabled():
            values = self._head(self._last_hidden(first, slope))
            return values.view(net.members, *x.shape[:-1])
        h = net.activation(first)  # (members, rows, hidden)
        for weight, bias in zip(net.weights, net.biases, strict=True):
            h = net.activation(torch.baddbmm(bias, h, weight))
        values = (h * net.head).sum(-1) + net.head_bias  # (members, rows)
        return values.view(net.members, *x.shape[:-1])

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and gradient, analytically where the activation's derivative is known."""
        if torch.compiler.is_compiling():  # plans its own memory
            return self.traced_value_and_gradient(x)
        slope = known_slope(self.network.activation, x.device)
        if slope is None:
            return super().value_and_gradient(x)
        self._expect_aligned(x)
        with torch.no_grad():
            if self.reduction == "max":
                return self._worst(x, slope)
            values, gradients = self._member_gradients(x, slope)
            if self.network.members == 1:
                return values[0], gradients[0]
            return values.mean(0), gradients.mean(0)

    def regress(self, x: Tensor, values: Tensor) -> Tensor:
        """Return `½ Σ_members mean (E_i(x) - values)²` and add its gradient to the parameters'.

        One condition for each x, `values: (*batch,)`. The gradient also flows on to what made the
        condition. It is analytic, in scratch memory, where the activation's derivative is known.
        """
        self._expect_aligned(x)
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
            weight = self.network.first_weight[:, : self.network.condition_dimension]
            gradient = torch.bmm(back, weight.detach().mT).sum(0)
            self.condition.backward(gradient.view_as(self.condition))
        return loss

    def _regress(self, x: Tensor, values: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient at the first layer's sums."""
        net = self.network
        rows = self._pairs(x)
        first = self._first_sums(rows, net.first_weight, net.first_bias)
        kept, outputs = self._hidden(first, slope)
        error = self._head(outputs[-1]).sub_(values.flatten())  # (members, rows)
        upstream = error / error.shape[-1]
        loss = 0.5 * torch.dot(error.flatten(), upstream.flatten())
        gradient_of(net.head).baddbmm_(upstream.unsqueeze(1), outputs[-1])
        gradient_of(net.head_bias).add_(upstream.sum(-1, keepdim=True))
        back = slope.through(net.head, kept[-1], kept[-1]).mul_(upstream.unsqueeze(-1))
        for layer, (weight, bias) in reversed(list(enumerate(self.weights.hidden))):
            gradient_of(weight).baddbmm_(outputs[layer].mT, back)
            gradient_of(bias).add_(back.sum(1, keepdim=True))
            out = net.workspace.like("back", layer, kept[layer])
            back = torch.bmm(back, weight.mT, out=out)
            back = slope.through(back, kept[layer], back)
        gradient_of(net.first_weight).baddbmm_(rows.mT, back)
        gradient_of(net.first_bias).add_(back.sum(1, keepdim=True))
        return loss, back

    def _expect_aligned(self, x: Tensor) -> None:
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

    def _first_layer(self, x: Tensor) -> Tensor:
        """Return the first layer's sums `(members, rows, hidden)`."""
        net = self.network
        rows = x.reshape(-1, net.dimension).expand(net.members, -1, -1)
        if torch.is_grad_enabled():
            weight = net.first_weight[:, net.condition_dimension :]
        else:
            weight = self.weights.first
        share = self.share
        candidates = rows.shape[1] // share.shape[1]  # x for each condition
        if candidates == 1 or share.shape[1] == 1:
            return self._first_sums(rows, weight, share)
        first = torch.bmm(rows, weight)
        return (first.unflatten(1, (-1, candidates)) + share.unsqueeze(2)).flatten(1, 2)

    def _joint_first_layer(self, x: Tensor) -> Tensor:
        """Return the same as `_first_layer` where each x has a condition of its own.

        One product of both, for a single evaluation: nothing of it can be used again.
        """
        net = self.network
        return self._first_sums(self._pairs(x), net.first_weight, net.first_bias)

    def _first_sums(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the layer's sums, in scratch memory unless a graph keeps them."""
        like, width = self.network.workspace.like, weight.shape[-1]
        out = None if torch.is_grad_enabled() else like("sum", 0, rows, width=width)
        return torch.baddbmm(bias, rows, weight, out=out)

    def _pairs(self, x: Tensor) -> Tensor:
        """Return rows of (condition, x) for every member, `(members, rows, inputs)`."""
        rows = x.reshape(-1, self.network.dimension)
        if self.condition is not None:
            rows = torch.cat([self.condition.reshape(len(rows), -1), rows], -1)
        return rows.expand(self.network.members, -1, -1)

    def _sums(self, x: Tensor) -> Tensor:
        """Return the first layer's sums `(members, rows, hidden)`.

        The share is worth computing from the second evaluation on.
        """
        once = self._paired(x) and not self._evaluated
        self._evaluated = True
        return self._joint_first_layer(x) if once else self._first_layer(x)

    def _paired(self, x: Tensor) -> bool:
        """Whether each x has a condition of its own, whose share is not known yet."""
        if self.condition is None:
            return True
        return self._share is None and self.condition.shape[:-1].numel() == x.shape[:-1].numel()

    def _last_hidden(self, first: Tensor, slope: Slope) -> Tensor:
        """Return the last activations, computed in place: nothing else of the pass is kept."""
        like = self.network.workspace.like
        h = slope.in_place(first)
        for layer, (weight, bias) in enumerate(self.weights.hidden, 1):
            out = like("sum", layer, h, width=weight.shape[-1])
            h = slope.in_place(torch.baddbmm(bias, h, weight, out=out))
        return h

    def _hidden(self, first: Tensor, slope: Slope) -> tuple[list[Tensor], list[Tensor]]:
        """Return what the slope of every activation follows from, and the activations.

        `(members, rows, width)` each; the same tensors where the slope follows from the output.
        They live in the network's workspace, good until the next call: fresh tensors of this size
        cost more in page faults and cache misses than the kernels that fill them.
        """
        like = self.network.workspace.like
        h, slopes = slope.activate(first, self._spare(0, first, slope))
        kept, outputs = [slopes], [h]
        for layer, (weight, bias) in enumerate(self.weights.hidden, 1):
            out = like("sum", layer, h, width=weight.shape[-1])
            torch.baddbmm(bias, h, weight, out=out)
            h, slopes = slope.activate(out, self._spare(layer, out, slope))
            kept.append(slopes)
            outputs.append(h)
        return kept, outputs

    def _spare(self, layer: int, sums: Tensor, slope: Slope) -> Tensor:
        return sums if slope.of_output else self.network.workspace.like("out", layer, sums)

    def _member_gradients(self, x: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
        """Return each member's energies `(members, *batch)` and gradients `(members, *x.shape)`."""
        kept, outputs = self._hidden(self._sums(x), slope)
        values = self._head(outputs[-1])  # (members, rows)
        back = [self.network.workspace.like("back", k, sums) for k, sums in enumerate(kept[:-1])]
        gradients = _descend(self.weights, kept, back, slope)
        return values.view(-1, *x.shape[:-1]), gradients.view(-1, *x.shape)

    def _worst(self, x: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
        """Return the largest member's energy `(*batch,)` and its gradient, the shape of x.

        Only the member that is largest at a row is differentiated there. Finding its rows waits
        for the device: on an accelerator every member is differentiated instead.
        """
        net = self.network
        if x.device.type != "cpu" or net.members == 1:
            values, gradients = self._member_gradients(x, slope)
            value, worst = values.max(0)
            return value, gradients.gather(0, worst[None, ..., None].expand(1, *x.shape)).squeeze(0)
        kept, outputs = self._hidden(self._sums(x), slope)
        value, worst = self._head(outputs[-1]).max(0)  # (rows,)
        gradient = torch.empty_like(x).view(-1, net.dimension)
        for i in range(net.members):
            (rows,) = torch.where(worst == i)
            own = [sums[i : i + 1].index_select(1, rows) for sums in kept]
            part = _descend(self.weights.member(i), own, [None] * len(own), slope)
            gradient.index_copy_(0, rows, part[0])
        return value.view(x.shape[:-1]), gradient.view(x.shape)

    def _head(self, h: Tensor) -> Tensor:
        """Return the energies `(members, rows)` of the last activations."""
        weights = self.weights
        return torch.bmm(h, weights.head.mT).squeeze(-1).add_(weights.head_bias)


def _descend(
    weights: Weights, kept: list[Tensor], back: Sequence[Tensor | None], slope: Slope
) -> Tensor:
    """Return the gradient at x, `(members, rows, dimension)`; the last of `kept` is overwritten.

    `back` is memory for the gradients at the sums of the layers before.
    """
    upstream = slope.through(weights.head, kept[-1], kept[-1])
    for layer in range(len(weights.hidden) - 1, -1, -1):
        upstream = torch.bmm(upstream, weights.hidden[layer][0].mT, out=back[layer])
        upstream = slope.through(upstream, kept[layer], upstream)
    return torch.bmm(upstream, weights.first.mT)


def in_order(parameters: nn.ParameterList) -> list[Tensor]:
    """Return the parameters of a list, which itself looks each up by its number as a name."""
    return [each for each in parameters._parameters.values() if each is not None]


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Return weights from `U(-1/√fan_in, 1/√fan_in)`, the law of `nn.Linear`."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
