"""Objectives by name, quadratic energies, and the gradient of a loss with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from problems import generator
from torch import Tensor, nn

from ebrl import Energy, FunctionEnergy, Sampler, objectives
from ebrl.kernels import MALA
from ebrl.objectives import NormalNoise, Objective

SIGMA = 0.5  # of denoising
DENOISING = objectives.DenoisingScoreMatching(SIGMA)


class Quadratic(Energy):
    """`½ Σ precision_i x_i²` on events of any shape, the precisions to be learnt."""

    def __init__(self, precision: Tensor):
        super().__init__()
        self.event_ndim = precision.ndim
        self.precision = nn.Parameter(precision.clone())

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (self.precision * x.square()).flatten(-self.event_ndim).sum(-1)


class LevelQuadratic(Quadratic):
    """The energy of `N(0, 1/precision + σ²)`, given σ: `(batch,)`."""

    takes_condition = True

    def given(self, condition: Tensor) -> Energy:
        blurred = 1 / self.precision + condition.square().reshape(-1, *(1,) * self.event_ndim)
        return FunctionEnergy(
            lambda x: (0.5 * x.square() / blurred).flatten(1).sum(1), self.event_ndim
        )


def wide(deviation: Tensor) -> NormalNoise:
    return NormalNoise(torch.zeros_like(deviation), 1.5 * deviation)


def nce(deviation: Tensor) -> objectives.NCE:
    """Return NCE with the log normalizer that is right for a `Quadratic`."""
    objective = objectives.NCE(wide(deviation), 4)
    log_normalizer = (deviation.log() + 0.5 * math.log(2 * math.pi)).sum()
    objective.log_normalizer.data.copy_(log_normalizer)
    return objective


# From the data's deviation; all but denoising, whose optimum is that of blurred data.
EXACT: dict[str, Callable[[Tensor], Objective]] = {
    "sliced": lambda deviation: objectives.SlicedScoreMatching(2),
    "exact": lambda deviation: objectives.ExactScoreMatching(),
    "nce": nce,
    "infonce": lambda deviation: objectives.InfoNCE(wide(deviation), 8),
    "discrepancy": lambda deviation: objectives.EnergyDiscrepancy(0.7, 4),
    "discrepancy-1": lambda deviation: objectives.EnergyDiscrepancy(0.7, 1),
    "discrepancy-levels": lambda deviation: objectives.EnergyDiscrepancy(
        torch.tensor([0.2, 1.0, 2.0]), 4
    ),
}


def gradients(
    objective: Objective, energy: Energy, draw: Callable[[torch.Generator], Tensor], calls: int = 40
) -> tuple[Tensor, Tensor]:
    """Return the mean gradient with respect to the energy's parameters and its standard error."""
    stream, rows = generator(3), []
    parameters = list(energy.parameters())
    for _ in range(calls):
        loss = objective(energy, draw(stream), generator=stream).loss
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    stacked = torch.stack(rows)
    return stacked.mean(0), stacked.std(0) / calls**0.5


DISCRETE: dict[str, Callable[[bool], Objective]] = {
    "pseudo-likelihood": lambda categorical: objectives.PseudoLikelihood(categorical=categorical),
    "pseudo-likelihood-2": lambda categorical: objectives.PseudoLikelihood(
        categorical=categorical, sites=2
    ),
    "ratio matching": lambda categorical: objectives.RatioMatching(categorical=categorical),
    "discrepancy": lambda categorical: objectives.DiscreteEnergyDiscrepancy(
        0.3, 8, categorical=categorical
    ),
}


def local() -> Sampler:
    return Sampler(MALA(), steps=20, step_size=0.05)
