"""Kernels on one-hot categories `(*batch, sites, categories)` that use the gradient of the energy.

The spaces are `Categorical`, and `Binary` with two categories a site. The energy must be defined
for real-valued x: to first order, a change of site i to `x'_i` raises it by `ΔE = ∇E_i · (x'_i -
x_i)`, and a single gradient estimates all changes. Energies of anything but one-hot categories are
a `ValueError`; so is temperature 0 for the kernels with an acceptance test.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.checks import check_positive_temperature, check_uncoupled
from ebrl.kernels.draws import gumbel_like, uniform_like
from ebrl.kernels.protocol import (
    GradientState,
    Info,
    Kernel,
    gradient_state,
    metropolis,
    unadjusted,
)


class GumbelNoise(NamedTuple):
    """The noise of the choice of a change (the Gumbel-max trick), and of its acceptance test."""

    gumbel: Tensor  # (*batch, sites, categories)
    uniform: Tensor  # (*batch,)


class GibbsWithGradients(Kernel[GradientState, GumbelNoise]):
    """Gibbs with gradients (Grathwohl et al. 2021), a change of one site a step: exact.

    A change is proposed with probability ∝ `exp(-ΔE / 2T)`, followed by a Metropolis-Hastings test.
    A step costs one energy and gradient. `step_size` has no effect.
    """

    coordinates = "one-hot"

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        check_uncoupled(energy)
        check_one_hot(energy)
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> GumbelNoise:
        return gumbel_noise(state, generator)

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: GumbelNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        check_positive_temperature(temperature)
        sites, categories = state.x.shape[-2:]
        forward = _change_log_probabilities(state, temperature)  # (*batch, sites * categories)
        change = (forward + noise.gumbel.flatten(-2)).argmax(-1, keepdim=True)
        site, category = change // categories, change % categories  # (*batch, 1)
        here = one_hot(site, sites).bool().mT  # (*batch, sites, 1)
        x = torch.where(here, one_hot(category, categories).to(state.x), state.x)
        proposed = gradient_state(energy, x)
        backward = _change_log_probabilities(proposed, temperature)
        before = torch.gather(state.x.argmax(-1), -1, site)  # the category that changes back
        log_ratio = (
            (state.energy - proposed.energy) / temperature
            + torch.gather(backward, -1, site * categories + before).squeeze(-1)
            - torch.gather(forward, -1, change).squeeze(-1)
        )
        return metropolis(proposed, state, log_ratio, noise.uniform)


class DULA(Kernel[GradientState, Tensor]):
    """Discrete Langevin, unadjusted (Zhang, Liu and Liu 2022, algorithm 1): all sites at once.

    Each site draws its category with probability ∝ `exp(-(ΔE + |Δx|²/2η) / 2T)`: Langevin's
    proposal restricted to categories, where `|Δx|² = 2` for a change. η is `step_size`: a small one
    changes few sites. Biased: exact only in the limit η = 0, and there only for quadratic energies
    (theorem 5.1). The paper's α is `2ηT` on one-hot categories, `ηT` on binary x. At temperature 0
    each site takes its category of lowest cost. Moves to an infinite or undefined energy are
    undone.
    """

    coordinates = "one-hot"

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        check_one_hot(energy)
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> Tensor:
        return gumbel_like(state.x, generator)

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: Tensor,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        proposed = gradient_state(energy, _langevin_choice(state, noise, step_size, temperature))
        return unadjusted(proposed, state)


class DMALA(Kernel[GradientState, GumbelNoise]):
    """`DULA` with a Metropolis-Hastings test (Zhang, Liu and Liu 2022): exact.

    A step costs one energy and gradient, for any number of changes.
    """

    coordinates = "one-hot"
    best_acceptance = 0.574

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        check_uncoupled(energy)
        check_one_hot(energy)
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> GumbelNoise:
        return gumbel_noise(state, generator)

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: GumbelNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        check_positive_temperature(temperature)
        x = _langevin_choice(state, noise.gumbel, step_size, temperature)
        proposed = gradient_state(energy, x)
        log_ratio = (
            (state.energy - proposed.energy) / temperature
            + _langevin_log_probability(proposed, state.x, step_size, temperature)
            - _langevin_log_probability(state, x, step_size, temperature)
        )
        return metropolis(proposed, state, log_ratio, noise.uniform)


def check_one_hot(energy: Energy) -> None:
    """Raise `ValueError` unless the energy takes one-hot categories."""
    if energy.event_ndim != 2:
        raise ValueError(
            "expected an energy of one-hot (sites, categories), event_ndim=2, got "
            f"event_ndim={energy.event_ndim}: sample binary x with Sampler(…, space=Binary(*shape))"
        )


def gumbel_noise(state: GradientState, generator: torch.Generator) -> GumbelNoise:
    """Draw the noise of the choice of a change and of its acceptance test."""
    return GumbelNoise(gumbel_like(state.x, generator), uniform_like(state.energy, generator))


def _first_order_changes(state: GradientState) -> Tensor:
    """Return ΔE of changing each site to each category, `(*batch, sites, categories)`."""
    return state.gradient - (state.gradient * state.x).sum(-1, keepdim=True)


def _change_log_probabilities(state: GradientState, temperature: Number) -> Tensor:
    """Return the log probability of each change, `(*batch, sites * categories)`; -inf for none."""
    logits = -_first_order_changes(state) / (2 * over_event(temperature, 2))
    return torch.log_softmax(logits.masked_fill(state.x > 0.5, -torch.inf).flatten(-2), -1)


def _langevin_costs(state: GradientState, step_size: Number) -> Tensor:
    """Return `ΔE + |Δx|²/2η` of each site's categories, `(*batch, sites, categories)`."""
    return _first_order_changes(state) + (1 - state.x) / over_event(step_size, 2)


def _langevin_choice(
    state: GradientState, gumbel: Tensor, step_size: Number, temperature: Number
) -> Tensor:
    # The temperature multiplies the noise, so that at temperature 0 this is descent.
    costs = _langevin_costs(state, step_size) - 2 * over_event(temperature, 2) * gumbel
    return one_hot(costs.argmin(-1), state.x.shape[-1]).to(state.x)


def _langevin_log_probability(
    state: GradientState, x: Tensor, step_size: Number, temperature: Number
) -> Tensor:
    """Return the log probability of proposing x from the state, `(*batch,)`."""
    logits = -_langevin_costs(state, step_size) / (2 * over_event(temperature, 2))
    log_probabilities = torch.log_softmax(logits, -1)
    return torch.gather(log_probabilities, -1, x.argmax(-1, keepdim=True)).sum((-2, -1))
