"""Langevin kernels: a step down the gradient and Gaussian noise at the step's temperature.

    x' = x - η P ∇E(x) + √(2 η T P) ξ,    ξ ~ N(0, 1)

η is `step_size`, T `temperature` and P `preconditioner`, a diagonal of positive numbers of the
event's shape, best the variances of the coordinates; without one it is 1. At temperature 0 both
kernels descend, MALA where its test lets it: the energy must fall by more than
`η |∇E(x) + ∇E(x')|² / 4`, as it does near a minimum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.protocol import (
    GradientState,
    Info,
    MetropolisNoise,
    as_positive_diagonal,
    check_event_shape,
    check_uncoupled,
    compiles_by_coordinate,
    gradient_state,
    metropolis,
    metropolis_noise,
    normal_like,
    precise,
    unadjusted,
)


def langevin_proposal(
    state: GradientState,
    normal: Tensor,
    step_size: Number,
    temperature: Number,
    preconditioner: Tensor | None = None,
) -> Tensor:
    """Return `x - η P g + √(2 η T P) ξ`."""
    event_ndim = normal.ndim - state.energy.ndim
    drift, spread = _scales(step_size, temperature, preconditioner, event_ndim)
    if compiles_by_coordinate(state.x, event_ndim):
        parts = (state.x, drift * state.gradient, spread * normal)
        coordinates = zip(*(part.unbind(-1) for part in parts), strict=True)
        return torch.stack([x - down + out for x, down, out in coordinates]).movedim(0, -1)
    if isinstance(drift, Tensor) or isinstance(spread, Tensor):
        return state.x - drift * state.gradient + spread * normal
    return torch.add(state.x, state.gradient, alpha=-drift).add_(normal, alpha=spread)


def _scales(
    step_size: Number, temperature: Number, preconditioner: Tensor | None, event_ndim: int
) -> tuple[Number, Number]:
    """Return `η P` and `√(2 η T P)`."""
    drift = over_event(step_size, event_ndim)
    spread = over_event((2 * step_size * temperature) ** 0.5, event_ndim)
    if preconditioner is not None:
        drift, spread = drift * preconditioner, spread * preconditioner.sqrt()
    return drift, spread


def _shift(x: Tensor, direction: Tensor, scale: Number) -> Tensor:
    """Add `scale * direction` to x in place."""
    if isinstance(scale, Tensor):
        return x.add_(scale * direction)
    return x.add_(direction, alpha=scale)


class ULA:
    """Unadjusted Langevin (Roberts and Tweedie 1996): biased by O(η), never rejects.

    On `E = x²/2s²` at temperature 1 its variance is `s² / (1 - η/2s²)`. Moves to an infinite energy
    (a wall) or to none are undone, so that the chain stays where a density exists. Raises
    `ValueError` for a preconditioner that is not positive or not of the event's shape.
    """

    def __init__(self, preconditioner: Tensor | None = None):
        self.preconditioner = as_positive_diagonal("preconditioner", preconditioner)

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        check_event_shape("preconditioner", self.preconditioner, energy, x)
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> Tensor:
        return normal_like(state.x, generator)

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: Tensor,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        scale = None if self.preconditioner is None else self.preconditioner.to(state.x)
        x = langevin_proposal(state, noise, step_size, temperature, scale)
        return unadjusted(gradient_state(energy, x), state)

    def leap(
        self,
        energy: Energy,
        state: GradientState,
        steps: int,
        step_size: Number,
        temperature: Number,
        generator: torch.Generator,
    ) -> GradientState | None:
        """Return where `steps` steps lead, asking but once whether all led to places.

        To guard each step takes a quarter of a small batch's time. None, with the generator as it
        was, where a step led to no place: what is infinite or NaN stays so, in x or in a sum of
        energies. It waits for the device.
        """
        before, total = generator.get_state(), torch.zeros_like(state.energy)
        scale = None if self.preconditioner is None else self.preconditioner.to(state.x)
        event_ndim = state.x.ndim - state.energy.ndim
        drift, spread = _scales(step_size, temperature, scale, event_ndim)
        x, follow = energy.recording(state.x)
        value, gradient, normal = state.energy, state.gradient, torch.empty_like(state.x)
        for _ in range(steps):
            _shift(x, gradient, -drift)
            _shift(x, normal.normal_(generator=generator), spread)
            value, gradient = follow()
            total += value
        if not math.isfinite(total.sum() + x.sum()):
            generator.set_state(before)
            return None
        value = precise(value, x)
        return GradientState(x.clone(), value.clone(), gradient.clone())


class MALA:
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996): exact at every step size.

    One energy and gradient a step. The best acceptance in many dimensions is .574 (Roberts and
    Rosenthal 1998). Raises `ValueError` for a preconditioner that is not positive or not of the
    event's shape, and for an energy that couples chains.
    """

    def __init__(self, preconditioner: Tensor | None = None):
        self.preconditioner = as_positive_diagonal("preconditioner", preconditioner)

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        check_uncoupled(energy)
        check_event_shape("preconditioner", self.preconditioner, energy, x)
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> MetropolisNoise:
        return metropolis_noise(state, generator)

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: MetropolisNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        scale = None if self.preconditioner is None else self.preconditioner.to(state.x)
        x = langevin_proposal(state, noise.normal, step_size, temperature, scale)
        proposal = gradient_state(energy, x)
        event_axes = tuple(range(state.energy.ndim, x.ndim))
        drift = over_event(step_size, len(event_axes))
        # log q(x'|x) = -|ξ|²/2 and log q(x|x') = -|x - x' + ηPg'|²_{1/P} / 4ηT, up to the same
        # constant.
        # The temperature divides their sum, so that at 0 infinities of opposite sign never meet.
        forward = noise.normal.square().sum(event_axes) / 2
        if scale is None:
            backward = (state.x - x + drift * proposal.gradient).square().sum(event_axes)
        else:
            back = (state.x - x) / scale + drift * proposal.gradient
            backward = (scale * back.square()).sum(event_axes)
        fallen = state.energy - proposal.energy - backward / (4 * step_size)
        return metropolis(proposal, state, fallen / temperature + forward, noise.uniform)
