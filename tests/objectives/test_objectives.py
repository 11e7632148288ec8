"""Objectives without chains: where their optimum is, and what they cannot see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from objective_problems import DENOISING, EXACT, SIGMA, LevelQuadratic, Quadratic, gradients, nce
from problems import generator
from torch import Tensor, nn

from ebrl import Energy, FunctionEnergy, objectives
from ebrl.networks import MLPEnergy
from ebrl.objectives import Loss, Objective


def assert_optimum(
    objective: Objective,
    energy: Callable[[Tensor], Energy],
    precision: Tensor,
    draw: Callable[[torch.Generator], Tensor],
) -> None:
    """The gradient vanishes at the truth, and a quarter off on either side it points back."""
    mean, error = gradients(objective, energy(precision), draw)
    assert (mean.abs() < 4 * error).all(), (mean / error).tolist()
    for factor in (0.75, 1.33):
        mean, error = gradients(objective, energy(factor * precision), draw)
        assert (mean * math.copysign(1, factor - 1) > 3 * error).all(), (factor, mean / error)


def gaussian(precision: Tensor, n: int = 4000) -> Callable[[torch.Generator], Tensor]:
    return lambda stream: torch.randn(n, *precision.shape, generator=stream) / precision.sqrt()


@pytest.mark.parametrize("dimension", [1, 8])
@pytest.mark.parametrize("name", EXACT)
def test_gaussian_precision(name: str, dimension: int) -> None:
    precision = torch.linspace(0.5, 2.0, dimension)
    objective = EXACT[name](precision.rsqrt())
    assert_optimum(objective, Quadratic, precision, gaussian(precision))


@pytest.mark.parametrize("dimension", [1, 8])
def test_denoising_learns_the_blurred_precision(dimension: int) -> None:
    precision = torch.linspace(0.5, 2.0, dimension)
    blurred = 1 / (1 / precision + SIGMA**2)
    assert_optimum(DENOISING, Quadratic, blurred, gaussian(precision))


@pytest.mark.parametrize("weight", [torch.ones_like, torch.square])
def test_denoising_over_levels_learns_every_level(weight: Callable[[Tensor], Tensor]) -> None:
    precision = torch.tensor([0.5, 2.0])
    objective = objectives.DenoisingScoreMatching(torch.tensor([0.3, 1.0]), weight=weight)
    assert_optimum(objective, LevelQuadratic, precision, gaussian(precision))


@pytest.mark.parametrize("name", ["sliced", "nce", "discrepancy"])
def test_images_are_events_like_vectors(name: str) -> None:
    precision = torch.linspace(0.5, 2.0, 4).reshape(1, 2, 2)
    objective = EXACT[name](precision.rsqrt())
    assert_optimum(objective, Quadratic, precision, gaussian(precision))


def test_score_matching_of_a_convolutional_energy_equals_that_of_its_vectors() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3)).double()
    x = torch.randn(5, 1, 4, 4, generator=generator(), dtype=torch.float64)
    image = FunctionEnergy(lambda x: net(x).flatten(1).sum(1), event_ndim=3)
    vector = FunctionEnergy(lambda x: net(x.reshape(-1, 1, 4, 4)).flatten(1).sum(1))
    for objective in (objectives.ExactScoreMatching(), DENOISING, objectives.SlicedScoreMatching()):
        one = objective(image, x, generator=generator(1)).loss
        other = objective(vector, x.flatten(1), generator=generator(1)).loss
        torch.testing.assert_close(one, other)
    hessian = torch.autograd.functional.hessian(lambda one: vector(one[None])[0], x[0].flatten())
    curvature = objectives.ExactScoreMatching()(image, x[:1], generator=generator()).metrics
    torch.testing.assert_close(curvature["curvature"], hessian.trace())


def test_sliced_is_the_exact_one_in_expectation() -> None:
    torch.manual_seed(0)
    energy, x = MLPEnergy(3, (16,)).double(), torch.randn(50, 3, dtype=torch.float64)
    exact = objectives.ExactScoreMatching()(energy, x, generator=generator()).loss
    sliced = objectives.SlicedScoreMatching(8)
    stream = generator(1)
    losses = torch.stack([sliced(energy, x, generator=stream).loss.detach() for _ in range(200)])
    assert (losses.mean() - exact).abs() < 4 * losses.std() / 200**0.5


def test_denoising_error_is_that_of_the_denoised() -> None:
    precision = torch.tensor([0.8, 0.8])
    x = gaussian(torch.ones(2), 20_000)(generator())
    metrics = DENOISING(Quadratic(precision), x, generator=generator(1)).metrics
    y = x + SIGMA * torch.randn(x.shape, generator=generator(9))
    error = (y - SIGMA**2 * precision * y - x).square()
    expected, tolerance = error.mean(), 6 * error.std() / error.numel() ** 0.5
    assert (metrics["denoising_error"] - expected).abs() < tolerance


def test_nce_learns_the_log_normalizer() -> None:
    precision = torch.tensor([0.5, 2.0])
    objective = nce(precision.rsqrt())
    truth = objective.log_normalizer.item()
    stream, energy = generator(3), Quadratic(precision)
    for offset, sign in ((0.0, 0.0), (0.2, 1.0), (-0.2, -1.0)):
        objective.log_normalizer.data.fill_(truth + offset)
        slopes = []
        for _ in range(40):
            loss = objective(energy, gaussian(precision)(stream), generator=stream).loss
            slopes.append(torch.autograd.grad(loss, objective.log_normalizer)[0])
        slope = torch.stack(slopes)
        error = slope.std() / 40**0.5
        assert slope.mean().abs() < 4 * error if sign == 0 else sign * slope.mean() > 4 * error


def test_the_stabiliser_alone_makes_energy_discrepancy_exact() -> None:
    # Far from 1 the same two candidates are biased: the claim is not empty.
    precision = torch.tensor([1.0])
    biased = objectives.EnergyDiscrepancy(1.5, 2, stabiliser=0.0)
    mean, error = gradients(biased, Quadratic(precision), gaussian(precision))
    assert mean.abs() > 6 * error
    exact = objectives.EnergyDiscrepancy(1.5, 2)
    mean, error = gradients(exact, Quadratic(precision), gaussian(precision))
    assert mean.abs() < 4 * error


# Energy matching: phase 1 is no density, but for a Gaussian its optimum is known.


@pytest.mark.parametrize(
    ("coupling", "optimum"),
    [
        ("independent", lambda s: 1.5 * (1 - s**2) / (1 + s**2)),
        ("transport", lambda s: 1.5 * (1 - s**2) / (1 + s + s**2)),
    ],
)
def test_the_flow_has_the_curvature_that_its_pairing_implies(
    coupling: Any, optimum: Callable[[float], float]
) -> None:
    # ∫ E[x_t (x - z)] dt and ∫ E[x_t²] dt for pairs that are independent, or z = x / s.
    deviation = 0.5
    objective = objectives.EnergyMatching(coupling=coupling, regularisation=0.01)
    energy = Quadratic(torch.tensor([optimum(deviation)]))
    mean, error = gradients(
        objective, energy, lambda stream: deviation * torch.randn(64, 1, generator=stream), 40
    )
    # Batches pair a little worse than the law does: a tenth of the way to pairs at random.
    random = 2 * (1 + deviation + deviation**2) / 3 * (0.9 - optimum(deviation))
    assert mean.abs() < 4 * error + 0.1 * random


def test_transport_pairs_nearest_and_uses_each_noise_once() -> None:
    x = torch.tensor([[0.0], [3.0], [6.0], [9.0]])
    noise = x.flip(0) + 0.1
    index = objectives.energy_matching.transport(x, noise, 0.01, generator())
    assert index.tolist() == [3, 2, 1, 0]


def test_energy_matching_adds_its_contrastive_term_and_fades_the_flow() -> None:
    energy, x = Quadratic(torch.tensor([1.0, 2.0])), torch.randn(64, 2, generator=generator())

    def contrastive(
        energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Loss:
        return Loss(energy(x).mean(), {"energy_gap": torch.tensor(1.0)})

    flow = objectives.EnergyMatching()(energy, x, generator=generator(1)).loss
    both = objectives.EnergyMatching(contrastive, contrast=0.5)
    loss, metrics = both(energy, x, generator=generator(1))
    torch.testing.assert_close(loss, flow + 0.5 * energy(x).mean())
    assert set(metrics) == {"flow", "contrastive", "energy_gap"}
    faded = objectives.EnergyMatching(cutoff=0.5)(energy, x, generator=generator(1)).loss
    assert faded < 0.95 * flow
