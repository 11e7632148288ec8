"""Step sizes that follow the acceptance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebrl.energies import Number


class DualAveraging(nn.Module):
    """Dual averaging of the log step size (Hoffman and Gelman 2014, section 3.2).

    The step size for which the mean acceptance of the chains is `target`: .574 is the best for
    MALA, .651 for HMC, .8 for NUTS. One step size serves all chains; with `shape=(*batch,)` each
    chain has its own, and an axis of size 1 is shared along: `shape=(64, 1)` is one for each of 64
    observations. From `memory` updates on the averages forget at a constant rate, so that the step
    size follows an energy that is being trained. `gain` is how strongly a shortfall moves the step:
    5 for HMC, whose acceptance falls so steeply near the largest stable step that 20 swings around
    it and averages too low; 10 where each chain has its own, whose single acceptances make 20
    average .02 too high. It lives where the chains are, and no update waits for the host. Raises
    `ValueError` for a target outside (0, 1), a memory below 1, and for a step size or an acceptance
    that does not fit the shape.
    """

    anchor: Tensor
    log_step_size: Tensor
    log_average: Tensor
    shortfall: Tensor
    updates: Tensor

    def __init__(
        self,
        target: float = 0.574,
        gain: float = 20.0,
        decay: float = 0.75,
        memory: int = 1000,
        shape: tuple[int, ...] = (),
    ):
        super().__init__()
        if not 0 < target < 1:
            raise ValueError(f"expected a target acceptance between 0 and 1, got {target}")
        if memory < 1:
            raise ValueError(f"expected a memory of at least one update, got {memory}")
        self.target, self.gain, self.decay, self.memory = target, gain, decay, memory
        self.shape = tuple(shape)
        for name in ("anchor", "log_step_size", "log_average", "shortfall"):
            self.register_buffer(name, torch.zeros(self.shape))
        self.register_buffer("updates", torch.zeros(()))

    def start(self, step_size: Number) -> None:
        """Begin at `step_size`, a scalar or of the adaptation's shape."""
        log_step_size = torch.as_tensor(step_size, dtype=torch.float64).log()
        if not _broadcasts(log_step_size.shape, self.shape):
            got = tuple(log_step_size.shape)
            raise ValueError(f"expected a step size that fits shape {self.shape}, got shape {got}")
        self.anchor.copy_(log_step_size + torch.tensor(10.0, dtype=torch.float64).log())
        self.log_step_size.copy_(log_step_size)
        self.log_average.copy_(log_step_size)
        self.shortfall.zero_()
        self.updates.zero_()

    def go_to(self, device: torch.device) -> None:
        """Move to where the chains are, if it is elsewhere."""
        if self.anchor.device != device:
            self.to(device)

    @property
    def step_size(self) -> Tensor:
        """The averaged step size, of the adaptation's shape."""
        return self.log_average.exp()

    @torch.no_grad()
    def update(self, acceptance: Tensor) -> Tensor:
        """Take in the acceptance of one step and return the step size to explore next."""
        if not _broadcasts(self.shape, acceptance.shape):
            got = tuple(acceptance.shape)
            raise ValueError(f"expected acceptances that fit shape {self.shape}, got shape {got}")
        share = self.log_average.numel() / acceptance.numel()
        mean = acceptance.sum_to_size(self.shape) * share
        self.updates.add_(1).clamp_(max=self.memory)
        weight = 1 / (self.updates + 10)
        self.shortfall.lerp_((self.target - mean).to(self.shortfall), weight)
        self.log_step_size.copy_(self.anchor - self.updates.sqrt() * self.gain * self.shortfall)
        self.log_average.lerp_(self.log_step_size, self.updates**-self.decay)
        return self.log_step_size.exp()


def _broadcasts(narrow: tuple[int, ...], wide: tuple[int, ...]) -> bool:
    pairs = zip(reversed(narrow), reversed(wide), strict=False)
    return len(narrow) <= len(wide) and all(one in (1, other) for one, other in pairs)
