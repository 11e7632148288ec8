"""Hamiltonian kernels: chains with a velocity.

The momentum is `N(0, mass T)`. The flow conserves `H = E(x) + Σ mass v² / 2`, and leapfrog steps of
length `step_size` almost conserve it. `mass` is a positive diagonal of the event's shape: 1 by
default, and best close to the inverse variances of the coordinates. Kernels with an acceptance test
refuse an energy that couples chains. They report `hamiltonian`, H/T at the start of the step, and
`energy_error`, ΔH/T of the proposal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.checks import as_positive_diagonal, check_event_shape, check_uncoupled
from ebrl.kernels.draws import normal_like, uniform_like
from ebrl.kernels.protocol import (
    GradientState,
    Info,
    Kernel,
    MetropolisNoise,
    gradient_state,
    metropolis,
    metropolis_noise,
    unadjusted,
)
from ebrl.ranges import check_at_least


def thermal_velocity(
    normal: Tensor, temperature: Number, mass: Tensor | None, batch_ndim: int
) -> Tensor:
    """Return `√(T / mass) ξ`."""
    velocity = over_event(temperature**0.5, normal.ndim - batch_ndim) * normal
    return velocity if mass is None else velocity / mass.sqrt()


def kinetic_energy(velocity: Tensor, mass: Tensor | None, batch_ndim: int) -> Tensor:
    """Return `Σ mass v² / 2`, `(*batch,)`."""
    square = velocity.square() if mass is None else mass * velocity.square()
    return square.sum(tuple(range(batch_ndim, velocity.ndim))) / 2


def leapfrog(
    energy: Energy, state: GradientState, velocity: Tensor, length: Number, mass: Tensor | None
) -> tuple[GradientState, Tensor]:
    """Return the end of one leapfrog step: half a kick, a drift, half a kick; one gradient."""
    kick = length / 2 if mass is None else length / (2 * mass)
    velocity = velocity - kick * state.gradient
    state = gradient_state(energy, state.x + length * velocity)
    return state, velocity - kick * state.gradient


class HMCNoise(NamedTuple):
    """The noise of a trajectory and of its acceptance test."""

    normal: Tensor  # (*batch, *event)
    uniform: Tensor  # (*batch,) in [0, 1)
    jitter: Tensor | None = None  # (*batch,) in [0, 1)


class HMC(Kernel[GradientState, HMCNoise]):
    """Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011): exact at every step size.

    A step costs one gradient for each of its `leapfrogs`. One leapfrog step of length ε is MALA
    with η = ε²/2 and the inverse mass as its preconditioner.

    With `jitter` the step size of each trajectory is uniform between `1 - jitter` and `1 + jitter`
    times the given one (Mackenzie 1989; Neal 2011, section 5.3.2). Trajectories of constant length
    may be periodic, and then hardly mix.
    """

    coordinates = "real"
    best_acceptance = 0.651  # in many dimensions: Beskos et al. 2013

    def __init__(self, leapfrogs: int = 10, mass: Tensor | None = None, jitter: float = 0.0):
        check_at_least(1, leapfrogs=leapfrogs)
        if not 0 <= jitter < 1:
            raise ValueError(f"expected 0 <= jitter < 1, a share of the step size, got {jitter}")
        self.leapfrogs = self.gradients = leapfrogs
        self.mass = as_positive_diagonal("mass", mass)
        self.jitter = jitter

    def preconditioned(self, variance: Tensor) -> Kernel:
        return HMC(self.leapfrogs, 1 / variance, self.jitter)

    def probe(self) -> Kernel:
        return HMC(1, None if self.mass is None else self.mass.tensor)

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        check_uncoupled(energy)
        check_event_shape("mass", self.mass, energy, x)
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> HMCNoise:
        noise = metropolis_noise(state, generator)
        return HMCNoise(*noise, uniform_like(noise.uniform, generator) if self.jitter else None)

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: HMCNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        batch_ndim = state.energy.ndim
        mass = None if self.mass is None else self.mass.to(state.x)
        if noise.jitter is not None:
            step_size = step_size * (1 + self.jitter * (2 * noise.jitter - 1))
        length = over_event(step_size, state.x.ndim - batch_ndim)
        velocity = thermal_velocity(noise.normal, temperature, mass, batch_ndim)
        before = state.energy + kinetic_energy(velocity, mass, batch_ndim)
        end = state
        for _ in range(self.leapfrogs):
            end, velocity = leapfrog(energy, end, velocity, length, mass)
        gained = end.energy + kinetic_energy(velocity, mass, batch_ndim) - before
        log_ratio = -gained / temperature
        state, info = metropolis(end, state, log_ratio, noise.uniform)
        return state, _with_energies(info, before / temperature, log_ratio)


class VelocityState(NamedTuple):
    """The position of a batch of chains, and the velocity that it keeps between steps."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    gradient: Tensor  # (*batch, *event)
    velocity: Tensor  # (*batch, *event)
    moving: Tensor  # (*batch,), 0 before the first velocity is drawn, then 1


class GHMC(Kernel[VelocityState, MetropolisNoise]):
    """Generalised Hamiltonian Monte Carlo (Horowitz 1991): exact at every step size.

    Each step keeps `exp(-friction · leapfrogs · step_size)` of the velocity, replaces the rest by
    noise, and makes `leapfrogs` leapfrog steps; a rejection reverses the velocity. The first step
    draws the whole velocity. With infinite friction it is HMC.
    """

    coordinates = "real"
    best_acceptance = 0.651  # in many dimensions: Beskos et al. 2013

    def __init__(self, leapfrogs: int = 1, friction: float = 1.0, mass: Tensor | None = None):
        check_at_least(1, leapfrogs=leapfrogs)
        _check_friction(friction)
        self.leapfrogs = self.gradients = leapfrogs
        self.friction = friction
        self.mass = as_positive_diagonal("mass", mass)

    def preconditioned(self, variance: Tensor) -> Kernel:
        return GHMC(self.leapfrogs, self.friction, 1 / variance)

    def probe(self) -> Kernel:
        return HMC(1, None if self.mass is None else self.mass.tensor)

    def start(self, energy: Energy, x: Tensor) -> VelocityState:
        check_uncoupled(energy)
        check_event_shape("mass", self.mass, energy, x)
        return _at_rest(energy, x)

    def draw(self, state: VelocityState, generator: torch.Generator) -> MetropolisNoise:
        return metropolis_noise(state, generator)

    def step(
        self,
        energy: Energy,
        state: VelocityState,
        noise: MetropolisNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[VelocityState, Info]:
        batch_ndim = state.energy.ndim
        mass = None if self.mass is None else self.mass.to(state.x)
        length = over_event(step_size, state.x.ndim - batch_ndim)
        thermal = thermal_velocity(noise.normal, temperature, mass, batch_ndim)
        state = _refreshed(state, thermal, self.friction * self.leapfrogs * step_size)
        before = state.energy + kinetic_energy(state.velocity, mass, batch_ndim)
        end, velocity = GradientState(*state[:3]), state.velocity
        for _ in range(self.leapfrogs):
            end, velocity = leapfrog(energy, end, velocity, length, mass)
        gained = end.energy + kinetic_energy(velocity, mass, batch_ndim) - before
        proposed = VelocityState(*end, velocity, state.moving)
        log_ratio = -gained / temperature
        state, info = metropolis(proposed, _turned(state), log_ratio, noise.uniform)
        return state, _with_energies(info, before / temperature, log_ratio)


class Underdamped(Kernel[VelocityState, Tensor]):
    """Underdamped Langevin, the OBABO splitting (Bussi and Parrinello 2007): biased by O(ε²).

    It is `GHMC` with one leapfrog step, of length ε = `step_size`, and no test. On `E = x²/2s²` at
    temperature T the variance of x is `T s² / (1 - ε²/4s²)` with unit mass. At temperature 0 it is
    descent with momentum. Moves to an infinite or undefined energy are undone, and the velocity is
    reversed.
    """

    coordinates = "real"

    def __init__(self, friction: float = 1.0, mass: Tensor | None = None):
        _check_friction(friction)
        self.friction = friction
        self.mass = as_positive_diagonal("mass", mass)

    def start(self, energy: Energy, x: Tensor) -> VelocityState:
        check_event_shape("mass", self.mass, energy, x)
        return _at_rest(energy, x)

    def draw(self, state: VelocityState, generator: torch.Generator) -> Tensor:
        return normal_like(state.x, generator)

    def step(
        self,
        energy: Energy,
        state: VelocityState,
        noise: Tensor,
        step_size: Number,
        temperature: Number,
    ) -> tuple[VelocityState, Info]:
        # O at the end of one step and at the start of the next are one O of twice the time: after
        # BAB x has the distribution of OBABO.
        batch_ndim = state.energy.ndim
        mass = None if self.mass is None else self.mass.to(state.x)
        length = over_event(step_size, state.x.ndim - batch_ndim)
        thermal = thermal_velocity(noise, temperature, mass, batch_ndim)
        state = _refreshed(state, thermal, self.friction * step_size)
        end, velocity = leapfrog(energy, GradientState(*state[:3]), state.velocity, length, mass)
        return unadjusted(VelocityState(*end, velocity, state.moving), _turned(state))


def _with_energies(info: Info, hamiltonian: Tensor, log_ratio: Tensor) -> Info:
    return info._replace(extra={"hamiltonian": hamiltonian, "energy_error": -log_ratio})


def _at_rest(energy: Energy, x: Tensor) -> VelocityState:
    start = gradient_state(energy, x)
    moving = torch.zeros_like(start.energy, dtype=x.dtype)
    return VelocityState(*start, torch.zeros_like(x), moving)


def _refreshed(state: VelocityState, thermal: Tensor, friction: Number) -> VelocityState:
    """Return the state with the velocity `c v + √(1 - c²) thermal`, `c = exp(-friction)`."""
    event_ndim = thermal.ndim - state.energy.ndim
    kept = state.moving * math.e**-friction  # (*batch,): none of the velocity at rest
    fresh = over_event((1 - kept.square()).sqrt(), event_ndim) * thermal
    velocity = over_event(kept, event_ndim) * state.velocity + fresh
    return state._replace(velocity=velocity, moving=torch.ones_like(state.moving))


def _turned(state: VelocityState) -> VelocityState:
    """Return the state with its velocity reversed, as after a rejection."""
    return state._replace(velocity=-state.velocity)


def _check_friction(friction: float) -> None:
    if not friction > 0:
        raise ValueError(f"expected a positive friction, got {friction}")
