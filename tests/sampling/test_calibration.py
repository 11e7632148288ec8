"""The figures of the calibration tables: they see what they are there to see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from problems import generator

from ebrl.energies import Gaussian
from ebrl.kernels import HMC, MALA
from ebrl.sampling import Sampler


class Scripts(NamedTuple):
    bias: Any
    laws: Any
    moments: Any


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import calibration_bias
        import calibration_laws
        import calibration_moments

        yield Scripts(calibration_bias, calibration_laws, calibration_moments)


def test_errors_are_counted_in_standard_errors(scripts: Scripts) -> None:
    n, mean, deviation = 10_000, torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    x = mean + deviation * torch.randn(n, 2, generator=generator())
    errors = scripts.moments.standard_errors(x, mean, deviation.square())
    assert errors.shape == (5,)
    assert errors.max() < 3
    moved = x + torch.tensor([0.0, 6 * 3.0 / n**0.5])
    shifted = scripts.moments.standard_errors(moved, mean, deviation.square())
    assert shifted[1] == pytest.approx(6, abs=3)
    tilted = torch.stack([x[:, 0], x[:, 1] + 0.5 * (x[:, 0] - 1)], 1)
    assert scripts.moments.standard_errors(tilted, mean, deviation.square())[3] > 6
    wide = scripts.moments.standard_errors(mean + 1.1 * (x - mean), mean, deviation.square())
    assert wide[[2, 4]].min() > 6


def test_the_worst_of_many_normals(scripts: Scripts) -> None:
    worst = np.abs(np.random.default_rng(0).standard_normal((4_000, 50))).max(1)
    assert scripts.moments.largest_of_normals(50) == pytest.approx(np.median(worst), abs=0.05)


def test_evaluations_are_counted(scripts: Scripts) -> None:
    for kernel, gradients in ((MALA(), 4), (HMC(5), 16)):
        energy = scripts.moments.Metered(Gaussian(0.0, 1.0, 2))
        Sampler(kernel, steps=3).sample(energy, torch.zeros(7, 2), generator=generator())
        assert (energy.values, energy.gradients) == (0, 7 * gradients)
    energy(torch.zeros(7, 2))
    energy(torch.zeros(7, 2, requires_grad=True))
    assert (energy.values, energy.gradients) == (7, 7 * 17)


def test_mass_on_the_walls_and_beside_them_is_seen(scripts: Scripts) -> None:
    laws, n = scripts.laws, 50_000
    target = laws.PLANE
    axes = []
    for axis in range(2):
        mass = target.probabilities(axis, 1.0)
        rng = np.random.default_rng(axis)
        bins = rng.choice(laws.BINS, n, p=mass) + rng.random(n)
        low, high = target.low[axis], target.high[axis]
        axes.append(torch.as_tensor(low + (high - low) * bins / laws.BINS))
    x = torch.stack(axes, 1)
    exact = laws.walled(x, target, 1.0, "", "", 0.0)
    assert exact.total_variation < exact.floor + 0.01
    assert exact.on_bound == 0
    x[: n // 10, 1] = target.high[1]
    clamped = laws.walled(x, target, 1.0, "", "", 0.0)
    assert clamped.on_bound == 0.1
    assert clamped.total_variation > 0.05


def test_the_closed_form_of_bias_vanishes_with_the_step(scripts: Scripts) -> None:
    for kind in ("ULA", "Underdamped"):
        law = scripts.bias.discretised(kind, 1e-6, 0.5)
        torch.testing.assert_close(law, 0.5 * scripts.moments.SCALES.target.variance)
