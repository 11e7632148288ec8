"""Discrete kernels against enumeration."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from chi_square import pearson
from problems import DISCRETE, Discrete, generator, pairwise
from torch import Tensor

from ebrl import DualAveraging, Energy, FunctionEnergy, Sampler
from ebrl.energies import RBM, Flattened, Ising, Potts, Repulsion, square_lattice
from ebrl.envs import total_variation, total_variation_floor
from ebrl.estimators import exact_log_probabilities
from ebrl.kernels import (
    DMALA,
    DULA,
    BlockGibbs,
    Cycle,
    Gibbs,
    GibbsWithGradients,
    Kernel,
    discrete,
)
from ebrl.networks import MLPEnergy
from ebrl.spaces import Binary, Categorical

CHAINS = 10_000


class Move(NamedTuple):
    """A kernel that is exact, with a step size."""

    kernel: Kernel
    step_size: float = 1.0


EXACT = {
    "random Gibbs": Move(Gibbs()),
    "systematic Gibbs": Move(Gibbs("systematic")),
    "Gibbs with gradients": Move(GibbsWithGradients()),
    "DMALA, small": Move(DMALA(), 0.3),
    "DMALA, large": Move(DMALA(), 5.0),
}
every_exact_kernel = pytest.mark.parametrize("move", EXACT.values(), ids=EXACT)
every_problem = pytest.mark.parametrize("problem", DISCRETE, ids=repr)


def exact(problem: Discrete, n: int, temperature: float = 1.0) -> Tensor:
    index = torch.multinomial(
        problem.probabilities(temperature), n, replacement=True, generator=generator(100)
    )
    return problem.configurations()[index]


def run(
    move: Move, energy: Energy, x: Tensor, steps: int, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Return where the chains end and their mean acceptance."""
    kernel, stream = move.kernel, generator(1)
    state, acceptance = kernel.start(energy, x), torch.zeros(len(x), dtype=x.dtype)
    for _ in range(steps):
        noise = kernel.draw(state, stream)
        state, info = kernel.step(energy, state, noise, move.step_size, temperature)
        acceptance += info.acceptance / steps
    return state.x, acceptance


def as_expected(problem: Discrete, x: Tensor, temperature: float = 1.0) -> bool:
    counts = torch.bincount(problem.index(x), minlength=len(problem.configurations()))
    return pearson(counts.double(), problem.probabilities(temperature))


# The law, from exact draws: no step size is too small to mix and none too large.


@pytest.mark.parametrize("temperature", [0.6, 1.0, 3.0])
@every_problem
@every_exact_kernel
def test_kernels_leave_the_distribution_invariant(
    move: Move, problem: Discrete, temperature: float
) -> None:
    start = exact(problem, CHAINS, temperature)
    x, acceptance = run(move, problem.energy, start, 10, temperature)
    assert acceptance.mean() > 0.02
    assert (x != start).flatten(1).any(-1).double().mean() > 0.1
    assert as_expected(problem, x, temperature)


@every_problem
@every_exact_kernel
def test_chains_from_one_corner_reach_the_distribution(move: Move, problem: Discrete) -> None:
    corner = problem.configurations()[:1].expand(4000, -1, -1)
    assert not as_expected(problem, corner)
    x, _ = run(move, problem.energy, corner, 80)
    assert as_expected(problem, x)


def test_an_acceptance_without_the_proposals_ratio_fails() -> None:
    # Without the proposal's probabilities in the ratio the law moves: the tests above can see it.
    problem, stream = DISCRETE[2], generator(1)
    for kernel in (GibbsWithGradients(), DMALA()):
        state = kernel.start(problem.energy, exact(problem, CHAINS))
        for _ in range(10):
            noise = kernel.draw(state, stream)
            always = noise._replace(uniform=torch.zeros(CHAINS))
            proposal, _ = kernel.step(problem.energy, state, always, 1.0, 1.0)
            accepted = noise.uniform < (state.energy - proposal.energy).exp()
            x = torch.where(accepted[:, None, None], proposal.x, state.x)
            state = kernel.start(problem.energy, x)
        assert not as_expected(problem, state.x)


ISING = Ising(square_lattice(2, 3, 0.3, periodic=False), 0.1)
FIELD = 0.3 * torch.randn(4, 3, generator=generator(6))
POTTS = Potts(square_lattice(2, 2, 0.6, periodic=False), FIELD)


def distance(move: Move, energy: Energy, space: Binary | Categorical, n: int, steps: int) -> float:
    """Return the total variation of n chains from their law, less that of n exact draws."""
    sampler = Sampler(move.kernel, space, steps=steps, step_size=move.step_size)
    x = sampler.sample(energy, n=n, generator=generator(2)).x
    assert space.contains(x).all()
    law = exact_log_probabilities(energy, space).exp()
    found = torch.bincount(space.index(x), minlength=len(law)) / n
    floor = total_variation_floor(law.numpy(), n)
    return total_variation(found.double().numpy(), law.numpy()) - floor


@pytest.mark.parametrize(
    ("energy", "space"), [(ISING, Binary(6)), (POTTS, Categorical(4, 3))], ids=["ising", "potts"]
)
@every_exact_kernel
def test_samplers_are_as_accurate_as_independent_draws(
    move: Move, energy: Energy, space: Binary | Categorical
) -> None:
    assert distance(move, energy, space, 10_000, 50) < 0.01  # the floors are .031 and .035


@pytest.mark.slow
@pytest.mark.parametrize(
    ("energy", "space"), [(ISING, Binary(6)), (POTTS, Categorical(4, 3))], ids=["ising", "potts"]
)
@every_exact_kernel
def test_samplers_are_as_accurate_as_100_000_independent_draws(
    move: Move, energy: Energy, space: Binary | Categorical
) -> None:
    assert distance(move, energy, space, 100_000, 100) < 0.005  # the floors are .010 and .011


def test_a_systematic_scan_visits_every_site_in_turn_from_a_random_one() -> None:
    problem, kernel, stream = DISCRETE[2], Gibbs("systematic"), generator(4)
    state, visits = kernel.start(problem.energy, exact(problem, 500)), []
    for _ in range(problem.sites + 1):
        state, _ = kernel.step(problem.energy, state, kernel.draw(state, stream), 1.0, 1.0)
        visits.append(state.site)
    order = torch.stack(visits, -1)  # (chains, steps)
    assert ((order.diff(dim=-1) - 1) % problem.sites == 0).all()
    assert len(order[:, 0].unique()) == problem.sites


def test_block_gibbs_samples_an_rbm() -> None:
    rbm = RBM(5, 3)
    with torch.no_grad():
        for i, parameter in enumerate(rbm.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(i)))
    assert distance(Move(BlockGibbs()), rbm, Binary(5), 10_000, 40) < 0.01
    # The same law as that of kernels which know nothing of hidden units.
    assert distance(Move(DMALA(), 1.0), rbm, Binary(5), 10_000, 80) < 0.01


def test_block_gibbs_works_in_a_cycle() -> None:
    rbm = RBM(4, 3)
    with torch.no_grad():
        rbm.weight.copy_(torch.randn(3, 4, generator=generator(5)))
    move = Move(Cycle([BlockGibbs(), GibbsWithGradients()]))
    assert distance(move, rbm, Binary(4), 10_000, 20) < 0.01


@pytest.mark.parametrize(
    "kernel", [Gibbs(), GibbsWithGradients(), DMALA()], ids=lambda each: type(each).__name__
)
def test_energies_that_couple_chains_are_refused(kernel: Kernel) -> None:
    energy = Flattened(Repulsion(0.5), 2)
    x = Categorical(3, 2).reference((4,), generator())
    with pytest.raises(ValueError, match="couples the chains"):
        Sampler(kernel, Categorical(3, 2), steps=1).sample(energy, x, generator=generator())


def test_block_gibbs_refuses_other_energies_and_temperatures() -> None:
    sampler = Sampler(BlockGibbs(), Binary(6), steps=1)
    with pytest.raises(TypeError, match="expected an RBM in a binary space"):
        sampler.sample(ISING, n=2, generator=generator())
    with pytest.raises(ValueError, match=r"exact at temperature 1\.0 alone, got 0\.5"):
        sampler.sample(RBM(6, 2), n=2, generator=generator(), temperature=0.5)


# Extremes.

STEEP = {**EXACT, "DULA": Move(DULA(), 1.0)}
every_steep_kernel = pytest.mark.parametrize("move", STEEP.values(), ids=STEEP)


@every_steep_kernel
def test_energies_of_a_thousand_neither_overflow_nor_freeze(move: Move) -> None:
    # Sites that want one category by 1000 take it; the one that is indifferent stays fair.
    field = torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0], [0.0, 0.0]])
    energy = FunctionEnergy(lambda x: (field * x).sum((-2, -1)), event_ndim=2)
    x = Categorical(3, 2).reference((4000,), generator(3))
    x, acceptance = run(move, energy, x, 60)
    assert acceptance.isfinite().all()
    assert (x[:, 0, 1] == 1).all()
    assert (x[:, 1, 0] == 1).all()
    standard_error = 0.5 / 4000**0.5
    assert x[:, 2, 0].mean().item() == pytest.approx(0.5, abs=4 * standard_error)


@every_steep_kernel
def test_binary_sites_follow_fields_of_a_thousand(move: Move) -> None:
    ising = Ising(torch.zeros(3, 3), torch.tensor([1000.0, -1000.0, 0.0]))
    sampler = Sampler(move.kernel, Binary(3), steps=60, step_size=move.step_size)
    x, _, info = sampler.sample(ising, n=4000, generator=generator(3))
    assert info.acceptance.isfinite().all()
    assert (info.diverged == 0).all()
    assert (x[:, 0] == 1).all()
    assert (x[:, 1] == 0).all()
    assert x[:, 2].mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("scale", [300.0, 1000.0])
@every_exact_kernel
def test_rough_couplings_stay_finite(move: Move, scale: float) -> None:
    problem = Discrete("rough", pairwise(5, 3, scale), 5, 3)
    x = problem.configurations()
    moved, acceptance = run(move, problem.energy, x, 60)
    assert acceptance.isfinite().all()
    assert problem.energy(moved).isfinite().all()
    # Downhill wins at such a temperature: no chain ends above where it started.
    assert (problem.energy(moved) <= problem.energy(x)).all()


@every_steep_kernel
def test_chains_stay_one_hot(move: Move) -> None:
    start = exact(DISCRETE[2], 500)
    x, _ = run(move, DISCRETE[2].energy, start, 1)
    assert Categorical(4, 3).contains(x).all()
    changed = (x != start).any(-1).sum(-1)
    at_once = isinstance(move.kernel, (DULA, DMALA))
    assert changed.max() > 1 if at_once else set(changed.tolist()) == {0, 1}


def test_at_temperature_0_gibbs_and_dula_descend_and_the_others_refuse() -> None:
    problem = DISCRETE[2]
    x = exact(problem, 200)
    moved, _ = run(Move(Gibbs()), problem.energy, x, 60, 0.0)
    value = problem.energy(moved)
    assert (value <= problem.energy(x)).all()
    again, _ = run(Move(Gibbs("systematic")), problem.energy, moved, 4, 0.0)
    torch.testing.assert_close(problem.energy(again), value)
    field = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 1.0]])
    linear = FunctionEnergy(lambda x: (field * x).sum((-2, -1)), event_ndim=2)
    x, _ = run(Move(DULA(), 10.0), linear, Categorical(2, 3).reference((50,), generator()), 1, 0.0)
    assert (x.argmax(-1) == torch.tensor([2, 1])).all()
    for kernel in (GibbsWithGradients(), DMALA()):
        with pytest.raises(ValueError, match="positive temperature, got 0"):
            run(Move(kernel), linear, x, 1, 0.0)


def test_each_chain_has_its_temperature() -> None:
    problem = DISCRETE[2]
    temperatures = (0.5, 1.0, 3.0)
    start = torch.cat([exact(problem, 4000, temperature) for temperature in temperatures])
    each = torch.tensor(temperatures).repeat_interleave(4000)
    for move in EXACT.values():
        x, _ = run(move, problem.energy, start, 8, each)
        for chains, temperature in zip(x.split(4000), temperatures, strict=True):
            assert as_expected(problem, chains, temperature)


# Through the sampler, in binary and categorical spaces.


@every_steep_kernel
def test_a_seed_is_a_chain_and_the_global_stream_is_left_alone(move: Move) -> None:
    sampler = Sampler(move.kernel, Binary(2, 3), steps=5, step_size=move.step_size)
    energy = FunctionEnergy(lambda x: (x[..., 0, :] * x[..., 1, :]).sum(-1), event_ndim=2)
    start = Binary(2, 3).reference((4, 5), generator(1)).double()
    kept, before = start.clone(), torch.get_rng_state()
    one, two = (sampler.sample(energy, start, generator=generator(7)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(start, kept)
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, sampler.sample(energy, start, generator=generator(8)).x)
    assert one.x.shape == (4, 5, 2, 3)
    assert one.x.dtype == one.energy.dtype == torch.float64
    assert Binary(2, 3).contains(one.x).all()
    torch.testing.assert_close(one.energy, energy(one.x))


@pytest.mark.parametrize(
    "move", [EXACT["DMALA, large"], EXACT["random Gibbs"]], ids=["DMALA", "Gibbs"]
)
def test_a_conditional_network_is_sampled_under_each_condition(move: Move) -> None:
    torch.manual_seed(1)
    network = Flattened(MLPEnergy(6, (16,), condition_dimension=2, activation=torch.nn.Tanh), 2)
    with torch.no_grad():
        network.energy.head.weight.mul_(20)  # as it starts, a network is nearly flat
    condition, space = torch.tensor([[2.0, -1.0], [-1.0, 3.0]]), Categorical(2, 3)
    start = space.reference((2, CHAINS), generator(1))
    sampler = Sampler(move.kernel, space, steps=40, step_size=move.step_size)
    x = sampler.sample(network.given(condition), start, generator=generator(2)).x
    laws = [exact_log_probabilities(network.given(each), space).exp() for each in condition]
    assert total_variation(laws[0].numpy(), laws[1].numpy()) > 0.1
    for chains, law in zip(space.index(x), laws, strict=True):
        assert pearson(torch.bincount(chains, minlength=9).double(), law)


def test_step_sizes_of_dmala_follow_the_acceptance() -> None:
    energy = Ising(square_lattice(6, 6, 0.2))
    sampler = Sampler(DMALA(), Binary(36), steps=300, adaptation=DualAveraging())
    sampler.sample(energy, n=64, generator=generator())
    info = sampler.sample(energy, n=64, generator=generator(1), adapt=False).info
    assert info.acceptance.mean().item() == pytest.approx(0.574, abs=0.03)


def test_energies_of_anything_but_categories_are_refused() -> None:
    vector = FunctionEnergy(lambda x: x.square().sum(-1))
    for move in STEEP.values():
        with pytest.raises(ValueError, match=r"one-hot \(sites, categories\), event_ndim=2"):
            move.kernel.start(vector, torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"expected scan in .*, got 'sideways'"):
        Gibbs("sideways")  # type: ignore[arg-type]


def test_chains_of_one_hot_pairs_are_the_binary_chains_of_the_paper() -> None:
    # Zhang, Liu and Liu's binary proposal: flips with logit -½ ∇ log p (2x - 1) - 1 / 2α.
    step_size, temperature, draws = 0.8, 0.7, 20_000
    x = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    score = -ISING.value_and_gradient(x)[1] / temperature
    alpha = step_size * temperature
    flips = torch.sigmoid(-0.5 * score * (2 * x - 1) - 1 / (2 * alpha))
    sampler = Sampler(DULA(), Binary(6), steps=1, step_size=step_size, temperature=temperature)
    moved = sampler.sample(ISING, x.expand(draws, 6), generator=generator()).x
    found = (moved != x).double().mean(0)
    assert ((found - flips).abs() < 4 * (flips * (1 - flips) / draws).sqrt()).all()


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_uniforms_without_a_logarithm_make_finite_gumbels(
    end: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discrete, "uniform_like", lambda x, _: torch.full_like(x, end))
    for dtype in (torch.float32, torch.float64):
        assert discrete.gumbel_like(torch.zeros(3, dtype=dtype), generator()).isfinite().all()
