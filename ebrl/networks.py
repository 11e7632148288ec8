"""Trainable energies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ebrl.energies import Energy

Reduction = Literal["mean", "max"]


class MLPEnergy(Energy):
    """A multilayer perceptron over x, or over (condition, x), with an ensemble of members.

    The members run as one batched program. As an energy it is their mean; `given(c).member_values`
    has each one's value, and `given(c, "max")` is the largest, the pessimist's choice. The condition
    enters the first layer alone, and `given` computes its share there once for all x.

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
        if condition_dimension:
            self.condition_weight = _uniform(members, condition_dimension, hidden[0], fan_in=fan_in)
        self.x_weight = _uniform(members, dimension, hidden[0], fan_in=fan_in)
        self.first_bias = _uniform(members, 1, hidden[0], fan_in=fan_in)
        sizes = list(zip(hidden[:-1], hidden[1:], strict=True))
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
        rows = condition.reshape(-1, self.condition_dimension).expand(self.members, -1, -1)
        share = torch.baddbmm(self.first_bias, rows, self.condition_weight)
        return BoundMLP(self, share.unflatten(1, condition.shape[:-1] or (1,)), reduction)

    def forward(self, x: Tensor) -> Tensor:
        return self.unconditional(x)(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.unconditional(x).value_and_gradient(x)

    def unconditional(self, x: Tensor) -> BoundMLP:
        """Return the energy of x alone; an error for one that is conditional."""
        if self.takes_condition:
            raise TypeError("this energy is conditional: call energy.given(condition) first")
        return BoundMLP(self, self.first_bias, "mean")


class BoundMLP(Energy):
    """An `MLPEnergy` with the condition's share of the first layer in hand."""

    def __init__(self, network: MLPEnergy, share: Tensor, reduction: Reduction):
        super().__init__()
        self.network, self.share, self.reduction = network, share, reduction

    def forward(self, x: Tensor) -> Tensor:
        values = self.member_values(x)
        return values.mean(0) if self.reduction == "mean" else values.amax(0)

    def member_values(self, x: Tensor) -> Tensor:
        """Return each member's energy, `(members, *batch)`."""
        net = self.network
        h = net.activation(self._first_layer(x))  # (members, rows, hidden)
        for weight, bias in zip(net.weights, net.biases, strict=True):
            h = net.activation(torch.baddbmm(bias, h, weight))
        values = (h * net.head).sum(-1) + net.head_bias  # (members, rows)
        return values.unflatten(1, x.shape[:-1] or (1,)).reshape(net.members, *x.shape[:-1])

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and gradient, analytically where the activation's derivative is known."""
        slope = _SLOPES.get(type(self.network.activation))
        if slope is None:
            return super().value_and_gradient(x)
        with torch.no_grad():
            values, gradients = self._member_gradients(x, slope)
            if self.reduction == "mean":
                return values.mean(0), gradients.mean(0)
            value, worst = values.max(0)
            index = worst[None, ..., None].expand(1, *x.shape)
            return value, gradients.gather(0, index).squeeze(0)

    def _first_layer(self, x: Tensor) -> Tensor:
        """Return the first layer's sums `(members, rows, hidden)`."""
        net = self.network
        rows = x.reshape(-1, net.dimension).expand(net.members, -1, -1)
        candidates = x.shape[self.share.ndim - 2 : -1].numel()  # x for each condition
        if self.share.ndim == 3 and self.share.shape[1] == 1:
            return torch.baddbmm(self.share, rows, net.x_weight)
        share = self.share.flatten(1, -2)  # (members, conditions, hidden)
        if candidates == 1:
            return torch.baddbmm(share, rows, net.x_weight)
        first = torch.bmm(rows, net.x_weight)
        return (first.unflatten(1, (-1, candidates)) + share.unsqueeze(2)).flatten(1, 2)

    def _member_gradients(self, x: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
        """Return each member's energies `(members, *batch)` and gradients `(members, *x.shape)`.

        The intermediates live in the network's workspace: fresh ones of this size cost more in
        page faults than the kernels they save.
        """
        net = self.network
        buffer = net.workspace.buffer
        sums = [self._first_layer(x)]  # inputs of the activations, (members, rows, hidden)
        rows = sums[0].shape[1]
        for layer, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
            h = slope.activate(sums[-1], buffer("h", layer, sums[-1].shape, x))
            out = buffer("sum", layer, (net.members, rows, weight.shape[-1]), x)
            sums.append(torch.baddbmm(bias, h, weight, out=out))
        h = slope.activate(sums[-1], buffer("h", len(net.weights), sums[-1].shape, x))
        values = h.mul_(net.head).sum(-1).add_(net.head_bias)  # (members, rows)
        back = slope.through(net.head.expand_as(sums[-1]), sums[-1], h)
        for layer in range(len(net.weights) - 1, -1, -1):
            out = buffer("h", layer, sums[layer].shape, x)
            back = torch.bmm(back, net.weights[layer].mT, out=out)
            back = slope.through(back, sums[layer], buffer("sum", -1, out.shape, x))
        gradients = torch.bmm(back, net.x_weight.mT)  # (members, rows, dimension)
        return values.reshape(net.members, *x.shape[:-1]), gradients.reshape(-1, *x.shape)


class Workspace:
    """Scratch tensors that a network reuses from call to call, one for each name and shape."""

    def __init__(self) -> None:
        self.buffers: dict[tuple, Tensor] = {}

    def buffer(self, name: str, layer: int, shape: Sequence[int], like: Tensor) -> Tensor:
        key = (name, layer, tuple(shape), like.dtype, like.device)
        if key not in self.buffers:
            if len(self.buffers) >= 64:  # many batch sizes: keep memory bounded
                self.buffers.clear()
            self.buffers[key] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return self.buffers[key]

    def __deepcopy__(self, memo: dict) -> Workspace:
        return Workspace()

    def __reduce__(self) -> tuple:
        return (Workspace, ())


class Slope(NamedTuple):
    """An activation and its derivative, both into given memory."""

    activate: Callable[[Tensor, Tensor], Tensor]  # (sums, out) -> activation(sums)
    through: Callable[[Tensor, Tensor, Tensor], Tensor]  # (upstream, sums, out) -> upstream * slope


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Return weights from `U(-1/√fan_in, 1/√fan_in)`, the law of `nn.Linear`."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def _relu(sums: Tensor, out: Tensor) -> Tensor:
    return torch.clamp(sums, min=0, out=out)


def _relu_slope(upstream: Tensor, sums: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(upstream, sums, 0, grad_input=out)


def _silu(sums: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.silu(sums, out=out)


def _silu_slope(upstream: Tensor, sums: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward(upstream, sums, grad_input=out)


def _tanh(sums: Tensor, out: Tensor) -> Tensor:
    return torch.tanh(sums, out=out)


def _tanh_slope(upstream: Tensor, sums: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.tanh_backward(upstream, sums.tanh(), grad_input=out)


_SLOPES: dict[type[nn.Module], Slope] = {
    nn.ReLU: Slope(_relu, _relu_slope),
    nn.SiLU: Slope(_silu, _silu_slope),
    nn.Tanh: Slope(_tanh, _tanh_slope),
}
