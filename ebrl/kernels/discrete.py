"""Discrete kernels, on one-hot categories `(*batch, sites, categories)` of 0 and 1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.protocol import (
    GradientState,
    Info,
    choose,
    diverged,
    expect_positive,
    gradient_state,
    metropolis,
    uniform_like,
)


class FlipNoise(NamedTuple):
    """The noise of one proposed change and of its acceptance test."""

    gumbel: Tensor  # (*batch, sites * categories)
    uniform: Tensor  # (*batch,)


class GibbsWithGradients:
    """One informed change of one site a step (Grathwohl et al. 2021): exact.

    The change of energy by each possible flip is estimated to first order from the gradient of
    the energy, read as a function of real-valued x; a flip is proposed with probability
    ∝ `exp(-ΔE / 2T)` and accepted by Metropolis and Hastings. `step_size` plays no part. Raises
    `ValueError` at temperature 0.
    """

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        if energy.event_ndim != 2:
            raise ValueError(
                "expected an energy of one-hot (sites, categories), event_ndim=2, "
                f"got event_ndim={energy.event_ndim}"
            )
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> FlipNoise:
        uniform = uniform_like(state.x.flatten(-2), generator)
        tiny = torch.finfo(uniform.dtype).tiny
        gumbel = -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
        return FlipNoise(gumbel, uniform_like(state.energy, generator))

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: FlipNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        expect_positive(temperature)
        sites, categories = state.x.shape[-2:]
        forward = _flip_log_probabilities(state, temperature)  # (*batch, sites * categories)
        flip = (forward + noise.gumbel).argmax(-1, keepdim=True)
        site = flip // categories
        one_hot = torch.nn.functional.one_hot(flip % categories, categories).to(state.x)
        here = torch.nn.functional.one_hot(site.squeeze(-1), sites).bool().unsqueeze(-1)
        proposal = gradient_state(energy, torch.where(here, one_hot, state.x))
        backward = _flip_log_probabilities(proposal, temperature)
        before = torch.gather(state.x.argmax(-1), -1, site)  # the category that flips back
        log_ratio = (
            (state.energy - proposal.energy) / temperature
            + torch.gather(backward, -1, site * categories + before).squeeze(-1)
            - torch.gather(forward, -1, flip).squeeze(-1)
        )
        lost = diverged(proposal.x, proposal.energy)
        acceptance, accepted = metropolis(log_ratio, lost, noise.uniform)
        return choose(accepted, proposal, state), Info(acceptance, lost)


def _flip_log_probabilities(state: GradientState, temperature: Number) -> Tensor:
    """Return the log probability of proposing each flip; what changes nothing has none."""
    change = state.gradient - (state.gradient * state.x).sum(-1, keepdim=True)
    logits = -change / (2 * over_event(temperature, 2))
    return torch.log_softmax(logits.masked_fill(state.x > 0.5, -torch.inf).flatten(-2), -1)
