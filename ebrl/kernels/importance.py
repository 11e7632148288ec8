"""Importance moves: a chain moves to candidates of a proposal in proportion to their weights.

They carry mass between modes that no gradient connects. A proposal is a density of the free
coordinates, which the chain moves: under `Box(walls="tanh")` they differ from x. Every
`ebrl.energies.Target` is one, such as `Gaussian(0.0, 3.0, 2)`, and so is the reference distribution
of a space. These kernels have no step size; temperature 0 and an energy that couples chains are a
`ValueError`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.kernels.protocol import (
    Info,
    Kernel,
    check_positive_temperature,
    check_uncoupled,
    diverged,
    mapped,
    metropolis,
    precise,
    uniform_like,
)
from ebrl.ranges import check_at_least
from ebrl.spaces import Space


@runtime_checkable
class Proposal(Protocol):
    """A density that can be drawn from and evaluated."""

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw `(*batch, *event)`."""
        ...

    def log_density(self, x: Tensor) -> Tensor:
        """Return the normalised log density, `(*batch,)`."""
        ...


class ReferenceProposal:
    """The reference distribution of a space, as a proposal in its free coordinates."""

    def __init__(self, space: Space):
        self.space = space

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.space.to_free(self.space.reference(batch, generator))

    def log_density(self, x: Tensor) -> Tensor:
        density = self.space.reference_log_density(self.space.from_free(x))
        return density + self.space.log_slope(x)


class ImportanceState(NamedTuple):
    """The position of a batch of chains, with the energy and the proposal's log density there."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    log_density: Tensor  # (*batch,)

    @property
    def gradient(self) -> None:
        """No gradient is known."""


class ImportanceNoise(NamedTuple):
    """Candidates, and the uniform number that chooses among them and the current position."""

    candidates: Tensor  # (*batch, candidates, *event)
    uniform: Tensor  # (*batch,)


class IteratedSIR(Kernel[ImportanceState, ImportanceNoise]):
    """Iterated sampling importance resampling (Andrieu, Lee and Vihola 2018, algorithm 1): exact.

    Each step draws new candidates and chooses among them and the current position with probability
    ∝ `exp(-E/T) / q`. The more even the weights, the faster it mixes, across any distance between
    modes. One step from draws of the proposal is sampling importance resampling, see
    `ebrl.sampling.importance_resampling`.
    """

    def __init__(self, proposal: Proposal, candidates: int = 16):
        check_at_least(1, candidates=candidates)
        self.proposal, self.candidates = proposal, candidates

    def start(self, energy: Energy, x: Tensor) -> ImportanceState:
        return importance_state(energy, x, self.proposal)

    def draw(self, state: ImportanceState, generator: torch.Generator) -> ImportanceNoise:
        candidates = self.proposal.sample((*state.energy.shape, self.candidates), generator)
        return ImportanceNoise(candidates.to(state.x), uniform_like(state.energy, generator))

    def step(
        self,
        energy: Energy,
        state: ImportanceState,
        noise: ImportanceNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[ImportanceState, Info]:
        check_positive_temperature(temperature)
        axis = state.energy.ndim
        fresh = self.start(energy, noise.candidates)
        pool = mapped(  # (*batch, 1 + candidates, …)
            lambda old, new: torch.cat([old.unsqueeze(axis), new], axis), state, fresh
        )
        if isinstance(temperature, Tensor):
            temperature = temperature.unsqueeze(-1)
        log_weights, lost = log_importance(pool, temperature)
        # Where no candidate has any weight the chain stays: its own weight is the smallest number.
        log_weights[..., 0].clamp_(min=torch.finfo(log_weights.dtype).min)
        weights = torch.softmax(log_weights, -1)
        chosen = pick(weights, noise.uniform)
        moved = mapped(lambda field: take(field, chosen), pool)
        return moved, Info(1 - weights[..., 0], lost[..., 1:].any(-1))


class IndependenceMetropolis(Kernel[ImportanceState, ImportanceNoise]):
    """Metropolis with proposals independent of the position (Tierney 1994): exact.

    A step costs one energy, of a candidate that is accepted with probability `min(1, w(x') /
    w(x))`, `w = exp(-E/T) / q`. A chain stays long where w is large: the proposal must have heavier
    tails than the target.
    """

    def __init__(self, proposal: Proposal):
        self.proposal = proposal

    def start(self, energy: Energy, x: Tensor) -> ImportanceState:
        return importance_state(energy, x, self.proposal)

    def draw(self, state: ImportanceState, generator: torch.Generator) -> ImportanceNoise:
        candidates = self.proposal.sample((*state.energy.shape, 1), generator)
        return ImportanceNoise(candidates.to(state.x), uniform_like(state.energy, generator))

    def step(
        self,
        energy: Energy,
        state: ImportanceState,
        noise: ImportanceNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[ImportanceState, Info]:
        check_positive_temperature(temperature)
        candidate = self.start(energy, noise.candidates.squeeze(state.energy.ndim))
        here, _ = log_importance(state, temperature)
        there, _ = log_importance(candidate, temperature)
        return metropolis(candidate, state, there - here, noise.uniform)


def importance_state(energy: Energy, x: Tensor, proposal: Proposal) -> ImportanceState:
    """Evaluate the energy and the proposal's log density at x."""
    check_uncoupled(energy)
    return ImportanceState(x, precise(energy(x), x), precise(proposal.log_density(x), x))


def log_importance(state: ImportanceState, temperature: Number) -> tuple[Tensor, Tensor]:
    """Return the log weights `-E/T - log q` and what has diverged, both `(*batch,)`.

    The weight is 0 where it is NaN, and where the proposal has no mass: a chain there accepts any
    candidate.
    """
    log_weight = -state.energy / temperature - state.log_density
    lost = diverged(state.x, state.energy)
    return log_weight.masked_fill(lost | ~(log_weight < torch.inf), -torch.inf), lost


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return an index drawn with probabilities `weights: (*batch, n)`, by one uniform each."""
    cumulative = weights.cumsum(-1)
    # Rounding may leave the last sum below the uniform number: scaling keeps the index in range.
    threshold = (uniform * cumulative[..., -1]).unsqueeze(-1)
    index = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return index.clamp(max=weights.shape[-1] - 1)


def take(candidates: Tensor, index: Tensor) -> Tensor:
    """Return `candidates[*batch, index[*batch]]` from `(*batch, n, *event)`."""
    event = candidates.shape[index.ndim + 1 :]
    where = index.reshape(*index.shape, *(1,) * (candidates.ndim - index.ndim))
    where = where.expand(*index.shape, 1, *event)  # ONNX has no take_along_dim
    return candidates.gather(index.ndim, where).squeeze(index.ndim)
