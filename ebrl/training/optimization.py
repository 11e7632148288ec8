"""What surrounds an optimiser's step: its parameters, learning rate, clipping and averages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ebrl.energies import Energy
from ebrl.objectives.protocol import Objective, SelfTrained, as_module
from ebrl.ranges import check_at_least

SETTINGS = ("weight_decay", "momentum", "betas")  # of a group: no step changes them


class RunningClip(nn.Module):
    """A limit for the gradient's norm: `factor` times the running mean of the clipped norms.

    `factor` is at least 1, and `decay`, of the running mean, in [0, 1).
    """

    mean: Tensor

    def __init__(self, factor: float = 3.0, decay: float = 0.99):
        super().__init__()
        check_at_least(1, factor=factor)
        if not 0 <= decay < 1:
            raise ValueError(f"expected 0 <= decay < 1, got {decay}")
        self.factor, self.decay = factor, decay
        self.register_buffer("mean", torch.tensor(0.0))

    @torch.no_grad()
    def forward(self, norm: Tensor) -> Tensor:
        """Return the limit for a gradient of this norm and update the mean."""
        mean = self.mean.to(norm)
        mean = torch.where(mean > 0, mean, norm)
        limit = self.factor * mean
        self.mean = torch.lerp(torch.minimum(norm, limit), mean, self.decay)
        return limit


def moving_average(energy: Energy, decay: float) -> AveragedModel | None:
    """Return the exponential moving average of the parameters, to be updated after each step.

    Buffers are copied: an average of, say, the vectors of a spectral norm means nothing. A decay of
    0 gives None, and one outside of [0, 1) is a `ValueError`.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"expected 0 <= ema_decay < 1, got {decay}")
    if decay == 0:
        return None
    return AveragedModel(energy, multi_avg_fn=get_ema_multi_avg_fn(decay))


def trainable_parameters(energy: Energy, objective: Objective) -> list[nn.Parameter]:
    """Return the parameters of the energy and the objective, without `SelfTrained` parts."""
    module = as_module(objective)
    learners = [part for part in module.modules() if isinstance(part, SelfTrained)]
    apart = {id(parameter) for part in learners for parameter in part.parameters()}
    learned = [each for each in module.parameters() if id(each) not in apart]
    return [*energy.parameters(), *learned]


def check_holds(optimizer: Optimizer, energy: Energy, objective: Objective) -> None:
    """Raise `ValueError` for an optimiser that lacks parameters to be trained."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = [each for each in trainable_parameters(energy, objective) if each.requires_grad]
    lacking = sum(id(parameter) not in held for parameter in trained)
    if lacking:
        raise ValueError(
            f"expected an optimizer of all {len(trained)} trainable parameters, got one without "
            f"{lacking}: make it of trainable_parameters(energy, objective), and freeze those that "
            "stay as they are with requires_grad_(False)"
        )


def scale_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rates to `factor` times those that the optimiser was made with."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])


def load_moments(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimiser, apart from the settings that this one was made with.

    These are the learning rate, the decay of weights and the decay rates of the moments.
    """
    made = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, made, strict=True):
        group.update({name: own[name] for name in SETTINGS if name in own})
        rate = own.get("initial_lr", own["lr"])
        if group.get("initial_lr", group["lr"]) != rate:  # otherwise the scaled rate is kept
            group["lr"] = group["initial_lr"] = rate
