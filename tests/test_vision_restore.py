"""Observations as energies, and posteriors against a prior whose answer is a closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ebrl import schedules
from ebrl.energies import Energy, FunctionEnergy
from ebrl.vision.observations import (
    Blurred,
    Direct,
    Downsampled,
    Linear,
    Masked,
    Observation,
    gaussian_kernel,
    padded,
)
from ebrl.vision.restoration import posterior, restore

MEAN, DEVIATION, NOISE = 0.4, 0.2, 0.1
SHAPE = (1, 8, 12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def skew_kernel() -> Tensor:
    """No symmetry hides an adjoint that is the operator itself."""
    kernel = random(3, 5, seed=1)
    return kernel / kernel.sum()


def decimated(x: Tensor) -> Tensor:
    return (x[..., ::2, :] + 0.5 * x[..., 1::2, :])[..., ::3]


OBSERVATIONS: dict[str, Callable[[], Observation]] = {
    "direct": lambda: Direct(random(*SHAPE), NOISE),
    "masked": lambda: Masked(random(*SHAPE), random(8, 12, seed=2) < 0.5, NOISE),
    "blurred": lambda: Blurred(random(*SHAPE), skew_kernel(), NOISE),
    "downsampled": lambda: Downsampled(random(1, 4, 6), 2, skew_kernel(), NOISE),
    "downsampled by default": lambda: Downsampled(random(1, 4, 4), 3, deviation=NOISE),
    "linear": lambda: Linear(random(1, 4, 4), decimated, SHAPE, NOISE),
}
EACH = pytest.mark.parametrize("name", OBSERVATIONS)


@EACH
def test_the_adjoint_is_the_operators(name: str) -> None:
    observation = OBSERVATIONS[name]()
    x, y = random(*observation.start().shape, seed=3), random(*observation.y.shape, seed=4)
    forth = (observation.operator(x) * y).sum()
    torch.testing.assert_close(forth, (x * observation.adjoint(y)).sum())


@EACH
def test_the_gradient_is_the_energys(name: str) -> None:
    observation = OBSERVATIONS[name]()
    x = random(2, *observation.start().shape, seed=3)
    if name == "linear":
        x = x[0]  # the user's operator takes one image
    value, gradient = observation.value_and_gradient(x)
    x.requires_grad_()
    energy = observation(x)
    torch.testing.assert_close(value, energy)
    torch.testing.assert_close(gradient, torch.autograd.grad(energy.sum(), x)[0])


@EACH
@pytest.mark.parametrize("level", [0.02, 0.5])
def test_nothing_pulls_where_the_proximal_step_ends(name: str, level: float) -> None:
    observation = OBSERVATIONS[name]()
    start = random(*observation.start().shape, seed=3)
    x = observation.proximal(start, level)
    _, gradient = observation.value_and_gradient(x)
    scale = 1 / level**2 + 1 / NOISE**2
    assert (gradient + (x - start) / level**2).abs().max() < 1e-4 * scale


class GaussianImages(Energy):
    """Pixels of N(mean, deviation²); blurred, of variance deviation² + σ²."""

    event_ndim = 3

    @property
    def takes_condition(self) -> bool:
        return True

    def given(self, condition: Tensor) -> Energy:
        variance = DEVIATION**2 + condition.square()
        return FunctionEnergy(lambda x: ((x - MEAN).square() / (2 * variance)).sum((-3, -2, -1)), 3)


def assert_law(samples: Tensor, mean: Tensor, deviation: float) -> None:
    """Every pixel's mean, and the deviation over all of them, within four standard errors."""
    count = len(samples)
    assert ((samples.mean(0) - mean).abs() < 4.5 * deviation / count**0.5).all()
    pooled = (samples - mean).std()
    assert abs(pooled - deviation) < 4 * deviation / (2 * samples.numel()) ** 0.5


def test_the_posterior_counts_the_noise_once() -> None:
    """At a fixed level the precision would be 1/(v + level²) + 1/s²; here it is 1/v + 1/s²."""
    y = random(1, 4, 4).float()
    found = posterior(
        Direct(y, NOISE),
        GaussianImages(),
        generator=generator(),
        samples=2_000,
        levels=schedules.geometric(0.5, 0.005, 12),
        steps=60,
        step_size=20.0,  # of the last level's variance, which is a small part of the posterior's
    )
    precision = 1 / DEVIATION**2 + 1 / NOISE**2
    mean = (MEAN / DEVIATION**2 + y / NOISE**2) / precision
    assert found.samples.shape == (2_000, 1, 4, 4)
    assert_law(found.samples, mean, precision**-0.5)
    torch.testing.assert_close(found.mean, found.samples.mean(0))


def test_holes_keep_the_priors_law() -> None:
    mask = torch.zeros(4, 4)
    mask[:2] = 1
    y = random(1, 4, 4).float()
    found = posterior(
        Masked(y, mask, 0.1),
        GaussianImages(),
        generator=generator(),
        samples=2_000,
        levels=schedules.geometric(0.5, 0.01, 10),
        steps=150,
        step_size=10.0,
    )
    assert_law(found.samples[:, :, 2:], torch.full((1, 2, 4), MEAN), DEVIATION)


def test_splitting_ends_where_prior_and_measurement_agree() -> None:
    y, mask = random(1, 4, 4).float(), torch.tensor([[1.0, 0.0]]).repeat(4, 2)
    x = restore(Masked(y, mask, 1e-3), GaussianImages(), levels=schedules.geometric(0.5, 1e-3, 40))
    known = mask.bool().expand(1, 4, 4)
    torch.testing.assert_close(x[known], y[known], atol=2e-3, rtol=0)
    assert ((x[~known] - MEAN).abs() < 0.05).all()


def test_margins_join_the_borders() -> None:
    y = random(1, 9, 7)
    large = padded(y, 4)
    assert large.shape == (1, 17, 15)
    assert torch.equal(large[..., 4:-4, 4:-4], y)
    jump = (large[..., 0, :] - large[..., -1, :]).abs().max()
    assert jump < 0.5 * (y[..., 0, :] - y[..., -1, :]).abs().max()


def test_a_larger_start_lies_where_the_samples_were_taken() -> None:
    rows = torch.arange(24.0).view(1, 24, 1).expand(1, 24, 24) / 24
    for factor in (2, 3):
        observation = Downsampled(rows[..., ::factor, ::factor], factor)
        off = (observation.start() - rows)[..., 6:-6, 6:-6].abs().max()
        assert off < 0.6 / 24  # half a pixel


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Direct(torch.zeros(4, 4), 0.1), "channels, height, width"),
        (lambda: Direct(torch.zeros(1, 4, 4), 0.0), "deviation > 0"),
        (lambda: Masked(torch.zeros(1, 4, 4), torch.zeros(3, 4)), "mask of"),
        (lambda: Blurred(torch.zeros(1, 4, 4), torch.ones(2, 3), 0.1), "odd sides"),
        (lambda: Blurred(torch.zeros(1, 4, 4), torch.ones(5, 5), 0.1), "no larger"),
        (lambda: Downsampled(torch.zeros(1, 9, 9), 1), "at least 2"),
        (lambda: Linear(torch.zeros(1, 4, 4), decimated, (1, 4, 4), 0.1), "an operator from"),
        (lambda: restore(OBSERVATIONS["direct"](), GaussianImages(), coupling=0), "coupling > 0"),
        (
            lambda: posterior(
                OBSERVATIONS["direct"](), GaussianImages(), samples=1, generator=generator()
            ),
            "two samples",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_gaussian_kernels_sum_to_one() -> None:
    kernel = gaussian_kernel(1.6)
    assert kernel.shape == (11, 11)
    torch.testing.assert_close(kernel.sum(), torch.tensor(1.0))
