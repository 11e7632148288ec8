"""Stein variational gradient descent: directions, fixed points, coupled particles."""

from __future__ import annotations

import math

import pytest
import torch
from problems import PROBLEMS, generator
from stepping import Counting, run
from torch import Tensor

from ebrl import Energy, FunctionEnergy, Gaussian, Sampler
from ebrl.kernels import SVGD
from ebrl.kernels.stein import stein_directions
from ebrl.spaces import Box

SKEWED = PROBLEMS[1]


def particles(*batch: int, dimension: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*batch, dimension, generator=generator(5), dtype=dtype)


def test_directions_are_those_of_the_paper() -> None:
    x, gradient = particles(5), particles(5).sin()
    square = (x[:, None] - x[None]).square().sum(-1)
    above = torch.triu_indices(5, 5, 1)
    width = square[above[0], above[1]].median() / math.log(6)
    attraction, repulsion = torch.zeros_like(x), torch.zeros_like(x)
    for i in range(5):
        for j in range(5):
            other = x[j].clone().requires_grad_()
            kernel = torch.exp(-(other - x[i]).square().sum() / width)
            (slope,) = torch.autograd.grad(kernel, other)
            attraction[i] -= kernel.detach() * gradient[j] / 5
            repulsion[i] += slope / 5
    torch.testing.assert_close(stein_directions(x, gradient), (attraction, repulsion))


@pytest.mark.parametrize("n", [2, 3, 10])
def test_directions_do_not_depend_on_the_units(n: int) -> None:
    x, gradient = particles(n), particles(n).sin()
    attraction, repulsion = stein_directions(x, gradient)
    small = stein_directions(1e-3 * x, gradient)
    torch.testing.assert_close(small, (attraction, 1e3 * repulsion))
    if n == 2:  # the width is their squared distance over log 3: k = 1/3
        torch.testing.assert_close(attraction, -(gradient + gradient.flip(0) / 3) / 2)


@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_the_fixed_point_approaches_the_distribution_with_more_particles(
    temperature: float,
) -> None:
    energy, ratios = Gaussian(1.0, 0.5, 1), []
    for n in (25, 100):
        x = 1 + 0.5 * temperature**0.5 * particles(n, dimension=1)
        state, _, lost = run(SVGD(), energy, x, 300, 0.1, temperature)
        assert state.x.mean().item() == pytest.approx(1.0, abs=0.01)
        assert (lost == 0).all()
        ratios.append((state.x.var() / (0.25 * temperature)).item())
    # The spread is too small, by an eighth and a thirtieth of the variance or less.
    assert 0.88 < ratios[0] < 0.95 < ratios[1] < 1


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_particles_settle_where_attraction_and_repulsion_balance(temperature: float) -> None:
    state, _, _ = run(SVGD(), SKEWED.energy, particles(40), 500, 0.4, temperature)
    attraction, repulsion = stein_directions(state.x, state.gradient)
    assert repulsion.abs().mean() > 0.05
    torch.testing.assert_close(attraction, -temperature * repulsion, rtol=0, atol=2e-3)


@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_a_temperature_is_another_energy_and_step_size(temperature: float) -> None:
    hot, _, _ = run(SVGD(), SKEWED.energy, particles(9), 20, 0.1, temperature)
    tempered = SKEWED.energy / temperature
    plain, _, _ = run(SVGD(), tempered, particles(9), 20, 0.1 * temperature, 1.0)
    torch.testing.assert_close(hot.x, plain.x)


def test_one_particle_descends_and_temperature_zero_has_no_repulsion() -> None:
    energy = Gaussian(0.0, 1.0, 2)
    alone, _, _ = run(SVGD(), energy, particles(4, 1), 3, 0.2, temperature=5.0)
    torch.testing.assert_close(alone.x, 0.8**3 * particles(4, 1))
    cold, _, _ = run(SVGD(), energy, particles(20), 300, 0.5, temperature=0.0)
    assert cold.x.abs().max() < 0.05


def test_sets_are_independent_and_their_particles_are_not() -> None:
    x, order = particles(3, 8), torch.tensor([3, 0, 5, 1, 4, 2, 7, 6])
    together, _, _ = run(SVGD(), SKEWED.energy, x, 5)
    for one in range(3):
        alone, _, _ = run(SVGD(), SKEWED.energy, x[one], 5)
        torch.testing.assert_close(together.x[one], alone.x)
    permuted, _, _ = run(SVGD(), SKEWED.energy, x[:, order], 5)
    torch.testing.assert_close(together.x[:, order], permuted.x)
    fewer, _, _ = run(SVGD(), SKEWED.energy, x[:, :4], 5)
    assert not torch.allclose(fewer.x, together.x[:, :4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_images_move_as_vectors(dtype: torch.dtype) -> None:
    image = FunctionEnergy(lambda x: x.pow(4).sum((-3, -2, -1)), event_ndim=3)
    vector = FunctionEnergy(lambda x: x.pow(4).sum(-1))
    x = particles(2, 5, dimension=12, dtype=dtype)
    as_vector, _, _ = run(SVGD(), vector, x, 4)
    as_image, acceptance, _ = run(SVGD(), image, x.view(2, 5, 1, 3, 4), 4)
    torch.testing.assert_close(as_image.x.flatten(2), as_vector.x)
    assert as_image.x.dtype == dtype
    assert acceptance.shape == (2, 5)


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, torch.inf], ids=str)
def test_a_particle_stays_where_its_move_has_no_density(bad: float) -> None:
    def function(x: Tensor) -> Tensor:  # what is bad lies downhill
        return torch.where(x[..., 0] > 0.5, bad, -2 * x[..., 0] + x.square().sum(-1) / 10)

    x = particles(30).clamp(max=0.4)
    state, acceptance, lost = run(SVGD(), FunctionEnergy(function), x, 20, 0.3)
    assert state.x.isfinite().all()
    assert (state.x[:, 0] <= 0.5).all()
    assert (acceptance < 0.999).any()
    assert (lost.sum() == 0) == (bad == torch.inf)


class Cusp(Energy):
    """Falls to the right; its gradient is no number beyond .5, where its value is finite."""

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return -x.sum(-1), torch.where(x > 0.5, torch.nan, -torch.ones_like(x))


def test_a_gradient_of_nan_does_not_spread() -> None:
    state, _, lost = run(SVGD(), Cusp(), particles(20).clamp(max=0.4), 20, 0.3)
    assert lost.sum() > 0
    assert (state.x <= 0.5).all()


def test_particles_that_coincide_stay_together() -> None:
    x = torch.full((10, 2), 0.3)
    state, _, _ = run(SVGD(), Gaussian(0.0, 1.0, 2), x, 5, 0.1)
    torch.testing.assert_close(state.x, 0.9**5 * x)


def test_svgd_in_a_box_stays_there() -> None:
    energy = FunctionEnergy(lambda x: 4 * (x - 0.8).square().sum(-1))
    for walls in ("reject", "reflect", "tanh"):
        sampler = Sampler(SVGD(), Box(-1.0, 1.0, walls), steps=50, step_size=0.1)
        x = sampler.sample(energy, n=50, generator=generator()).x
        assert (x.abs() <= 1).all()
        assert x.std() > 0.1


def test_nothing_is_evaluated_twice_and_no_number_drawn() -> None:
    energy, stream = Counting(SKEWED.energy), generator()
    before = stream.get_state()
    kernel = SVGD()
    state = kernel.start(energy, particles(6))
    for _ in range(5):
        noise = kernel.draw(state, stream)
        state, _ = kernel.step(energy, state, noise, 0.1, 1.0)
    assert (energy.values, energy.gradients) == (0, 1 + 5)
    assert torch.equal(stream.get_state(), before)


def test_particles_need_a_batch_axis() -> None:
    with pytest.raises(ValueError, match=r"expected particles .* got x of shape \(2,\)"):
        SVGD().start(SKEWED.energy, torch.zeros(2))
    with pytest.raises(ValueError, match=r"expected particles .* got x of shape \(3, 0, 2\)"):
        SVGD().start(SKEWED.energy, torch.zeros(3, 0, 2))
