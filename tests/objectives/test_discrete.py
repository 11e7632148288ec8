"""Discrete objectives: stationary at the truth, and they recover it."""

from __future__ import annotations

import pytest
import torch
from objective_problems import DISCRETE, gradients
from problems import generator
from torch import Tensor, nn

from ebrl import Energy, objectives


class Pairwise(Energy):
    """A binary energy `-½ xᵀ J x - hᵀ x`, or a Potts model on one-hot x, to be learnt."""

    def __init__(self, sites: int, categories: int | None, seed: int | None):
        super().__init__()
        self.sites, self.categories = sites, categories
        self.event_ndim = 1 if categories is None else 2
        numbers = sites * (categories or 1)
        draw = generator(seed or 0)
        scale = 0.0 if seed is None else 1.0 if categories is None else 0.5
        start = scale * torch.randn(numbers, numbers + 1, generator=draw)
        self.coupling = nn.Parameter(start[:, :-1])
        self.field = nn.Parameter(start[:, -1])

    def forward(self, x: Tensor) -> Tensor:
        block = self.categories or 1
        mask = 1 - torch.kron(torch.eye(self.sites), torch.ones(block, block))
        x = x.flatten(-self.event_ndim)
        coupling = mask * (self.coupling + self.coupling.T) / 2
        return -0.5 * (x @ coupling * x).sum(-1) - x @ self.field

    def configurations(self) -> Tensor:
        grid = torch.cartesian_prod(*[torch.arange(self.categories or 2)] * self.sites)
        if self.categories is None:
            return grid.float()
        return nn.functional.one_hot(grid, self.categories).float()

    def law(self) -> Tensor:
        return torch.softmax(-self(self.configurations()).detach(), 0)

    def exact(self, n: int, stream: torch.Generator) -> Tensor:
        chosen = torch.multinomial(self.law(), n, replacement=True, generator=stream)
        return self.configurations()[chosen]


@pytest.mark.parametrize("categories", [None, 3], ids=["ising", "potts"])
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_objectives_are_stationary_at_the_truth(name: str, categories: int | None) -> None:
    truth = Pairwise(4, categories, seed=5)
    objective = DISCRETE[name](categories is not None)
    mean, error = gradients(objective, truth, lambda stream: truth.exact(1000, stream))
    moving = error > 1e-9  # what the mask or the normalizer makes constant has no gradient
    assert moving.sum() >= 16
    assert (mean[moving].abs() < 4.5 * error[moving]).all()


@pytest.mark.parametrize("categories", [None, 3], ids=["ising", "potts"])
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_objectives_recover_the_law(name: str, categories: int | None) -> None:
    truth, learnt = Pairwise(4, categories, seed=5), Pairwise(4, categories, seed=None)
    x = truth.exact(20_000, generator())
    before = 0.5 * (truth.law() - learnt.law()).abs().sum()
    objective = DISCRETE[name](categories is not None)
    optimiser = torch.optim.Adam(learnt.parameters(), 0.05)
    stream = generator(1)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        rows = torch.randint(len(x), (256,), generator=stream)
        optimiser.zero_grad()
        objective(learnt, x[rows], generator=stream).loss.backward()
        optimiser.step()
    distance = 0.5 * (truth.law() - learnt.law()).abs().sum()
    assert before > 0.2
    assert distance < 0.045
    if categories is None:  # with categories couplings are free up to a constant a row
        mask = 1 - torch.eye(4)
        error = mask * (learnt.coupling + learnt.coupling.T - truth.coupling - truth.coupling.T) / 2
        assert error.abs().max() < 0.25


def test_site_laws_are_the_conditionals_of_the_joint() -> None:
    for categories in (None, 3):
        truth = Pairwise(3, categories, seed=5)
        x = truth.configurations()
        laws = objectives.discrete.site_log_probabilities(
            truth, x, categories is not None, None, generator()
        ).exp()
        joint = truth.law().reshape([categories or 2] * 3)
        for site in range(3):
            conditional = (joint / joint.sum(site, keepdim=True)).flatten()
            torch.testing.assert_close(laws[:, site, 0], conditional)
        torch.testing.assert_close(laws.sum(-1), torch.ones(len(x), 3))
