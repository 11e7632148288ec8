"""The No-U-Turn sampler: Hamiltonian trajectories that find their own length.

A trajectory doubles, forwards or backwards in time, until it turns back on itself; the chain moves
to one of its points, drawn with probability ∝ `exp(-H/T)`, later halves preferred. All chains grow
a tree at once, so a batch costs as much as its longest trajectory.

The randomness of a step is three uniforms for each doubling. Within a subtree the choice between
two halves needs one at each level, not one at each node: the point chosen in the end depends on
one node a level, and the shape of the tree on none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.hamiltonian import HMC, kinetic_energy, leapfrog, thermal_velocity
from ebrl.kernels.protocol import (
    GradientState,
    Info,
    Kernel,
    as_positive_diagonal,
    check_event_shape,
    check_positive_temperature,
    check_uncoupled,
    choose,
    diverged,
    gradient_state,
    normal_like,
)

DIVERGENCE = 1000.0  # the rise of H/T beyond which the integration has failed, as in Stan


class NUTSNoise(NamedTuple):
    """The noise of one step."""

    normal: Tensor  # (*batch, *event)
    directions: Tensor  # (*batch, max_depth), below .5 a doubling goes forwards in time
    doublings: Tensor  # (*batch, max_depth), decides whether a doubling takes the chain along
    levels: Tensor  # (*batch, max_depth), decides between the halves of a subtree


class Point(NamedTuple):
    """A point of a trajectory."""

    position: GradientState
    velocity: Tensor  # (*batch, *event)


class Tree(NamedTuple):
    """What is kept of a stretch of a trajectory."""

    first: Tensor  # (*batch, *event), velocity at its first point
    total: Tensor  # (*batch, *event), sum of the velocities
    log_weight: Tensor  # (*batch,), of the sum of `exp(-ΔH/T)`
    proposal: GradientState


class Growth(NamedTuple):
    """How far each chain's tree has come."""

    growing: Tensor  # (*batch,) bool
    acceptance: Tensor  # (*batch,), sum over the points
    leapfrogs: Tensor  # (*batch,)
    diverged: Tensor  # (*batch,) bool


class NUTS(Kernel[GradientState, NUTSNoise]):
    """Multinomial NUTS (Hoffman and Gelman 2014; Betancourt 2017): exact at every step size.

    At most `2^max_depth - 1` leapfrog steps of length `step_size`, with the generalised U-turn
    criterion. `mass` is HMC's. Adapt the step size to an acceptance of .8. It waits for the host,
    once a leapfrog step, to know whether any chain still grows. Raises `ValueError` for a cap
    below 1, for a mass that is not positive or not of the event's shape, for an energy that couples
    chains and at temperature 0.

    A step reports `leapfrogs`, the length of the trajectory, `depth`, how often it doubled, and
    `saturated`, 1 where the cap ended it; its acceptance is the mean of `min(1, exp(-ΔH/T))` over
    the trajectory, and it diverged where the trajectory ended at NaN, -inf or an error beyond 1000.
    """

    best_acceptance = 0.8

    def __init__(self, max_depth: int = 10, mass: Tensor | None = None):
        if max_depth < 1:
            raise ValueError(f"expected max_depth >= 1, got {max_depth}")
        self.max_depth = max_depth
        self.mass = as_positive_diagonal("mass", mass)

    def preconditioned(self, variance: Tensor) -> Kernel:
        return NUTS(self.max_depth, 1 / variance)

    def probe(self) -> Kernel:
        return HMC(1, None if self.mass is None else self.mass.tensor)

    def start(self, energy: Energy, x: Tensor) -> GradientState:
        check_uncoupled(energy)
        check_event_shape("mass", self.mass, energy, x)
        return gradient_state(energy, x)

    def draw(self, state: GradientState, generator: torch.Generator) -> NUTSNoise:
        normal = normal_like(state.x, generator)
        shape = (3, *state.energy.shape, self.max_depth)
        uniforms = state.energy.new_empty(shape).uniform_(generator=generator)
        return NUTSNoise(normal, *uniforms)

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: NUTSNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        check_positive_temperature(temperature)
        mass = None if self.mass is None else self.mass.to(state.x)
        velocity = thermal_velocity(noise.normal, temperature, mass, state.energy.ndim)
        flow = _Flow(energy, state, velocity, step_size, temperature, mass)
        left = right = Point(state, velocity)
        none = torch.zeros_like(state.energy)
        tree = Tree(velocity, velocity, none, state)
        growth = Growth(none == 0, none, none, none > 0)
        for depth in range(self.max_depth):
            forwards = noise.directions[..., depth] < 0.5
            end, half, growth = flow.subtree(
                _either(forwards, right, left), forwards, depth, noise.levels, growth
            )
            left, right = _either(forwards, left, end), _either(forwards, end, right)
            share = (half.log_weight - tree.log_weight).exp()
            taken = growth.growing & (noise.doublings[..., depth] < share)
            tree = Tree(
                left.velocity,
                tree.total + half.total,
                torch.logaddexp(tree.log_weight, half.log_weight),
                choose(taken, half.proposal, tree.proposal),
            )
            turned = flow.turned(tree, right.velocity)
            growth = growth._replace(growing=growth.growing & ~turned)
            if not growth.growing.any():
                break
        acceptance = growth.acceptance / growth.leapfrogs
        extra = {
            "leapfrogs": growth.leapfrogs,
            "depth": (growth.leapfrogs + 1).log2().ceil(),
            "saturated": growth.growing.to(acceptance.dtype),
        }
        return tree.proposal, Info(acceptance, growth.diverged, extra)


class _Flow:
    """The Hamiltonian flow of one step: what stays fixed while the trees grow."""

    def __init__(
        self,
        energy: Energy,
        state: GradientState,
        velocity: Tensor,
        step_size: Number,
        temperature: Number,
        mass: Tensor | None,
    ):
        self.energy, self.mass, self.temperature = energy, mass, temperature
        self.batch_ndim, self.event_ndim = state.energy.ndim, state.x.ndim - state.energy.ndim
        self.length = over_event(step_size, self.event_ndim)
        self.start = state.energy + kinetic_energy(velocity, mass, self.batch_ndim)

    def subtree(
        self, end: Point, forwards: Tensor, depth: int, levels: Tensor, growth: Growth
    ) -> tuple[Point, Tree, Growth]:
        """Go on from `end` by `2^depth` leapfrog steps; a chain stops growing that turns or fails.

        The stack holds complete subtrees of falling size; two of equal size join, as a binary
        counter carries.
        """
        sign = 2 * forwards.to(end.velocity.dtype) - 1
        length = over_event(sign, self.event_ndim) * self.length
        stack: list[Tree] = []
        for leaf in range(2**depth):
            end = Point(*leapfrog(self.energy, *end, length, self.mass))
            log_weight, growth = self._weigh(end, growth)
            tree, level = Tree(end.velocity, end.velocity, log_weight, end.position), 0
            while leaf >> level & 1:
                tree = _joined(stack.pop(), tree, levels[..., level])
                turned = self.turned(tree, end.velocity)
                growth = growth._replace(growing=growth.growing & ~turned)
                level += 1
            stack.append(tree)
            if not growth.growing.any():
                break
        return end, stack[0], growth

    def _weigh(self, point: Point, growth: Growth) -> tuple[Tensor, Growth]:
        """Return the point's log weight, and the growth with the point counted."""
        value = point.position.energy
        total = value + kinetic_energy(point.velocity, self.mass, self.batch_ndim)
        gained = (total - self.start) / self.temperature
        lost = diverged(point.position.x, value)
        failed = lost | ~(gained <= DIVERGENCE)  # NaN fails
        log_weight = torch.where(failed, -torch.inf, -gained)
        grown = Growth(
            growth.growing & ~failed,
            growth.acceptance + growth.growing * log_weight.clamp(max=0).exp(),
            growth.leapfrogs + growth.growing,
            growth.diverged | (growth.growing & (lost | (failed & ~value.isposinf()))),
        )
        return log_weight, grown

    def turned(self, tree: Tree, last: Tensor) -> Tensor:
        """Return whether a stretch turns back: its ends no longer go where it goes as a whole.

        The ends count half in the sum, as in the trapezoid rule: otherwise a trajectory of whole
        periods of a Gaussian is not seen to turn.
        """
        total = tree.total - (tree.first + last) / 2
        momentum = total if self.mass is None else self.mass * total
        event_axes = tuple(range(self.batch_ndim, total.ndim))
        along = [(momentum * velocity).sum(event_axes) for velocity in (tree.first, last)]
        return torch.minimum(*along) <= 0


def _joined(earlier: Tree, later: Tree, uniform: Tensor) -> Tree:
    """Join two neighbouring stretches: the proposal is the later's in proportion to its weight."""
    log_weight = torch.logaddexp(earlier.log_weight, later.log_weight)
    taken = uniform < (later.log_weight - log_weight).exp()
    proposal = choose(taken, later.proposal, earlier.proposal)
    return Tree(earlier.first, earlier.total + later.total, log_weight, proposal)


def _either(condition: Tensor, one: Point, other: Point) -> Point:
    position = choose(condition, one.position, other.position)
    shape = (*condition.shape, *(1,) * (one.velocity.ndim - condition.ndim))
    velocity = torch.where(condition.reshape(shape), one.velocity, other.velocity)
    return Point(position, velocity)
