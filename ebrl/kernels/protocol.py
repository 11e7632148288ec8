"""What a kernel is: one move that leaves `exp(-E/T)` invariant, or states its bias.

    state = kernel.start(energy, x)
    noise = kernel.draw(state, generator)
    state, info = kernel.step(energy, state, noise, step_size, temperature)

A state holds what is known at x. A step is deterministic given its noise and never waits for the
host: a chain of steps compiles to one graph, and eager and compiled chains agree. Constructors and
`start` raise `ValueError` for numbers out of range, and an energy or x that the kernel cannot take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ebrl.constants import Constant
from ebrl.energies import Energy, Number
from ebrl.kernels.draws import normal_like, uniform_like
from ebrl.spaces import Coordinates, Space

State = TypeVar("State", bound="HasPosition")
Noise = TypeVar("Noise")


class HasPosition(Protocol):
    """What the state of every kernel has."""

    @property
    def x(self) -> Tensor: ...  # (*batch, *event)

    @property
    def energy(self) -> Tensor: ...  # (*batch,)

    @property
    def gradient(self) -> Tensor | None: ...  # (*batch, *event), None if it is not known


class Info(NamedTuple):
    """What one step reports."""

    acceptance: Tensor  # (*batch,), the probability with which the proposal was accepted
    diverged: Tensor  # (*batch,) bool, the proposal was NaN, infinite or had energy -inf
    # What else the kernel reports, (*batch, …) each.
    extra: dict[str, Tensor] = {}  # noqa: RUF012, nothing changes a report


def added(total: Info, info: Info) -> Info:
    """Return the sum of two reports, without a graph; the first one may lack the extra fields."""
    extra = {name: one.detach() + total.extra.get(name, 0) for name, one in info.extra.items()}
    return Info(total.acceptance + info.acceptance.detach(), total.diverged + info.diverged, extra)


class Walk(NamedTuple):
    """The results of several steps, and their reports."""

    x: Tensor  # (steps, *batch, *event)
    energy: Tensor  # (steps, *batch)
    info: Info  # (steps, *batch) each


class Kernel(Protocol[State, Noise]):
    """One move of a batch of chains.

    Overrides keep these annotations, or narrower ones: configs are checked against them.
    """

    couples_chains: bool = False  # whether the move of one chain depends on others
    coordinates: Coordinates | None = None  # that it moves; None moves any
    stateful: bool = False  # whether a chain is more than its x: many short runs are then biased
    best_acceptance: float | None = None  # for adaptation; None without one
    gradients: int = 1  # least number of evaluations in a step

    def check_space(self, space: Space) -> None:
        """Raise `ValueError` for a space of these coordinates in which the kernel is wrong."""
        return None

    def preconditioned(self, variance: Tensor) -> Kernel:
        """Return the kernel for coordinates of this variance, `(*event,)`."""
        raise ValueError(
            "expected a kernel that warm-up can precondition (MALA, HMC, GHMC, NUTS, or Blocks of "
            f"one), got {type(self).__name__}"
        )

    def probe(self) -> Kernel:
        """Return a cheap kernel whose acceptance shows whether a step size is good."""
        return self

    def start(self, energy: Energy, x: Tensor) -> State:
        """Return the state of chains at x."""
        ...

    def draw(self, state: State, generator: torch.Generator) -> Noise:
        """Draw all the randomness of one step."""
        ...

    def step(
        self, energy: Energy, state: State, noise: Noise, step_size: Number, temperature: Number
    ) -> tuple[State, Info]:
        """Move every chain once. `step_size` and `temperature` are scalars or `(*batch,)`."""
        ...

    def walk(
        self,
        energy: Energy,
        state: State,
        noise: Sequence[Noise],
        step_size: Number,
        temperature: Number,
    ) -> tuple[State, Walk]:
        """Make a step with each noise; return the last state, and the results of all."""
        steps = []
        for one in noise:
            state, info = self.step(energy, state, one, step_size, temperature)
            steps.append(Walk(state.x, state.energy, info))
        return state, mapped(lambda *fields: torch.stack(fields), *steps)


class GradientState(NamedTuple):
    """The position of a batch of chains, with the energy and gradient there."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    gradient: Tensor  # (*batch, *event)


def gradient_state(energy: Energy, x: Tensor) -> GradientState:
    """Evaluate the energy and its gradient at x.

    The gradient has the dtype of x, whatever that of the energy's weights: chains keep theirs.
    """
    value, gradient = energy.value_and_gradient(x)
    if gradient.dtype != x.dtype:
        gradient = gradient.to(x.dtype)
    return GradientState(x, precise(value, x), gradient)


def precise(energy: Tensor, x: Tensor) -> Tensor:
    """Return the energy in the dtype of x, and in float32 at least.

    An energy may be computed in bfloat16, but acceptances depend on its small differences.
    """
    wanted = torch.promote_types(x.dtype, torch.float32)
    return energy if energy.dtype == wanted else energy.to(wanted)


# ---- noise ----------------------------------------------------------------------------------


class MetropolisNoise(NamedTuple):
    """The noise of a proposal and of its acceptance test."""

    normal: Tensor  # (*batch, *event)
    uniform: Tensor  # (*batch,) in [0, 1)


def metropolis_noise(state: HasPosition, generator: torch.Generator) -> MetropolisNoise:
    """Draw the noise of a Gaussian proposal and of its acceptance test."""
    return MetropolisNoise(normal_like(state.x, generator), uniform_like(state.energy, generator))


# ---- nested named tuples, which states, noises and reports are ------------------------------


def mapped(function: Callable[..., Tensor], nest: Any, *others: Any) -> Any:
    """Apply a function to the tensors of equally built named tuples and dictionaries."""
    if isinstance(nest, Tensor):
        return function(nest, *others)
    if isinstance(nest, dict):
        return {key: mapped(function, nest[key], *(o[key] for o in others)) for key in nest}
    if isinstance(nest, tuple):
        parts = [mapped(function, *fields) for fields in zip(nest, *others, strict=True)]
        return type(nest)(*parts)
    return nest  # None


# ---- the end of a step ----------------------------------------------------------------------

_LOWEST = Constant(torch.tensor(-torch.inf, device="cpu"))  # a Python number is slower to compare


def diverged(x: Tensor, energy: Tensor) -> Tensor:
    """Return which proposals are NaN, infinite or have the energy -inf, `(*batch,)` bool.

    An energy of +inf at a finite x is a wall, of density zero: rejected, but no divergence.
    """
    return _is_lost(_energy_where_finite(x, energy))


def _is_lost(probe: Tensor) -> Tensor:
    """Return where an energy is NaN or -inf, bool."""
    return torch.gt(probe, _LOWEST.to(probe)).logical_not_()


def _energy_where_finite(x: Tensor, energy: Tensor) -> Tensor:
    """Return the energy where x is finite, and NaN elsewhere."""
    event_axes = tuple(range(energy.ndim, x.ndim))
    total = x.sum(event_axes, dtype=energy.dtype) if event_axes else x
    return torch.add(energy, total, alpha=0)  # 0 times infinity is NaN


def choose(accepted: Tensor, new: Any, old: Any) -> Any:
    """Return the fields of `new` where accepted, `(*batch,)` bool, and those of `old` elsewhere."""
    return mapped(partial(where, accepted), new, old)


def where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return `new` where accepted, `(*batch,)` bool, and `old` elsewhere, `(*batch, *event)`."""
    while accepted.ndim < new.ndim:
        accepted = accepted.unsqueeze(-1)
    return torch.where(accepted, new, old)


def unadjusted(proposed: State, current: State) -> tuple[State, Info]:
    """End a step without a test: accept `proposed` where its energy is finite."""
    probe = _energy_where_finite(proposed.x, proposed.energy)
    zero = probe - probe  # NaN where it is not finite
    accepted = zero == zero
    state: State = choose(accepted, proposed, current)
    return state, Info(accepted.to(probe.dtype), _is_lost(probe))


def metropolis(
    proposed: State, current: State, log_ratio: Tensor, uniform: Tensor
) -> tuple[State, Info]:
    """End a step with a test: accept `proposed` with probability `min(1, exp(log_ratio))`."""
    lost = diverged(proposed.x, proposed.energy)
    acceptance, accepted = metropolis_test(log_ratio, lost, uniform)
    state: State = choose(accepted, proposed, current)
    return state, Info(acceptance, lost)


def metropolis_test(log_ratio: Tensor, lost: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return the acceptance probability `min(1, exp(log_ratio))` and the decisions.

    Diverged proposals are rejected, though an energy of -inf would win, and so are log ratios of
    NaN, which are +inf minus +inf.
    """
    log_ratio = torch.nan_to_num(log_ratio, nan=-torch.inf).masked_fill_(lost, -torch.inf)
    acceptance = log_ratio.clamp_(max=0).exp_()
    return acceptance, uniform < acceptance
