"""Adaptation of the step size to the acceptance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebrl.energies import Number
from ebrl.kernels.protocol import Kernel
from ebrl.ranges import check_at_least
from ebrl.spaces import Box, Space


class DualAveraging(nn.Module):
    """Dual averaging of the log step size (Hoffman and Gelman 2014, section 3.2).

    It finds the step size at which the mean acceptance of the chains is `target`, on their device
    and without waiting for the host. After `memory` updates the averages forget at a constant rate,
    so that the step size follows an energy that is being trained.

    A step size that follows a chain's own acceptances biases that chain: with one step size for
    each chain, `E x²` of a standard normal was .86 to .94 while adapting. One step size for many
    chains leaves no such trace; for few, adapt first and then sample with `adapt=False`.

    Args:
        target: Acceptance to reach; by default the best one of the sampler's kernel.
        gain: Gain on the acceptance error. 5 suits HMC, whose acceptance falls steeply near the
            largest stable step, where 20 oscillates; 10 suits one step size for each chain.
        decay: Exponent with which the average forgets the first updates.
        memory: Updates after which the rates stay constant.
        shape: By default one step size serves all chains; with `(*batch,)` each chain has its own.
            An axis of size 1 is shared: `(64, 1)` is one step size for each of 64 observations.
        largest: Cap on the step size, which on a flat energy would grow without end.
    """

    anchor: Tensor
    log_step_size: Tensor
    log_average: Tensor
    shortfall: Tensor
    updates: Tensor

    def __init__(
        self,
        target: float | None = None,
        gain: float = 20.0,
        decay: float = 0.75,
        memory: int = 1000,
        shape: tuple[int, ...] = (),
        largest: float = math.inf,
    ):
        super().__init__()
        if target is not None and not 0 < target < 1:
            raise ValueError(f"expected a target acceptance between 0 and 1, got {target}")
        check_at_least(1, memory=memory)
        if not largest > 0:
            raise ValueError(f"expected a largest step size above 0, got {largest}")
        self.target, self.gain, self.decay, self.memory = target, gain, decay, memory
        self.shape, self.largest = tuple(shape), largest
        self.owned = False  # by a sampler
        with torch.inference_mode(False):  # the numbers change, in it and outside
            for name in ("anchor", "log_step_size", "log_average", "shortfall"):
                self.register_buffer(name, torch.zeros(self.shape))
            self.register_buffer("updates", torch.zeros(()))

    def start(self, step_size: Number, kernel: Kernel) -> None:
        """Begin to adapt for a sampler with this kernel, from a step size that fits `shape`.

        Raises:
            ValueError: For a kernel whose acceptance does not depend on the step size, and if
                another sampler uses this adaptation.
        """
        if self.owned:
            raise ValueError(
                "expected an adaptation of the sampler's own, got one that another sampler uses: "
                "DualAveraging()"
            )
        check_adaptable(kernel)
        self.target = self.target or kernel.best_acceptance
        log_step_size = torch.as_tensor(step_size, dtype=torch.float64).log()
        if not broadcasts(log_step_size.shape, self.shape):
            got = tuple(log_step_size.shape)
            raise ValueError(f"expected a step size that fits shape {self.shape}, got shape {got}")
        self.owned = True
        log_step_size = log_step_size.clamp(max=math.log(self.largest))
        self.anchor.copy_(log_step_size + math.log(10))
        self.log_step_size.copy_(log_step_size)
        self.log_average.copy_(log_step_size)
        self.shortfall.zero_()
        self.updates.zero_()

    @property
    def step_size(self) -> Tensor:
        """The averaged step size, of the adaptation's shape."""
        return self.log_average.exp()

    @torch.no_grad()
    def update(self, acceptance: Tensor) -> Tensor:
        """Return the next step size to try, after a step with this acceptance, `(*batch,)`."""
        assert self.target is not None
        if not broadcasts(self.shape, acceptance.shape):
            got = tuple(acceptance.shape)
            raise ValueError(f"expected acceptances that fit shape {self.shape}, got shape {got}")
        if acceptance.numel() == 0:  # no chains
            return self.log_step_size.exp()
        share = self.log_average.numel() / acceptance.numel()
        mean = acceptance.sum_to_size(self.shape) * share
        self.updates.add_(1).clamp_(max=self.memory)
        weight = 1 / (self.updates + 10)
        self.shortfall.lerp_((self.target - mean).to(self.shortfall), weight)
        log_step_size = self.anchor - self.updates.sqrt() * self.gain * self.shortfall
        self.log_step_size.copy_(log_step_size.clamp_(max=math.log(self.largest)))
        self.log_average.lerp_(self.log_step_size, self.updates**-self.decay)
        return self.log_step_size.exp()


def check_adaptable(kernel: Kernel) -> None:
    """Raise `ValueError` for a kernel whose acceptance does not depend on the step size."""
    if kernel.best_acceptance is None:
        raise ValueError(
            f"expected a kernel whose step size changes its acceptance, got "
            f"{type(kernel).__name__}: choose the step size yourself, or a kernel such as MALA"
        )


def check_adaptable_in(space: Space) -> None:
    """Raise `ValueError` for a space in which one run must keep its step size."""
    if isinstance(space, Box) and space.walls == "project":
        raise ValueError(
            "expected no adaptation and no warm-up with walls='project', whose spring keeps the "
            "first step size: leave them out, or choose other walls"
        )


def broadcasts(narrow: tuple[int, ...], wide: tuple[int, ...]) -> bool:
    """Return whether a tensor of shape `narrow` broadcasts to `wide`, which stays as it is."""
    pairs = zip(reversed(narrow), reversed(wide), strict=False)
    return len(narrow) <= len(wide) and all(one in (1, other) for one, other in pairs)
