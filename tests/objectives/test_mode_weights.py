"""Which objectives see how much weight a mode has."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from objective_problems import gradients, local
from problems import generator
from torch import Tensor, nn

from ebrl import Chains, Energy, FunctionEnergy, Gaussian, objectives
from ebrl.objectives import NormalNoise, Objective
from ebrl.spaces import Box, Unbounded

# What is blind to mode weights: two modes 4 apart with deviation .4, the right one with .8.


class TwoModes(Energy):
    """Two unit Gaussians' energy with the log odds of the right one to be learnt."""

    def __init__(self, share: float):
        super().__init__()
        self.right, self.left = (
            Gaussian(torch.tensor([mean, 0.0]), 0.4, 2) for mean in (2.0, -2.0)
        )
        self.log_odds = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    def forward(self, x: Tensor) -> Tensor:
        odds = torch.stack([self.log_odds, -self.log_odds])
        values = torch.stack([self.right(x), self.left(x)], -1)
        return -torch.logsumexp(nn.functional.logsigmoid(odds) - values, -1)

    @staticmethod
    def exact(n: int, stream: torch.Generator) -> Tensor:
        x = 0.4 * torch.randn(n, 2, generator=stream)
        right = torch.rand(n, generator=stream) < 0.8
        x[:, 0] += torch.where(right, 2.0, -2.0)
        return x


MODES_NOISE = NormalNoise(torch.tensor([1.2, 0.0]), torch.tensor([2.5, 0.6]))
# How far one datum moves an energy of equal modes towards .8, in standard deviations.
SIGHT: dict[str, tuple[Objective, float, float]] = {  # objective, at least, at most
    "denoising(.1)": (objectives.DenoisingScoreMatching(0.1), 0.0, 0.01),
    "sliced": (objectives.SlicedScoreMatching(), 0.0, 0.01),
    "exact": (objectives.ExactScoreMatching(), 0.0, 0.01),
    "discrepancy(.25)": (objectives.EnergyDiscrepancy(0.25, 16), 0.0, 0.01),
    "discrepancy(1)": (objectives.EnergyDiscrepancy(1.0, 16), 0.15, 0.22),
    "discrepancy(2)": (objectives.EnergyDiscrepancy(2.0, 16), 0.25, 0.32),
    "nce": (objectives.NCE(MODES_NOISE, 4), 0.45, 0.6),
    "infonce": (objectives.InfoNCE(MODES_NOISE, 16), 0.62, 0.76),
}


@pytest.mark.parametrize("name", SIGHT)
def test_who_sees_mode_weights(name: str) -> None:
    objective, least, most = SIGHT[name]
    energy = TwoModes(0.5)
    mean, error = gradients(objective, energy, lambda stream: energy.exact(1000, stream))
    sight = float(-mean / (error * (40 * 1000) ** 0.5 + 1e-30))

    assert least - 4 / 200 < sight < most + 4 / 200, sight


def moved(chains: Chains, x: Tensor) -> Chains:
    """Put all chains at x."""
    chains.write(chains.draw(len(x), generator()).rows, x)
    return chains


def chains_of_the_data() -> Objective:
    chains = moved(Chains(1000, Unbounded(2), restart=0), TwoModes.exact(1000, generator(9)))
    return objectives.ContrastiveDivergence(local(), chains)


def jumping_chains() -> Objective:
    """The default, whose chains have found the law of the energy that is asked about."""
    objective = objectives.persistent(Box(-4 * torch.ones(2), 4 * torch.ones(2)), 1000)
    x = TwoModes.exact(1000, generator(9))
    x[:, 0] = torch.where(torch.arange(1000) % 2 == 0, 1.0, -1.0) * x[:, 0].abs()
    objective.chains = moved(Chains(1000, objective.sampler.space, restart=0), x)
    return objective


class TwoHeaps(nn.Module):
    """The modes in equal shares."""

    def forward(self, latent: Tensor) -> Tensor:
        right = 0.4 * latent[:, 0] + 2 * torch.sign(latent[:, 1])
        return torch.stack([right, 0.4 * latent[:, 2]], 1)


CHAINED: dict[str, tuple[Callable[[], Objective], float, float]] = {
    "cd-20": (lambda: objectives.ContrastiveDivergence(local()), 0.0, 0.01),
    "improved": (lambda: objectives.ImprovedContrastiveDivergence(local()), 0.0, 0.01),
    "pcd, chains of the data": (chains_of_the_data, -0.03, 0.03),
    "pcd, the default": (jumping_chains, 0.35, 0.75),
    "recovery(.5)": (lambda: objectives.RecoveryLikelihood(local(), [0.0, 0.5]), 0.0, 0.03),
    "recovery(4)": (lambda: objectives.RecoveryLikelihood(local(), [0.0, 4.0]), 0.3, 0.45),
    "generator": (
        lambda: objectives.LearnedGenerator(TwoHeaps(), 3, learning_rate=0.0),
        0.4,
        0.55,
    ),
    "flow": (lambda: objectives.EnergyMatching(coupling="independent"), 0.01, 0.08),
}


@pytest.mark.parametrize("name", CHAINED)
def test_who_sees_mode_weights_with_samples(name: str) -> None:
    build, least, most = CHAINED[name]
    energy = TwoModes(0.5)
    draw = energy.exact
    mean, error = gradients(build(), energy, lambda stream: draw(1000, stream), calls=20)
    sight = float(-mean / (error * (20 * 1000) ** 0.5 + 1e-30))
    assert least - 4 / 140 < sight < most + 4 / 140, sight


class TwoPatterns(TwoModes):
    """Eight bits, nearly all 1 (.8 of the time) or nearly all 0; the log odds to be learnt."""

    def __init__(self, share: float):
        super().__init__(share)
        self.right, self.left = (
            FunctionEnergy(lambda x, p=p: -(x * p.log() + (1 - x) * (1 - p).log()).sum(-1))
            for p in (torch.tensor(0.97), torch.tensor(0.03))
        )

    @staticmethod
    def exact(n: int, stream: torch.Generator) -> Tensor:
        ones = torch.rand(n, 1, generator=stream) < 0.8
        changed = torch.rand(n, 8, generator=stream) < 0.03
        return (ones ^ changed).float()


@pytest.mark.parametrize(
    ("objective", "least", "most"),
    [
        (objectives.PseudoLikelihood(), 0.0, 0.01),
        (objectives.RatioMatching(), 0.0, 0.01),
        (objectives.DiscreteEnergyDiscrepancy(0.05, 16), 0.0, 0.01),
        (objectives.DiscreteEnergyDiscrepancy(0.5, 16), 0.15, 0.3),
    ],
    ids=["pseudo-likelihood", "ratio matching", "discrepancy(.05)", "discrepancy(.5)"],
)
def test_who_sees_the_weights_of_patterns(objective: Objective, least: float, most: float) -> None:
    energy = TwoPatterns(0.5)
    mean, error = gradients(objective, energy, lambda stream: energy.exact(1000, stream))
    sight = float(-mean / (error * (40 * 1000) ** 0.5 + 1e-30))
    assert least - 4 / 200 < sight < most + 4 / 200, sight


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "two_moons.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("EnergyDiscrepancy(.25)", 0.9, 1.0),
        ("EnergyDiscrepancy(1)", 0.75, 0.85),
        ("EnergyDiscrepancy(.1…3)", 0.75, 0.85),
        ("NCE", 0.75, 0.85),
        ("InfoNCE", 0.75, 0.85),
        ("DenoisingScoreMatching(.1)", 0.95, 1.0),
        ("SlicedScoreMatching", 0.95, 1.0),
        ("ExactScoreMatching", 0.95, 1.0),
    ],
)
def test_the_mode_weight_that_a_network_learns(name: str, least: float, most: float) -> None:
    spec = importlib.util.spec_from_file_location("two_moons", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    two_moons = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(two_moons)
    share = two_moons.measure(name, "modes", seed=0)["mean"]["share"]
    assert least < share < most
