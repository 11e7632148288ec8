"""Discrete kernels without chance: the transition matrices of tiny spaces."""

from __future__ import annotations

import math

import pytest
import torch
from chi_square import pearson
from problems import Discrete, generator, pairwise
from torch import Tensor

from ebrl import Energy, FunctionEnergy
from ebrl.envs import total_variation
from ebrl.kernels import (
    DMALA,
    DULA,
    Gibbs,
    GibbsWithGradients,
)


def proposals(problem: Discrete, name: str, step_size: float, temperature: float) -> Tensor:
    """Return the probability of proposing each state from each, as the papers have it."""
    x = problem.configurations().double()
    _, gradient = problem.energy.value_and_gradient(x)
    change = (x - x.unsqueeze(1)).double()  # (from, to, sites, categories)
    first_order = (change * gradient.unsqueeze(1)).sum(-1)  # of each site
    if name == "GibbsWithGradients":
        one_site = change.any(-1).sum(-1) == 1
        logits = -first_order.sum(-1) / (2 * temperature)
        return torch.softmax(logits.masked_fill(~one_site, -math.inf), -1)
    alpha = 2 * step_size * temperature
    score = -first_order / temperature  # ∇ log p · Δ
    logits = (score / 2 - change.square().sum(-1) / (2 * alpha)).sum(-1)
    return torch.softmax(logits, -1)  # sites are independent: the same as each site's softmax


def acceptances(
    kernel: GibbsWithGradients | DMALA, problem: Discrete, step_size: float, temperature: float
) -> Tensor:
    """Return the acceptance of each state from each; the noise is made to propose it."""
    x = problem.configurations().double()
    count = len(x)
    here, there = x.repeat_interleave(count, 0), x.repeat(count, 1, 1)
    wanted = there * (here != there).any(-1, keepdim=True)  # the site that changes, if it is one
    gumbel = 1e6 * (wanted if isinstance(kernel, GibbsWithGradients) else there)
    state = kernel.start(problem.energy, here)
    noise = kernel.draw(state, generator())._replace(gumbel=gumbel, uniform=torch.zeros(count**2))
    _, info = kernel.step(problem.energy, state, noise, step_size, temperature)
    return info.acceptance.view(count, count)


def rough(sites: int, categories: int) -> Energy:
    """Return an energy that is not quadratic, on which first-order changes are wrong."""
    return pairwise(sites, categories) + FunctionEnergy(
        lambda x: (x[..., 0].sum(-1) - 0.5 * x[..., -1].sum(-1)).pow(3), event_ndim=2
    )


TINY = [
    Discrete("2 sites, 3 categories", rough(2, 3), 2, 3),
    Discrete("3 sites, 2 categories", rough(3, 2), 3, 2),
]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("step_size", [0.2, 3.0])
@pytest.mark.parametrize("kernel", [GibbsWithGradients(), DMALA()], ids=["GWG", "DMALA"])
@pytest.mark.parametrize("problem", TINY, ids=repr)
def test_moves_are_in_detailed_balance(
    problem: Discrete, kernel: GibbsWithGradients | DMALA, step_size: float, temperature: float
) -> None:
    proposed = proposals(problem, type(kernel).__name__, step_size, temperature)
    accepted = acceptances(kernel, problem, step_size, temperature)
    law = problem.probabilities(temperature)
    flow = law.unsqueeze(1) * proposed * accepted
    off_diagonal = ~torch.eye(len(law), dtype=torch.bool)
    torch.testing.assert_close(flow[off_diagonal], flow.mT[off_diagonal], atol=1e-9, rtol=1e-5)
    # Of a move and its reverse one is always accepted: the ratio is not merely symmetric.
    likelier = torch.maximum(accepted, accepted.mT)[off_diagonal & (proposed > 0)]
    torch.testing.assert_close(likelier, torch.ones_like(likelier))
    assert accepted[off_diagonal & (proposed > 0)].min() < 0.9


@pytest.mark.parametrize("problem", TINY, ids=repr)
@pytest.mark.parametrize("kernel", [GibbsWithGradients(), DULA()], ids=["GWG", "DULA"])
def test_proposals_have_the_probabilities_of_the_papers(
    problem: Discrete, kernel: GibbsWithGradients | DULA
) -> None:
    step_size, temperature, draws = 0.6, 0.8, 5000
    x = problem.configurations().double().repeat_interleave(draws, 0)
    state = kernel.start(problem.energy, x)
    noise = kernel.draw(state, generator(3))
    if isinstance(kernel, GibbsWithGradients):
        noise = noise._replace(uniform=torch.zeros(len(x)))
    moved, _ = kernel.step(problem.energy, state, noise, step_size, temperature)
    probabilities = proposals(problem, type(kernel).__name__, step_size, temperature)
    for row, ends in zip(probabilities, moved.x.split(draws), strict=True):
        counts = torch.bincount(problem.index(ends), minlength=len(row)).double()
        assert pearson(counts, row)


def stationary(transitions: Tensor) -> Tensor:
    return torch.linalg.matrix_power(transitions, 2**16)[0]


def test_dula_is_biased_and_less_so_at_small_steps_on_quadratic_energies() -> None:
    # Recorded, not hidden: total variation of the law that the unadjusted chain goes to.
    def bias(problem: Discrete, step_size: float) -> float:
        law = stationary(proposals(problem, "DULA", step_size, 1.0))
        return total_variation(law.numpy(), problem.probabilities().numpy())

    quadratic = Discrete("quadratic", pairwise(2, 3), 2, 3)
    found = [bias(quadratic, step_size) for step_size in (10.0, 1.0, 0.3, 0.1)]
    assert found == pytest.approx([0.173, 0.137, 0.062, 0.003], abs=0.001)
    # Where first-order changes are wrong no step is small enough.
    assert bias(TINY[0], 0.1) > 0.1


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_gibbs_draws_a_site_from_its_conditional_distribution(temperature: float) -> None:
    problem, kernel, draws = TINY[0], Gibbs(), 5000
    states = problem.configurations().double()
    law = problem.probabilities(temperature)
    for site in range(problem.sites):
        state = kernel.start(problem.energy, states.repeat_interleave(draws, 0))
        noise = kernel.draw(state, generator(site))
        noise = noise._replace(site=torch.full_like(noise.site, site))
        moved, _ = kernel.step(problem.energy, state, noise, 1.0, temperature)
        for start, ends in zip(states, moved.x.split(draws), strict=True):
            others = [other for other in range(problem.sites) if other != site]
            reachable = (states[:, others] == start[others]).flatten(1).all(-1)
            conditional = law * reachable / (law * reachable).sum()
            counts = torch.bincount(problem.index(ends), minlength=len(law)).double()
            assert counts[~reachable].sum() == 0
            assert pearson(counts, conditional)
