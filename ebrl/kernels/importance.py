"""Importance moves: a chain moves to candidates of a proposal in proportion to their weights.

They carry mass between modes that no gradient connects. A proposal is a density of the free
coordinates, which the chain moves: under `Box(walls="tanh")` they differ from x. Every
`ebrl.energies.Target` is one, such as `Gaussian(0.0, 3.0, 2)`, and so is the reference distribution
of a space. In a `Torus` or a reflecting `Box`, `exp(-E)` of the free coordinates has infinite mass:
there the reference, whose density repeats with them, is the only proposal. These kernels have no
step size. They raise `ValueError` at temperature 0 and for an energy that couples chains.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.checks import check_positive_temperature, check_uncoupled
from ebrl.kernels.draws import pick, take, uniform_like
from ebrl.kernels.protocol import Info, Kernel, diverged, mapped, metropolis, precise
from ebrl.ranges import check_at_least
from ebrl.spaces import Space
from ebrl.spaces.space import equal


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
        return density + self.space.log_det_jacobian(x)


class ImportanceState(NamedTuple):
    """The position of a batch of chains, with the energy and the proposal's log density there."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    log_density: Tensor  # (*batch,)
    gradient: None = None  # not known


class ImportanceNoise(NamedTuple):
    """Candidates, and the uniform number that chooses among them and the current position."""

    candidates: Tensor  # (*batch, candidates, *event)
    uniform: Tensor  # (*batch,)


class IteratedSIR(Kernel[ImportanceState, ImportanceNoise]):
    """Iterated sampling importance resampling (Andrieu, Lee and Vihola 2018, algorithm 1): exact.

    Each step draws new candidates and chooses among them and the current position with probability
    ∝ `exp(-E/T) / q`. The proposal must cover the target: a chain outside of the proposal's support
    moves in and never out again. The more even the weights, the faster the chain mixes, whatever
    the distance between modes. One step from draws of the proposal is sampling importance
    resampling; see `ebrl.sampling.importance_resampling`.
    """

    def __init__(self, proposal: Proposal, candidates: int = 16):
        check_at_least(1, candidates=candidates)
        self.proposal, self.candidates = proposal, candidates

    def check_space(self, space: Space) -> None:
        check_proposal(self.proposal, space)

    def start(self, energy: Energy, x: Tensor) -> ImportanceState:
        return importance_state(energy, x, self.proposal)

    def draw(self, state: ImportanceState, generator: torch.Generator) -> ImportanceNoise:
        return importance_noise(state, self.proposal, self.candidates, generator)

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
        log_weights, lost = log_importance(pool, over_event(temperature, 1))
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
    tails than the target. It must also cover the target: a chain outside of the proposal's support
    moves in and never out.
    """

    def __init__(self, proposal: Proposal):
        self.proposal = proposal

    def check_space(self, space: Space) -> None:
        check_proposal(self.proposal, space)

    def start(self, energy: Energy, x: Tensor) -> ImportanceState:
        return importance_state(energy, x, self.proposal)

    def draw(self, state: ImportanceState, generator: torch.Generator) -> ImportanceNoise:
        return importance_noise(state, self.proposal, 1, generator)

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


def check_proposal(proposal: Proposal, space: Space) -> None:
    """Raise `ValueError` for a proposal whose density does not wrap as the space does."""
    if not space.wrapped:
        return
    if not isinstance(proposal, ReferenceProposal) or not equal(proposal.space, space):
        raise ValueError(
            f"expected ReferenceProposal(space) of the sampler's own {type(space).__name__}, in "
            "which each x has infinitely many free coordinates, got "
            f"{type(proposal).__name__}: propose from it, or choose a space that does not wrap"
        )


def importance_state(energy: Energy, x: Tensor, proposal: Proposal) -> ImportanceState:
    """Evaluate the energy and the proposal's log density at x."""
    check_uncoupled(energy)
    return ImportanceState(x, precise(energy(x), x), precise(proposal.log_density(x), x))


def importance_noise(
    state: ImportanceState, proposal: Proposal, candidates: int, generator: torch.Generator
) -> ImportanceNoise:
    """Draw candidates; `ValueError` where they have another shape than the event."""
    drawn = proposal.sample((*state.energy.shape, candidates), generator)
    expected, got = state.x.shape[state.energy.ndim :], drawn.shape[state.energy.ndim + 1 :]
    if got != expected:
        raise ValueError(
            f"expected a proposal of the event's shape {tuple(expected)}, got {tuple(got)}"
        )
    return ImportanceNoise(drawn.to(state.x), uniform_like(state.energy, generator))


def log_importance(state: ImportanceState, temperature: Number) -> tuple[Tensor, Tensor]:
    """Return the log weights `-E/T - log q` and what has diverged, both `(*batch,)`.

    The weight is 0 where it is NaN, and where the proposal has no mass: a chain there accepts any
    candidate.
    """
    log_weight = -state.energy / temperature - state.log_density
    lost = diverged(state.x, state.energy)
    return log_weight.masked_fill(lost | ~(log_weight < torch.inf), -torch.inf), lost
