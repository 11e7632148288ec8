"""Step sizes that follow the acceptance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebrl.energies import Number


class DualAveraging(nn.Module):
    """Dual averaging of the log step size (Hoffman and Gelman 2014, section 3.2).

    The step size for which the mean acceptance of all chains is `target`: .574 is the best for
    MALA, .651 for HMC. From `memory` updates on the averages forget at a constant rate, so that
    the step size follows an energy that is being trained. `gain` is how strongly a shortfall moves
    the step: 5 for HMC, whose acceptance falls so steeply near the largest stable step that 20
    swings around it and averages too low. No update waits for the host.
    """

    anchor: Tensor
    log_step_size: Tensor
    log_average: Tensor
    shortfall: Tensor
    updates: Tensor

    def __init__(
        self, target: float = 0.574, gain: float = 20.0, decay: float = 0.75, memory: int = 1000
    ):
        super().__init__()
        if not 0 < target < 1:
            raise ValueError(f"expected a target acceptance between 0 and 1, got {target}")
        self.target, self.gain, self.decay, self.memory = target, gain, decay, memory
        for name in ("anchor", "log_step_size", "log_average", "shortfall", "updates"):
            self.register_buffer(name, torch.zeros(()))

    def start(self, step_size: Number) -> None:
        """Begin at `step_size`, a scalar."""
        self.anchor.fill_(math.log(10 * float(step_size)))
        self.log_step_size.fill_(math.log(float(step_size)))
        self.log_average.fill_(math.log(float(step_size)))
        self.shortfall.zero_()
        self.updates.zero_()

    @property
    def step_size(self) -> Tensor:
        """The averaged step size, a 0-dim tensor."""
        return self.log_average.exp()

    @torch.no_grad()
    def update(self, acceptance: Tensor) -> Tensor:
        """Take in the acceptance of one step and return the step size to explore next."""
        self.updates.add_(1).clamp_(max=self.memory)
        share = 1 / (self.updates + 10)
        self.shortfall.lerp_((self.target - acceptance.mean()).to(self.shortfall), share)
        self.log_step_size.copy_(self.anchor - self.updates.sqrt() * self.gain * self.shortfall)
        weight = self.updates**-self.decay
        self.log_average.lerp_(self.log_step_size, weight)
        return self.log_step_size.exp()
