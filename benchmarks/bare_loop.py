"""Langevin on one perceptron as a bare loop of torch calls: what an eager chain can reach.

It returns no energy and no report, checks nothing for finiteness, and fits this shape alone. It
computes the products, the activations and the step, each into preallocated memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebrl.networks import BoundMLP


def bare_loop(
    energy: BoundMLP, x: Tensor, steps: int, step_size: float, generator: torch.Generator
) -> Callable[[], Tensor]:
    """Return what runs the chains from `x: (observations, particles, dimension)`.

    `energy` has one member and two hidden layers of SiLU. What a run binds anew, the condition's
    share of the first layer, is computed here once.
    """
    with torch.no_grad():
        weights, condition = energy.network.plain_weights(), energy.network.condition_layer
        assert weights is not None
        assert condition is not None
        assert energy.condition is not None
        ((hidden, bias),) = [(layer.weight[0], layer.bias[0]) for layer in weights.hidden]
        share = condition(energy.condition).repeat_interleave(x.shape[1], 0)
        into, out = weights.first[0], weights.head.weight[0].mT
        back, down = hidden.mT, into.mT
    first, second, s, t = (share.new_empty(share.shape) for _ in range(4))
    one, noise_scale = share.new_ones(()), (2 * step_size) ** 0.5
    start = x.flatten(0, 1)

    def activate(sums: Tensor, slope: Tensor) -> None:
        torch.sigmoid(sums, out=slope)
        sums.mul_(slope)
        torch.lerp(sums, one, slope, out=slope)

    @torch.no_grad()
    def run() -> Tensor:
        at, noise, gradient = start.clone(), torch.empty_like(start), torch.empty_like(start)
        for _ in range(steps):
            activate(torch.addmm(share, at, into, out=first), s)
            activate(torch.addmm(bias, first, hidden, out=second), t)
            torch.mm(torch.mul(out, t, out=t), back, out=first)
            torch.mm(torch.mul(first, s, out=first), down, out=gradient)
            at.add_(gradient, alpha=-step_size).add_(
                noise.normal_(generator=generator), alpha=noise_scale
            )
        return at

    return run
