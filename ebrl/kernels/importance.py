"""Importance moves: candidates from a proposal compete for the chain's place by their weight.

They carry mass between modes that no gradient connects. A proposal lives where the chain does:
under `Box(walls="tanh")`, in the free coordinates. Every `ebrl.energies.Target` is one, such as
`Gaussian(0.0, 3.0, 2)`, and so is the reference distribution of a space.
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
    metropolis,
    precise,
    uniform_like,
)
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
    """The reference distribution of a space as a proposal: uniform where bounded, else normal.

    It lives in the space's free coordinates, as the kernels do.
    """

    def __init__(self, space: Space):
        self.space = space

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.space.to_free(self.space.reference(batch, generator))

    def log_density(self, x: Tensor) -> Tensor:
        density = self.space.reference_log_density(self.space.from_free(x))
        return density + self.space.log_slope(x)


class ImportanceState(NamedTuple):
    """Where a batch of chains stands, with the energy and the proposal's log density there."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    log_density: Tensor  # (*batch,)

    @property
    def gradient(self) -> None:
        """No gradient is known."""


class ImportanceNoise(NamedTuple):
    """Fresh candidates and the number that picks among them and the chain's own place."""

    candidates: Tensor  # (*batch, candidates, *event)
    uniform: Tensor  # (*batch,)


class IteratedSIR(Kernel[ImportanceState, ImportanceNoise]):
    """Iterated sampling importance resampling (Andrieu, Lee and Vihola 2018, algorithm 1): exact.

    Each step draws `candidates` fresh ones and picks among them and the current place with
    probability ∝ `exp(-E/T) / q`. It forgets where it was as fast as the weights are even, across
    any distance between modes. One step from draws of the proposal is sampling importance
    resampling, see `ebrl.sampling.importance_resampling`. `step_size` plays no part. Raises
    `ValueError` for fewer than one candidate, for energies that couple chains and at temperature 0.
    """

    def __init__(self, proposal: Proposal, candidates: int = 16):
        if candidates < 1:
            raise ValueError(f"expected at least one candidate, got {candidates}")
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
        batch_ndim = state.energy.ndim
        fresh = self.start(energy, noise.candidates)
        pool = ImportanceState(
            *(
                torch.cat([old.unsqueeze(batch_ndim), new], batch_ndim)
                for old, new in zip(state, fresh, strict=True)
            )
        )  # (*batch, 1 + candidates, …)
        if isinstance(temperature, Tensor):
            temperature = temperature.unsqueeze(-1)
        log_weights, lost = log_importance(pool, temperature)
        # Where nothing has any weight the chain stays: its own is the least finite number.
        log_weights[..., 0].clamp_(min=torch.finfo(log_weights.dtype).min)
        weights = torch.softmax(log_weights, -1)
        chosen = pick(weights, noise.uniform)
        moved = ImportanceState(*(take(field, chosen) for field in pool))
        return moved, Info(1 - weights[..., 0], lost[..., 1:].any(-1))


class IndependenceMetropolis(Kernel[ImportanceState, ImportanceNoise]):
    """Metropolis with candidates that do not look where the chain is (Tierney 1994): exact.

    One candidate and one energy a step, accepted with probability `min(1, w(x') / w(x))`, where
    `w = exp(-E/T) / q`. A chain is stuck for long where w is large: the proposal must have heavier
    tails than the target. `step_size` plays no part. Raises `ValueError` for energies that couple
    chains and at temperature 0.
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
    """Return `log exp(-E/T) / q` and what is lost, both `(*batch,)`.

    The weight is 0 where it is no number, and where the proposal never goes: from there a chain
    moves to any place that it does.
    """
    log_weight = -state.energy / temperature - state.log_density
    lost = diverged(state.x, state.energy)
    return log_weight.masked_fill(lost | ~(log_weight < torch.inf), -torch.inf), lost


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the index drawn from `weights: (*batch, n)` that sum to 1, by one uniform each."""
    cumulative = weights.cumsum(-1)
    # Rounding may leave the last sum below the uniform: scaling by it keeps the index in range.
    threshold = (uniform * cumulative[..., -1]).unsqueeze(-1)
    return (
        torch.searchsorted(cumulative, threshold, right=True)
        .squeeze(-1)
        .clamp_(max=weights.shape[-1] - 1)
    )


def take(candidates: Tensor, index: Tensor) -> Tensor:
    """Return `candidates[*batch, index[*batch]]` from `(*batch, n, *event)`."""
    batch_ndim = index.ndim
    event = candidates.shape[batch_ndim + 1 :]
    where = index.reshape(*index.shape, *(1,) * (len(event) + 1))
    where = where.expand(*index.shape, 1, *event)
    return torch.gather(candidates, batch_ndim, where).squeeze(batch_ndim)
