"""Recovery likelihood and its energies."""

from __future__ import annotations

import pytest
import torch
from contrastive_problems import exact, sampler
from problems import generator
from torch import Tensor

from ebrl import Energy, Gaussian
from ebrl.objectives import (
    RecoveryLikelihood,
)
from ebrl.objectives.recovery import Recovery


def test_recovery_energy_knows_its_gradient() -> None:
    energy = Gaussian(0.3, 0.7, 3).double()
    noisy = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    spread = torch.rand(5, generator=generator(), dtype=torch.float64)
    recovery = Recovery(energy, noisy, spread, 0.5)
    u = torch.randn(5, 3, generator=generator(1), dtype=torch.float64)
    value, gradient = recovery.value_and_gradient(u)
    expected, slope = Energy.value_and_gradient(recovery, u)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)


def test_recovery_evaluates_several_candidates_for_each_noisy_datum() -> None:
    # As many replicas as data: aligned from the right, the noisy data would fit and be wrong.
    noisy, spread = torch.randn(3, 2, generator=generator()), torch.tensor([0.1, 1.0, 2.0])
    recovery = Recovery(Gaussian(0.3, 0.7, 2), noisy, spread, torch.tensor([0.5, 1.0, 2.0]))
    u = torch.randn(3, 3, 2, generator=generator(1))
    value, gradient = recovery.value_and_gradient(u)
    for candidate in range(3):
        expected, slope = recovery.value_and_gradient(u[:, candidate])
        torch.testing.assert_close(value[:, candidate], expected)
        torch.testing.assert_close(gradient[:, candidate], slope)
    torch.testing.assert_close(recovery(u), value)


class BlurredGaussian(Energy):
    """The energy of `N(3, 0.5² + σ²)` given σ: exact at every level."""

    takes_condition = True

    def given(self, condition: Tensor) -> Energy:
        deviation = (0.25 + condition.square()).sqrt()
        return FunctionOfLevel(deviation)


class FunctionOfLevel(Energy):
    def __init__(self, deviation: Tensor):
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        return ((x - 3) / self.deviation).square().sum(-1) / 2


def test_recovery_from_noise_draws_the_law() -> None:
    objective = RecoveryLikelihood(sampler(60, 0.15), [0.0, 0.5, 1.5, 5.0])
    x = 3 + (25.25**0.5) * torch.randn(4_000, 1, generator=generator())
    drawn = objective.recover(BlurredGaussian(), x, generator=generator(1))
    assert abs(float(drawn.mean()) - 3) < 4 * 0.5 / 4_000**0.5
    assert abs(float(drawn.var()) - 0.25) < 4 * 0.25 * (2 / 4_000) ** 0.5


def test_recovery_gives_each_row_its_level() -> None:
    levels = []

    class Watched(BlurredGaussian):
        def given(self, condition: Tensor) -> Energy:
            levels.append(condition)
            return super().given(condition)

    objective = RecoveryLikelihood(sampler(1), [0.1, 0.5, 1.5])
    objective(Watched(), exact(100, 1, 0), torch.ones(100, 2), generator=generator())
    assert levels[0].shape == (100, 3)
    assert torch.equal(levels[0][:, :2], torch.ones(100, 2))
    assert levels[0][:, 2].unique().tolist() == pytest.approx([0.1, 0.5])
