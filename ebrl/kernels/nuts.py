"""The No-U-Turn sampler: Hamiltonian trajectories that adapt their length.

A trajectory doubles, forwards or backwards in time, until it makes a U-turn. The chain moves to one
of its points, drawn with probability ∝ `exp(-H/T)` with a preference for the later half. All chains
make their leapfrog steps together, each in its own tree.

The leaves of a doubling are counted in binary: every 2^j-th leaf closes a block of 2^j leaves,
which is tested for a U-turn, and opens the next. For each j, two velocities are stored.

A step needs three uniform numbers for each doubling. One of them selects a leaf in a single pass:
leaf n replaces the selected one if `u < w_n / (w_1 + … + w_n)`. Then u is rescaled, so that it is
uniform again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.checks import (
    as_positive_diagonal,
    check_event_shape,
    check_positive_temperature,
    check_uncoupled,
)
from ebrl.kernels.draws import normal_like, take_along
from ebrl.kernels.hamiltonian import HMC, kinetic_energy, leapfrog, thermal_velocity
from ebrl.kernels.protocol import (
    GradientState,
    Info,
    Kernel,
    Walk,
    choose,
    diverged,
    gradient_state,
    mapped,
    where,
)
from ebrl.ranges import check_at_least
from ebrl.spaces import Space

DIVERGENCE = 1000.0  # the rise of H/T beyond which the integration has failed, as in Stan


class Uniforms(NamedTuple):
    """The uniform numbers of one step."""

    directions: Tensor  # (*batch, max_depth), below .5 a doubling goes forwards in time
    doublings: Tensor  # (*batch, max_depth), decides whether a doubling takes the chain along
    choices: Tensor  # (*batch, max_depth) in float64, picks a leaf of the doubling


class NUTSNoise(NamedTuple):
    """The noise of one step."""

    normal: Tensor  # (*batch, *event)
    uniforms: Uniforms


class Dynamics(NamedTuple):
    """The constants of a step."""

    step_size: Number
    temperature: Number
    mass: Tensor | None  # (*event,)


class Point(NamedTuple):
    """A point of a trajectory."""

    state: GradientState
    velocity: Tensor  # (*batch, *event)


class Doubling(NamedTuple):
    """The part that is being added to a trajectory."""

    leaves: Tensor  # (*batch,) integers
    total: Tensor  # (*batch, *event), sum of the velocities
    log_weight: Tensor  # (*batch,), of the sum of `exp(-ΔH/T)`
    chosen: GradientState
    choice: Tensor  # (*batch,) in float64, uniform
    first: Tensor  # (*batch, levels, *event), velocity where the open block of each level began
    before: Tensor  # (*batch, levels, *event), `total` before that


class Tree(NamedTuple):
    """A trajectory under construction."""

    growing: Tensor  # (*batch,) bool
    end: Point  # the end that grows
    other: Point  # its other end
    total: Tensor  # (*batch, *event), sum of the velocities without the doubling's
    log_weight: Tensor  # (*batch,)
    chosen: GradientState
    doubling: Doubling
    depth: Tensor  # (*batch,) integers, complete doublings
    forwards: Tensor  # (*batch,) bool, in time
    uniforms: Uniforms
    start: Tensor  # (*batch,), the Hamiltonian of its first point
    acceptance: Tensor  # (*batch,), sum over the leaves
    leapfrogs: Tensor  # (*batch,)
    error: Tensor  # (*batch,), the ΔH/T of largest size
    diverged: Tensor  # (*batch,) bool
    saturated: Tensor  # (*batch,) bool


class Trees(NamedTuple):
    """The trees of all chains, each in its own step, and the record of finished steps."""

    tree: Tree
    done: Tensor  # (*batch,) integers, finished steps
    walk: Walk


class NUTS(Kernel[GradientState, NUTSNoise]):
    """Multinomial NUTS (Hoffman and Gelman 2014; Betancourt 2017): exact at every step size.

    A step makes up to `2^max_depth - 1` leapfrog steps of length `step_size`, with the generalised
    U-turn criterion and HMC's `mass`. After each leapfrog step it waits for the host, to learn
    whether any tree still grows. `Sampler.trace` makes many steps at once, in which chains
    do not wait for each other's trees. Raises `ValueError` at temperature 0, for an energy that
    couples chains, and in a `Torus` or a reflecting `Box`, where fast trajectories never turn.

    A step reports `leapfrogs`, the length of the trajectory; `depth`, its doublings; `saturated`, 1
    if the cap ended it; `hamiltonian`, H/T at its start; and `max_energy_error`, the ΔH/T of
    largest size along it. Its acceptance is the mean of `min(1, exp(-ΔH/T))` over the trajectory.
    It diverged if the trajectory reached NaN, -inf or an error beyond 1000.
    """

    coordinates = "real"
    best_acceptance = 0.8

    def __init__(self, max_depth: int = 10, mass: Tensor | None = None):
        check_at_least(1, max_depth=max_depth)
        self.max_depth = max_depth
        self.mass = as_positive_diagonal("mass", mass)

    def check_space(self, space: Space) -> None:
        if space.wrapped:
            raise ValueError(
                f"expected a space that does not wrap for NUTS, got {type(space).__name__}, in "
                "which a trajectory above every barrier never turns: use HMC(10, jitter=0.3), or "
                "walls='tanh' of a Box"
            )

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
        shape = (*state.energy.shape, self.max_depth)
        directions, doublings = state.energy.new_empty((2, *shape)).uniform_(generator=generator)
        choices = state.energy.new_empty(shape, dtype=torch.float64)
        return NUTSNoise(
            normal, Uniforms(directions, doublings, choices.uniform_(generator=generator))
        )

    def step(
        self,
        energy: Energy,
        state: GradientState,
        noise: NUTSNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Info]:
        dynamics = self._dynamics(state, step_size, temperature)
        tree = start_tree(state, noise, dynamics)
        while tree.growing.any():
            tree = leapfrog_trees(energy, tree, dynamics)
        return tree.chosen, report(tree, dynamics)

    def walk(
        self,
        energy: Energy,
        state: GradientState,
        noise: Sequence[NUTSNoise],
        step_size: Number,
        temperature: Number,
    ) -> tuple[GradientState, Walk]:
        dynamics = self._dynamics(state, step_size, temperature)
        block = mapped(lambda *fields: torch.stack(fields), *noise)
        trees = start_trees(state, block, dynamics)
        while (trees.done < len(noise)).any():
            tree = leapfrog_trees(energy, trees.tree, dynamics)
            trees = trees._replace(tree=tree)
            if not tree.growing.all():
                trees = record_finished(trees, block, len(noise), dynamics)
        return trees.tree.chosen, trees.walk

    def _dynamics(self, state: GradientState, step_size: Number, temperature: Number) -> Dynamics:
        check_positive_temperature(temperature)
        mass = None if self.mass is None else self.mass.to(state.x)
        return Dynamics(step_size, temperature, mass)


def start_tree(state: GradientState, noise: NUTSNoise, dynamics: Dynamics) -> Tree:
    """Return the tree of a single point."""
    _, temperature, mass = dynamics
    batch_ndim, levels = state.energy.ndim, noise.uniforms.choices.shape[-1] - 1
    velocity = thermal_velocity(noise.normal, temperature, mass, batch_ndim)
    none, depth = torch.zeros_like(state.energy), torch.zeros_like(state.energy, dtype=torch.long)
    blocks = velocity.new_zeros(*state.energy.shape, levels, *state.x.shape[batch_ndim:])
    empty = Doubling(
        leaves=depth,
        total=torch.zeros_like(velocity),
        log_weight=torch.full_like(none, -torch.inf),
        chosen=state,
        choice=noise.uniforms.choices[..., 0],
        first=blocks,
        before=blocks,
    )
    point = Point(state, velocity)
    return Tree(
        growing=none == 0,
        end=point,
        other=point,
        total=velocity,
        log_weight=none,
        chosen=state,
        doubling=empty,
        depth=depth,
        forwards=noise.uniforms.directions[..., 0] < 0.5,
        uniforms=noise.uniforms,
        start=state.energy + kinetic_energy(velocity, mass, batch_ndim),
        acceptance=none,
        leapfrogs=none,
        error=none,
        diverged=none > 0,
        saturated=none > 0,
    )


def leapfrog_trees(energy: Energy, tree: Tree, dynamics: Dynamics) -> Tree:
    """Make one leapfrog step in every growing tree."""
    step_size, temperature, mass = dynamics
    batch_ndim, event_ndim = tree.start.ndim, tree.total.ndim - tree.start.ndim
    sign = tree.growing * (2 * tree.forwards.to(tree.total.dtype) - 1)  # 0 for the others
    length = over_event(sign, event_ndim) * over_event(step_size, event_ndim)
    end = Point(*leapfrog(energy, *tree.end, length, mass))
    value = end.state.energy
    gained = value + kinetic_energy(end.velocity, mass, batch_ndim) - tree.start
    gained = gained / temperature
    lost = diverged(end.state.x, value)
    failed = lost | ~(gained <= DIVERGENCE)  # NaN fails
    log_weight = torch.where(failed, -torch.inf, -gained)
    doubling, turned = _with_leaf(tree.doubling, end, log_weight, mass)
    growing = tree.growing & ~failed
    larger = growing & (gained.abs() > tree.error.abs())
    tree = tree._replace(
        growing=growing & ~turned,
        end=end,
        doubling=doubling,
        acceptance=tree.acceptance + tree.growing * log_weight.clamp(max=0).exp(),
        leapfrogs=tree.leapfrogs + tree.growing,
        error=torch.where(larger, gained, tree.error),
        diverged=tree.diverged | (tree.growing & (lost | (failed & ~value.isposinf()))),
    )
    complete = tree.growing & (doubling.leaves >> tree.depth == 1)
    if not torch.compiler.is_compiling() and not complete.any():
        return tree
    return _doubled(tree, complete, mass)


def _with_leaf(
    doubling: Doubling, leaf: Point, log_weight: Tensor, mass: Tensor | None
) -> tuple[Doubling, Tensor]:
    """Return the doubling with one more leaf, and whether a block that it closes has turned."""
    velocity, batch_ndim = leaf.velocity, log_weight.ndim
    levels = torch.arange(doubling.first.shape[batch_ndim], device=velocity.device)
    last = (2 << levels) - 1  # the bits of a block's last leaf, those of its first are 0
    place = doubling.leaves.unsqueeze(-1) & last  # (*batch, levels), in the block
    opens, closes = place == 0, place == last
    here = velocity.unsqueeze(batch_ndim)
    first = where(opens, here, doubling.first)
    before = where(opens, doubling.total.unsqueeze(batch_ndim), doubling.before)
    total = doubling.total + velocity
    turned = turns(total.unsqueeze(batch_ndim) - before, first, here, mass, batch_ndim + 1)
    both = torch.logaddexp(doubling.log_weight, log_weight)
    share = (log_weight - both).double().exp()
    taken = doubling.choice < share
    choice = torch.where(taken, doubling.choice / share, (doubling.choice - share) / (1 - share))
    chosen = choose(taken, leaf.state, doubling.chosen)
    grown = Doubling(doubling.leaves + 1, total, both, chosen, choice, first, before)
    return grown, (closes & turned).any(-1)


def _doubled(tree: Tree, complete: Tensor, mass: Tensor | None) -> Tree:
    """Return the trees with complete doublings merged, and the next ones begun."""
    half, uniforms, cap = tree.doubling, tree.uniforms, tree.uniforms.choices.shape[-1]

    def uniform_at(uniforms: Tensor, depth: Tensor) -> Tensor:
        return uniforms.gather(-1, depth.clamp(max=cap - 1).unsqueeze(-1)).squeeze(-1)

    share = (half.log_weight - tree.log_weight).exp()
    taken = complete & (uniform_at(uniforms.doublings, tree.depth) < share)
    both = torch.logaddexp(tree.log_weight, half.log_weight)
    total = where(complete, tree.total + half.total, tree.total)
    ends = tree.end.velocity, tree.other.velocity
    goes_on = complete & ~turns(total, *ends, mass, complete.ndim)
    depth = tree.depth + complete
    saturated = goes_on & (depth == cap)
    forwards = torch.where(complete, uniform_at(uniforms.directions, depth) < 0.5, tree.forwards)
    crossed = forwards != tree.forwards
    return tree._replace(
        growing=torch.where(complete, goes_on & ~saturated, tree.growing),
        end=choose(crossed, tree.other, tree.end),
        other=choose(crossed, tree.end, tree.other),
        total=total,
        log_weight=torch.where(complete, both, tree.log_weight),
        chosen=choose(taken, half.chosen, tree.chosen),
        doubling=half._replace(
            leaves=torch.where(complete, 0, half.leaves),
            total=where(complete, torch.zeros_like(total), half.total),
            log_weight=torch.where(complete, -torch.inf, half.log_weight),
            choice=torch.where(complete, uniform_at(uniforms.choices, depth), half.choice),
        ),
        depth=depth,
        forwards=forwards,
        saturated=tree.saturated | saturated,
    )


def turns(
    total: Tensor, first: Tensor, last: Tensor, mass: Tensor | None, batch_ndim: int
) -> Tensor:
    """Return whether a trajectory turns back: an end moves against its overall direction.

    The ends count half in the sum of the velocities, as in the trapezoid rule: otherwise the turn
    of a trajectory over whole periods of a Gaussian is missed.
    """
    total = total - (first + last) / 2
    momentum = total if mass is None else mass * total
    event_axes = tuple(range(batch_ndim, total.ndim))
    along = [(momentum * velocity).sum(event_axes) for velocity in (first, last)]
    return torch.minimum(*along) <= 0


def report(tree: Tree, dynamics: Dynamics) -> Info:
    """Return the report of a step."""
    acceptance = tree.acceptance / tree.leapfrogs
    extra = {
        "leapfrogs": tree.leapfrogs,
        "depth": (tree.leapfrogs + 1).log2().ceil(),
        "saturated": tree.saturated.to(acceptance.dtype),
        "hamiltonian": tree.start / dynamics.temperature,
        "max_energy_error": tree.error,
    }
    return Info(acceptance, tree.diverged, extra)


def start_trees(state: GradientState, block: NUTSNoise, dynamics: Dynamics) -> Trees:
    """Return the trees of the first step, and an empty record for all steps."""
    tree = start_tree(state, mapped(lambda field: field[0], block), dynamics)
    walk = Walk(state.x, state.energy, report(tree, dynamics))
    room = mapped(lambda field: field.new_zeros(len(block.normal), *field.shape), walk)
    return Trees(tree, torch.zeros_like(tree.depth), room)


def record_finished(
    trees: Trees, block: NUTSNoise, steps: int | Tensor, dynamics: Dynamics
) -> Trees:
    """Record the finished steps, and begin the next step of their chains, up to `steps`."""
    tree, done, walk = trees
    ended = ~tree.growing & (done < steps)
    rows = torch.arange(len(walk.energy), device=done.device).reshape(-1, *(1,) * done.ndim)
    place = ended & (rows == done)  # (steps, *batch)
    now = Walk(tree.chosen.x, tree.chosen.energy, report(tree, dynamics))
    walk = mapped(lambda old, new: where(place, new.unsqueeze(0), old), walk, now)
    done = done + ended
    index = done.clamp(max=len(walk.energy) - 1).unsqueeze(0)
    noise = mapped(lambda field: take_along(field, index, 0).squeeze(0), block)
    fresh = start_tree(tree.chosen, noise, dynamics)
    return Trees(choose(ended & (done < steps), fresh, tree), done, walk)
