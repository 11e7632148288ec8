"""Langevin on one perceptron as a bare loop of torch calls: what an eager chain can reach.

No energy at the end, no guard against what is not finite, no report, no shape but this one: the
products, the activations and the step, each into memory that is made once.
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
        weights = energy.weights
        (hidden,) = weights.hidden
        share = energy.share.repeat_interleave(x.shape[1], 0)
        back, down, out = hidden.weight.mT, weights.x.mT, weights.head.weight.mT
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
            activate(torch.addmm(share, at, weights.x, out=first), s)
            activate(torch.addmm(hidden.bias, first, hidden.weight, out=second), t)
            torch.mm(torch.mul(out, t, out=t), back, out=first)
            torch.mm(torch.mul(first, s, out=first), down, out=gradient)
            at.add_(gradient, alpha=-step_size).add_(
                noise.normal_(generator=generator), alpha=noise_scale
            )
        return at

    return run
