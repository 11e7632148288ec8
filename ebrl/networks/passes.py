"""A perceptron's value and gradient as a list of calls, recorded once for all x of one shape.

The steps of a chain differ only in what x holds, and the chains of two observations only in the
share that these have of the first layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ebrl.networks.perceptron import (
    Pass,
    Weights,
    addmm_for,
    memory,
    mm_for,
    product,
    way_down,
    way_up,
)
from ebrl.networks.slopes import Call, Slope, run
from ebrl.networks.workspace import Workspace

Reduction = Literal["mean", "max"]
_FEW = 64  # rows that are through the product before it has read the weights across
_CACHED = 2**17  # numbers of a layer's activations: what a core works through fastest


class RecordedPass:
    """Value and gradient of x in memory of its own, for one share of the first layer at a time.

    `share: (conditions, hidden)` is the conditions' part of the first layer's sums with the bias;
    without conditions it is the bias, and is read where it is. Members of an ensemble run as one
    batched program, and `reduction` is what is made of their energies.
    """

    def __init__(
        self,
        x: Tensor,
        weights: Weights,
        share: Tensor,
        slope: Slope,
        reduction: Reduction,
        workspace: Workspace,
    ):
        self.x, self.gradient = x.new_empty(x.shape), x.new_empty(x.shape)
        self.value = x.new_empty(x.shape[:-1])
        self.slope, self.reduction = slope, reduction
        self.workspace, self.large = workspace, Workspace(limit=math.inf)
        self.copied: list[tuple[Tensor, Tensor]] = []  # weights that are read copied
        self.share = share
        self.bound: Tensor | None = share
        if share is not weights.first.bias:
            self.share, self.bound = torch.empty_like(share), None
            if x.shape[:-1].numel() <= _FEW and x.device.type == "cpu":
                along = torch.contiguous_format
                back = [torch.empty_like(one, memory_format=along) for one in weights.back]
                self.copied = list(zip(back, weights.back, strict=True))
                weights = weights._replace(back=back)
        self.weights = weights
        self.members = len(weights.x) if weights.x.ndim == 3 else 1
        self.widths = tuple(one.bias.shape[-1] for one in (weights.first, *weights.hidden))
        self.calls = list(self._calls())

    def bind(self, share: Tensor) -> None:
        """Take over the share of a bound energy, and the weights as they are now."""
        if share is not self.bound:
            self.share.copy_(share)
            for copy, weight in self.copied:
                copy.copy_(weight)
            self.bound = share

    def follow(self) -> tuple[Tensor, Tensor]:
        """Return value and gradient at what x now holds, both good until the next call."""
        run(self.calls)
        return self.value, self.gradient

    def _calls(self) -> Iterator[Call]:
        dimension = self.x.shape[-1]
        parts = list(self._split(self.x.view(-1, dimension)))
        sizes = [len(rows) for rows, _ in parts]
        values = self.value.view(-1, 1).split(sizes)
        gradients = self.gradient.view(-1, dimension).split(sizes)
        for part, *results in zip(parts, values, gradients, strict=True):
            yield from self._part(*part, *results)

    def _split(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows by as many as fit in caches, each part with its conditions' share."""
        cached = _CACHED * torch.get_num_threads()  # each core takes its share of a part
        at_once, conditions = cached // max(self.widths), self.share.shape[-2]
        if len(rows) <= at_once or rows.device.type != "cpu":
            yield rows, self.share
        elif conditions == 1:
            for part in rows.split(at_once):
                yield part, self.share
        else:
            together = len(rows) // conditions  # rows of one condition
            step = max(1, at_once // together)
            yield from zip(rows.split(step * together), self.share.split(step, -2), strict=True)

    def _part(self, rows: Tensor, share: Tensor, value: Tensor, gradient: Tensor) -> list[Call]:
        """Return what writes `value: (rows, 1)` and `gradient: (rows, dimension)`."""
        results, energies, gradients = (value, gradient), value, gradient
        if self.members > 1:
            rows = rows.expand(self.members, -1, -1)
            energies, gradients = (one.new_empty(self.members, *one.shape) for one in results)
        kept = self.workspace if self.workspace.keeps(rows, self.widths) else self.large
        scratch, weights, slope = kept.of(rows, self.widths), self.weights, self.slope
        past, head = memory(scratch, slope), weights.head
        up: list[Call] = [
            *shared_affine(rows, weights.x, share, past.outputs[0]),
            *way_up(weights.hidden, slope, scratch),
            partial(addmm_for(rows), head.bias, past.outputs[-1], head.weight, out=energies),
        ]
        if self.members > 1 and self.reduction == "max" and rows.device.type == "cpu":
            members = [weights.member(i) for i in range(self.members)]
            worst = partial(descend_worst, members, slope, past, energies, value, gradient)
            return [*up, worst]
        down, back = way_down(head.weight.mT, weights.back, slope, past)
        down.append(partial(mm_for(back), back, weights.x.mT, out=gradients))
        if self.members == 1:
            return [*up, *down]
        if self.reduction == "max":
            return [*up, *down, partial(pick_worst, energies, gradients, value, gradient)]
        mean = partial(torch.mean, energies, 0, out=value)
        return [*up, *down, mean, partial(torch.mean, gradients, 0, out=gradient)]


def shared_affine(rows: Tensor, weight: Tensor, share: Tensor, out: Tensor) -> list[Call]:
    """Return the calls that write `rows W + share`, with one row of the share for each run."""
    runs = share.shape[-2]
    if runs in (1, rows.shape[-2]):
        return [partial(addmm_for(rows), share, rows, weight, out=out)]
    sums = out.unflatten(-2, (runs, -1))
    return [
        partial(mm_for(rows), rows, weight, out=out),
        partial(sums.add_, share.unsqueeze(-2)),
    ]


def descend_worst(
    members: Sequence[Weights],
    slope: Slope,
    past: Pass,
    energies: Tensor,
    value: Tensor,
    gradient: Tensor,
) -> None:
    """Write the largest of the members' energies `(members, rows, 1)` and its gradient.

    Only the member that is largest at a row is differentiated there. Finding its rows waits for the
    device.
    """
    largest, worst = energies.max(0)
    value.copy_(largest)
    for i, weights in enumerate(members):
        (own,) = torch.where(worst.squeeze(-1) == i)
        upstream, mine = weights.head.weight.mT, past.member(i, own)
        calls, back = way_down(upstream, weights.back, slope, mine)
        run(calls)
        gradient.index_copy_(0, own, product(back, weights.x.mT))


def pick_worst(energies: Tensor, gradients: Tensor, value: Tensor, gradient: Tensor) -> None:
    """Write the largest of the members' energies and its gradient, of those of all everywhere."""
    largest, worst = energies.max(0, keepdim=True)
    value.copy_(largest[0])
    gradient.copy_(gradients.gather(0, worst.expand(1, *gradient.shape))[0])
