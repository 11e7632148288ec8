"""NUTS: its law, the shape of its trees, where they end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import (
    CURVED,
    PROBLEMS,
    Problem,
    Truncated,
    generator,
    total_variation,
    within_standard_errors,
)
from stepping import Counting, run
from torch import Tensor

from ebrl import Energy, FunctionEnergy, Gaussian, Sampler
from ebrl.kernels import MALA, NUTS, Blocks, Cycle, Gibbs
from ebrl.kernels.nuts import NUTSNoise
from ebrl.kernels.protocol import mapped
from ebrl.sampling import warm_up
from ebrl.spaces import Binary, Box, Product, Space, Torus


@pytest.mark.parametrize("temperature", [0.4, 2.0])
@pytest.mark.parametrize("step_size", [0.15, 0.5, 1.0])
@pytest.mark.parametrize("problem", [*PROBLEMS, *CURVED], ids=repr)
def test_nuts_leaves_every_law_as_it_is(
    problem: Problem, step_size: float, temperature: float
) -> None:
    x = problem.exact(10_000, temperature, np.random.default_rng(1))
    state, acceptance, _ = run(NUTS(4), problem.energy, x, 3, step_size, temperature)
    assert acceptance.mean() > 0.02
    mean, variance = problem.mean(temperature), problem.variance(temperature)
    assert within_standard_errors(state.x, mean, variance, 4)
    assert (state.x != x).any(-1).float().mean() > 0.02


def test_a_few_steps_forget_the_start() -> None:
    problem = PROBLEMS[0]
    state, _, _ = run(NUTS(), problem.energy, torch.full((5000, 3), 4.0), 12, 0.35)
    assert within_standard_errors(state.x, problem.mean(1.0), problem.variance(1.0), 4)


@pytest.mark.parametrize("walls", ["reject", "tanh"])
def test_nuts_in_a_box_is_the_truncated_law(walls: str) -> None:
    sampler = Sampler(NUTS(3), Box(-1.0, 1.0, walls), steps=20, step_size=0.3)
    x = sampler.sample(Truncated().energy, torch.zeros(20_000, 1), generator=generator()).x
    counts = torch.histc(x, 20, -1.0, 1.0).double()
    # Perfect draws have Σ √(p(1-p)/2πn) = .009.
    assert total_variation(counts, Truncated.probabilities(20)) < 0.018
    assert (x.abs() < 1).all()


class Reference:
    """One chain of NUTS by recursion, as in Hoffman and Gelman (2014), algorithm 3."""

    def __init__(self, energy: Energy, noise: NUTSNoise, step_size: float, temperature: float):
        self.energy, self.noise = energy, noise
        self.step_size, self.temperature = step_size, temperature
        self.leapfrogs, self.acceptance = 0, 0.0

    def total(self, x: Tensor, v: Tensor) -> float:
        return float(self.energy(x) + v.square().sum() / 2)

    def leapfrog(self, x: Tensor, v: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        length = sign * self.step_size
        v = v - length / 2 * self.energy.value_and_gradient(x)[1]
        x = x + length * v
        return x, v - length / 2 * self.energy.value_and_gradient(x)[1]

    def turns(self, velocities: list[Tensor]) -> bool:
        first, last = velocities[0], velocities[-1]
        whole = torch.stack(velocities).sum(0) - (first + last) / 2
        return float(whole @ first) <= 0 or float(whole @ last) <= 0

    def grow(
        self, x: Tensor, v: Tensor, sign: float, depth: int
    ) -> tuple[Tensor, Tensor, list[Tensor], float] | None:
        """Return the end, the velocities and the weight; None where it turned."""
        if depth == 0:
            x, v = self.leapfrog(x, v, sign)
            weight = math.exp(-(self.total(x, v) - self.start) / self.temperature)
            self.leapfrogs += 1
            self.acceptance += min(1.0, weight)
            self.leaves.append((x, weight))
            return x, v, [v], weight
        near = self.grow(x, v, sign, depth - 1)
        far = None if near is None else self.grow(near[0], near[1], sign, depth - 1)
        if near is None or far is None or self.turns(near[2] + far[2]):
            return None
        return far[0], far[1], near[2] + far[2], near[3] + far[3]

    def choice(self, depth: int) -> Tensor:
        """Return one of the leaves, each in proportion to its weight."""
        u, total, chosen = float(self.noise.uniforms.choices[depth]), 0.0, None
        for x, weight in self.leaves:
            total += weight
            share = weight / total
            if u < share:
                chosen, u = x, u / share
            else:
                u = (u - share) / (1 - share)
        return chosen

    def step(self, x: Tensor) -> Tensor:
        v = self.temperature**0.5 * self.noise.normal
        self.start = self.total(x, v)
        ends, velocities, chosen, weight = {1.0: (x, v), -1.0: (x, v)}, [v], x, 1.0
        for depth, direction in enumerate(self.noise.uniforms.directions):
            sign, self.leaves = 1.0 if direction < 0.5 else -1.0, []
            half = self.grow(*ends[sign], sign, depth)
            if half is None:
                break
            ends[sign] = half[0], half[1]
            if self.noise.uniforms.doublings[depth] < half[3] / weight:
                chosen = self.choice(depth)
            weight += half[3]
            inwards = half[2][::-1] if sign < 0 else half[2]
            velocities = inwards + velocities if sign < 0 else velocities + inwards
            if self.turns(velocities):
                break
        return chosen


@pytest.mark.parametrize("step_size", [0.08, 0.3])
def test_batched_trees_are_those_of_the_recursion(step_size: float) -> None:
    problem, kernel = PROBLEMS[0], NUTS(6)
    x = problem.exact(15, 1.0, np.random.default_rng(0)).double()
    state = kernel.start(problem.energy, x)
    noise = kernel.draw(state, generator())
    moved, info = kernel.step(problem.energy, state, noise, step_size, 0.7)
    for chain in range(15):
        own = mapped(lambda field: field[chain], noise)  # noqa: B023
        reference = Reference(problem.energy, own, step_size, 0.7)
        torch.testing.assert_close(moved.x[chain], reference.step(x[chain]))
        assert info.extra["leapfrogs"][chain] == reference.leapfrogs
        mean = reference.acceptance / reference.leapfrogs
        assert info.acceptance[chain].item() == pytest.approx(mean, rel=1e-6)
    assert len(info.extra["leapfrogs"].unique()) > 3


def test_steps_at_once_are_the_steps_one_by_one() -> None:
    problem, kernel = PROBLEMS[0], NUTS(6)
    x = problem.exact(4, 1.0, np.random.default_rng(0)).double()
    state, stream = kernel.start(problem.energy, x), generator()
    noise = [kernel.draw(state, stream) for _ in range(4)]
    last, walk = kernel.walk(problem.energy, state, noise, 0.2, 0.7)
    lengths = []
    for step, one in enumerate(noise):
        state, info = kernel.step(problem.energy, state, one, 0.2, 0.7)
        assert torch.equal(walk.x[step], state.x)
        assert torch.equal(walk.energy[step], state.energy)
        assert torch.equal(walk.info.acceptance[step], info.acceptance)
        assert all(torch.equal(walk.info.extra[key][step], info.extra[key]) for key in info.extra)
        lengths.append(info.extra["leapfrogs"])
    assert torch.equal(last.gradient, state.gradient)
    # Each chain goes on where its own tree ends: the longest of sums, not the sum of the longest.
    energy = Counting(problem.energy)
    kernel.walk(energy, kernel.start(problem.energy, x), noise, 0.2, 0.7)
    assert energy.gradients == torch.stack(lengths).sum(0).max()
    assert energy.gradients < torch.stack(lengths).amax(1).sum()


def test_a_leaf_is_chosen_in_proportion_to_its_weight() -> None:
    # One doubling of one leaf: the step to it is taken with probability min(1, exp(-ΔH)).
    problem, n = PROBLEMS[0], 40_000
    x = problem.exact(1, 1.0, np.random.default_rng(3)).double().expand(n, -1)
    kernel = NUTS(3)
    state = kernel.start(problem.energy, x)
    noise = kernel.draw(state, generator())
    normal = noise.normal[:1].expand(n, -1)
    uniforms = noise.uniforms._replace(directions=torch.zeros(n, 3))
    noise = noise._replace(normal=normal, uniforms=uniforms)
    moved, _ = kernel.step(problem.energy, state, noise, 0.25, 1.0)
    # All go the same way: the same 7 leaves, of which each doubling takes the later half by its
    # share, and a leaf of it by its weight.
    position, velocity, weights, places = state.x[0], normal[0], [], []
    for _ in range(7):
        gradient = problem.energy.value_and_gradient(position)[1]
        velocity = velocity - 0.125 * gradient
        position = position + 0.25 * velocity
        velocity = velocity - 0.125 * problem.energy.value_and_gradient(position)[1]
        total = problem.energy(position) + velocity.square().sum() / 2
        start = state.energy[0] + normal[0].square().sum() / 2
        weights.append((start - total).exp())
        places.append(position)
    weight, law = torch.ones(()).double(), {}
    for depth in range(3):
        half = torch.stack(weights[2**depth - 1 : 2 ** (depth + 1) - 1])
        taken = (half.sum() / weight).clamp(max=1)
        law = {leaf: p * (1 - taken) for leaf, p in law.items()}
        law |= {2**depth - 1 + i: taken * w / half.sum() for i, w in enumerate(half)}
        weight = weight + half.sum()
    for leaf, p in law.items():
        found = (moved.x - places[leaf]).abs().amax(-1).lt(1e-9).double().mean()
        assert abs(found - p) < 4 * (p * (1 - p) / n).sqrt() + 1e-12


# The length of the trajectory.


@pytest.mark.parametrize("step_size", [2 * math.pi / 64, 2 * math.pi / 16, 0.2])
def test_trajectories_on_a_round_gaussian_end_within_its_period(step_size: float) -> None:
    # Of period 2π, at the first two step sizes a power of two of leapfrog steps.
    energy, kernel = Gaussian(0.0, 1.0, 10), NUTS()
    state = kernel.start(energy, torch.randn(500, 10, generator=generator(), dtype=torch.float64))
    _, info = kernel.step(energy, state, kernel.draw(state, generator(1)), step_size, 1.0)
    time = info.extra["leapfrogs"] * step_size
    assert time.min() > 0.3
    assert time.max() < 2.2 * 2 * math.pi
    assert 1.5 < time.mean() < 2 * math.pi


def test_a_mass_that_fits_shortens_the_trajectories() -> None:
    deviations = torch.tensor([0.05, 1.0, 5.0])
    energy, lengths = Gaussian(0.0, deviations, 3), []
    x = deviations * torch.randn(300, 3, generator=generator())
    for kernel, step_size in ((NUTS(8), 0.05), (NUTS(8, 1 / deviations.square()), 1.0)):
        state = kernel.start(energy, x)
        _, info = kernel.step(energy, state, kernel.draw(state, generator()), step_size, 1.0)
        assert info.acceptance.mean() > 0.6
        lengths.append(info.extra["leapfrogs"].mean())
    assert lengths[0] > 10 * lengths[1]


@pytest.mark.parametrize("max_depth", [1, 3])
def test_the_depth_is_capped(max_depth: int) -> None:
    energy = Counting(Gaussian(0.0, 1.0, 2))
    kernel = NUTS(max_depth)
    state = kernel.start(energy, torch.randn(50, 2, generator=generator()))
    _, info = kernel.step(energy, state, kernel.draw(state, generator()), 1e-3, 1.0)
    assert (info.extra["leapfrogs"] == 2**max_depth - 1).all()
    assert (energy.values, energy.gradients) == (0, 2**max_depth)


def test_a_step_evaluates_as_often_as_its_longest_trajectory() -> None:
    energy, kernel, stream = Counting(PROBLEMS[0].energy), NUTS(), generator()
    state = kernel.start(energy, torch.randn(50, 3, generator=stream))
    for _ in range(4):
        before = energy.gradients
        state, info = kernel.step(energy, state, kernel.draw(state, stream), 0.3, 1.0)
        assert energy.gradients - before == info.extra["leapfrogs"].max()
        assert info.extra["leapfrogs"].min() < info.extra["leapfrogs"].max()


def test_nuts_decorrelates_where_mala_crawls() -> None:
    deviations = torch.tensor([0.1, 3.0])
    energy = Gaussian(0.0, deviations, 2)
    x = deviations * torch.randn(2000, 2, generator=generator())
    correlations = []
    for kernel, step_size in ((MALA(), 0.007), (NUTS(), 0.12)):
        state, acceptance, _ = run(kernel, energy, x, 4, step_size)
        assert acceptance.mean() > 0.5
        correlations.append(torch.corrcoef(torch.stack([x[:, 1], state.x[:, 1]]))[0, 1])
    assert correlations[0] > 0.99
    assert correlations[1].abs() < 0.5


def test_the_energy_error_falls_with_the_square_of_the_step() -> None:
    energy = Gaussian(0.0, 1.0, 5)
    state = NUTS().start(energy, torch.randn(400, 5, generator=generator()))
    noise, errors = NUTS().draw(state, generator(1)), []
    for step_size in (0.2, 0.1):
        _, info = NUTS().step(energy, state, noise, step_size, 1.0)
        kinetic = noise.normal.square().sum(-1) / 2
        torch.testing.assert_close(info.extra["hamiltonian"], state.energy + kinetic)
        errors.append(info.extra["max_energy_error"].abs().mean())
    assert 3 < errors[0] / errors[1] < 5


# Failures.


def test_a_trajectory_that_fails_is_counted_and_not_taken() -> None:
    # Beyond 3 the energy rises so steeply that the integration fails: not by a number lost.
    cliff = FunctionEnergy(lambda x: (x.square() / 2 + 1e6 * (x - 3).clamp(min=0)).sum(-1))
    x = torch.linspace(-2.9, 2.9, 400)[:, None]
    state, acceptance, lost = run(NUTS(6), cliff, x, 10, 0.3)
    assert (state.x < 3.01).all()
    assert 0 < lost.mean() < 9
    assert acceptance.min() < 0.9
    _, _, fine = run(NUTS(6), Gaussian(0.0, 1.0, 1), x, 10, 0.3)
    assert (fine == 0).all()


def test_a_wall_ends_the_trajectory_and_is_no_divergence() -> None:
    walled = FunctionEnergy(lambda x: torch.where(x[..., 0] > 0, torch.inf, -x[..., 0] * 0))
    state, acceptance, lost = run(NUTS(4), walled, torch.full((200, 1), -1.0), 10, 0.5)
    assert (state.x <= 0).all()
    assert (lost == 0).all()
    assert acceptance.mean() < 1


def test_one_chain_that_fails_leaves_the_others_alone() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.where(x[..., 0] > 50, torch.nan, x.square().sum(-1) / 2)

    energy, x = FunctionEnergy(function), torch.randn(20, 2, generator=generator())
    kernel, bad = NUTS(), x.clone()
    bad[7] = 49.99
    one, other = kernel.start(energy, x), kernel.start(energy, bad)
    noise = kernel.draw(one, generator())
    noise.normal[7] = 100.0  # beyond 50 in either direction of time
    here, _ = kernel.step(energy, one, noise, 0.3, 1.0)
    there, info = kernel.step(energy, other, noise, 0.3, 1.0)
    others = torch.arange(20) != 7
    assert torch.equal(here.x[others], there.x[others])
    assert info.diverged.sum() == info.diverged[7] == 1


@pytest.mark.parametrize("space", [Torus(1), Box(-1.0, 1.0, "reflect")], ids=["torus", "box"])
def test_spaces_in_which_no_trajectory_turns_are_refused(space: Space) -> None:
    product = Product(space, Binary(2))
    for make in (
        lambda: Sampler(NUTS(), space, steps=1),
        lambda: Sampler(Cycle([MALA(), NUTS()]), space, steps=1),
        lambda: Blocks(product, NUTS(), Gibbs()),
        lambda: warm_up(
            NUTS(), Gaussian(0.0, 1.0, 1), torch.zeros(4, 1), 50, generator=generator(), space=space
        ),
    ):
        with pytest.raises(ValueError, match=r"does not wrap for NUTS, .* use HMC\(10, jitter"):
            make()
