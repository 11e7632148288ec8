"""What acting rests on: few energy evaluations give draws of the Boltzmann policy itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from ebrl.energies import Energy, Gaussian, Mixture
from ebrl.envs import total_variation, total_variation_floor
from ebrl.estimators import soft_value
from ebrl.kernels import MALA, ULA, IteratedSIR
from ebrl.kernels.draws import pick, take
from ebrl.sampling import Sampler
from ebrl.spaces import Box, Walls

DRAWS, BINS, BUDGET = 20_000, 40, 64


class Metered(Energy):
    """Counts 1 for each energy and 3 for each energy with its gradient."""

    def __init__(self, energy: Energy):
        super().__init__()
        self.energy, self.spent = energy, 0

    def forward(self, x: Tensor) -> Tensor:
        self.spent += x[..., 0].numel()
        return self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.spent += 3 * x[..., 0].numel()
        return self.energy.value_and_gradient(x)


@pytest.fixture
def energy() -> Metered:
    """.7 N(-.5, .1²) + .3 N(.5, .1²): no gradient leads from one mode to the other."""
    return Metered(Mixture([Gaussian(-0.5, 0.1, 1), Gaussian(0.5, 0.1, 1)], [0.7, 0.3]))


def exact_histogram() -> np.ndarray:
    edges = torch.linspace(-1, 1, BINS + 1, dtype=torch.float64)
    left, right = ((1 + torch.erf((edges - m) / (0.1 * 2**0.5))) / 2 for m in (-0.5, 0.5))
    mass = (0.7 * left + 0.3 * right).diff()
    return (mass / mass.sum()).numpy()


def distance(x: Tensor) -> float:
    counts = np.histogram(x[:, 0].numpy(), BINS, (-1, 1))[0]
    return total_variation(counts / len(x), exact_histogram())


def resampled(energy: Energy, candidates: int, stream: torch.Generator) -> Tensor:
    """Draw by importance from uniform candidates, as the agent draws from its proposal's."""
    x = 2 * torch.rand(DRAWS, candidates, 1, generator=stream) - 1
    log_density = torch.full(x.shape[:-1], -np.log(2.0))
    weights = soft_value(energy(x), log_density, 1.0).weights
    return take(x, pick(weights, torch.rand(DRAWS, generator=stream)))


def resampled_and_moved(energy: Energy, stream: torch.Generator) -> Tensor:
    sampler = Sampler(MALA(), Box(-1.0, 1.0, walls="tanh"), steps=4, step_size=0.03)
    return sampler.sample(energy, resampled(energy, 49, stream), generator=stream).x


class Uniform:
    """Uniform on [-1, 1]."""

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(*batch, 1, generator=generator) - 1

    def log_density(self, x: Tensor) -> Tensor:
        return torch.full(x.shape[:-1], -np.log(2.0))


def iterated(energy: Energy, stream: torch.Generator) -> Tensor:
    start = Uniform().sample((DRAWS,), stream)
    sampler = Sampler(IteratedSIR(Uniform(), 21), Box(-1.0, 1.0), steps=3)
    return sampler.sample(energy, start, generator=stream).x


@pytest.mark.parametrize(
    "draw", [partial(resampled, candidates=BUDGET), resampled_and_moved, iterated]
)
def test_the_boltzmann_policy_within_64_evaluations(draw: Callable, energy: Metered) -> None:
    x = draw(energy, stream=torch.Generator().manual_seed(0))
    assert energy.spent <= BUDGET * DRAWS + 3  # one gradient checks the shape of x
    assert distance(x) <= 0.02
    assert float((x < 0).double().mean()) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize(("kernel", "walls"), [(MALA(), "tanh"), (ULA(), "reflect")])
def test_gradients_alone_keep_the_weights_of_the_start(
    kernel: MALA | ULA, walls: Walls, energy: Metered
) -> None:
    """At the same budget: what resampling is for, and that the measure can fail."""
    stream = torch.Generator().manual_seed(0)
    sampler = Sampler(kernel, Box(-1.0, 1.0, walls), steps=20, step_size=0.005)
    x = sampler.sample(energy, n=DRAWS, generator=stream).x
    assert energy.spent <= BUDGET * DRAWS
    assert distance(x) > 0.15
    assert float((x < 0).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_the_measure_is_at_its_floor_for_exact_draws() -> None:
    stream = torch.Generator().manual_seed(0)
    centre = torch.where(torch.rand(DRAWS, 1, generator=stream) < 0.7, -0.5, 0.5)
    x = centre + 0.1 * torch.randn(DRAWS, 1, generator=stream)
    assert distance(x) < total_variation_floor(exact_histogram(), DRAWS) + 0.01
