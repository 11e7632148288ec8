"""Discrete kernels against enumeration."""

from __future__ import annotations

import pytest
import torch
from problems import DISCRETE, Discrete, generator, pairwise
from torch import Tensor

from ebrl import Energy, FunctionEnergy
from ebrl.kernels import GibbsWithGradients

CHAINS = 10_000


def exact(problem: Discrete, n: int, temperature: float = 1.0) -> Tensor:
    index = torch.multinomial(
        problem.probabilities(temperature), n, replacement=True, generator=generator(100)
    )
    return problem.configurations()[index]


def run(energy: Energy, x: Tensor, steps: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return where the chains end and their mean acceptance."""
    kernel, stream = GibbsWithGradients(), generator(1)
    state, acceptance = kernel.start(energy, x), torch.zeros(len(x))
    for _ in range(steps):
        state, info = kernel.step(energy, state, kernel.draw(state, stream), 1.0, temperature)
        acceptance += info.acceptance / steps
    return state.x, acceptance


def pearson(problem: Discrete, x: Tensor, temperature: float = 1.0) -> tuple[float, int]:
    """Return χ² over the configurations expected at least 5 times, and their number."""
    counts = torch.bincount(problem.index(x), minlength=len(problem.configurations())).double()
    expected = len(x) * problem.probabilities(temperature)
    likely = expected >= 5
    residual = (counts - expected)[likely].square() / expected[likely]
    return residual.sum().item(), int(likely.sum())


def as_expected(problem: Discrete, x: Tensor, temperature: float = 1.0) -> bool:
    # χ² of k cells has mean k and variance 2 k: 4 standard deviations.
    statistic, cells = pearson(problem, x, temperature)
    return statistic < cells + 4 * (2 * cells) ** 0.5


@pytest.mark.parametrize("temperature", [0.6, 1.0, 3.0])
@pytest.mark.parametrize("problem", DISCRETE, ids=repr)
def test_gibbs_with_gradients_leaves_the_law_where_it_is(
    problem: Discrete, temperature: float
) -> None:
    x, acceptance = run(problem.energy, exact(problem, CHAINS, temperature), 10, temperature)
    assert 0.1 < acceptance.mean() < 0.999
    assert as_expected(problem, x, temperature)


@pytest.mark.parametrize("problem", DISCRETE, ids=repr)
def test_gibbs_with_gradients_finds_the_law_from_one_corner(problem: Discrete) -> None:
    corner = problem.configurations()[:1].expand(4000, -1, -1)
    assert not as_expected(problem, corner)
    x, _ = run(problem.energy, corner, 50)
    assert as_expected(problem, x)


def test_a_symmetric_acceptance_would_fail() -> None:
    # Without the proposal's probabilities in the ratio the law moves: the test above can see it.
    problem, kernel, stream = DISCRETE[2], GibbsWithGradients(), generator(1)
    state = kernel.start(problem.energy, exact(problem, CHAINS))
    for _ in range(10):
        noise = kernel.draw(state, stream)
        proposal, _ = kernel.step(
            problem.energy, state, type(noise)(noise.gumbel, torch.zeros(CHAINS)), 1.0, 1.0
        )
        accepted = noise.uniform < (state.energy - proposal.energy).exp()
        where = accepted[:, None, None]
        x = torch.where(where, proposal.x, state.x)
        state = kernel.start(problem.energy, x)
    assert not as_expected(problem, state.x)


def test_energies_of_a_thousand_neither_overflow_nor_freeze() -> None:
    # Sites that want one category by 1000 take it; the one that is indifferent stays fair.
    field = torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0], [0.0, 0.0]])
    energy = FunctionEnergy(lambda x: (field * x).sum((-2, -1)), event_ndim=2)
    problem = Discrete("fields", energy, 3, 2)
    x = problem.configurations()[torch.randint(8, (4000,), generator=generator(3))]
    x, acceptance = run(energy, x, 5)
    assert acceptance.isfinite().all()
    assert (x[:, 0, 1] == 1).all()
    assert (x[:, 1, 0] == 1).all()
    standard_error = 0.5 / 4000**0.5
    assert x[:, 2, 0].mean().item() == pytest.approx(0.5, abs=4 * standard_error)


@pytest.mark.parametrize("scale", [300.0, 1000.0])
def test_rough_couplings_stay_finite(scale: float) -> None:
    problem = Discrete("rough", pairwise(5, 3, scale), 5, 3)
    x = problem.configurations()
    moved, acceptance = run(problem.energy, x, 60)
    assert acceptance.isfinite().all()
    assert problem.energy(moved).isfinite().all()
    # Downhill wins at such a temperature: no chain ends above where it started.
    assert (problem.energy(moved) <= problem.energy(x)).all()


def test_chains_stay_one_hot_and_change_one_site_a_step() -> None:
    problem = DISCRETE[2]
    start = exact(problem, 500)
    x, _ = run(problem.energy, start, 1)
    assert ((x == 0) | (x == 1)).all()
    assert (x.sum(-1) == 1).all()
    changed = (x != start).any(-1).sum(-1)
    assert set(changed.tolist()) == {0, 1}


def test_vectors_are_refused() -> None:
    vector = FunctionEnergy(lambda x: x.square().sum(-1))
    with pytest.raises(ValueError, match=r"one-hot \(sites, categories\), event_ndim=2"):
        GibbsWithGradients().start(vector, torch.zeros(3, 2))
