"""Analytic targets: normalizer, moments, gradients and draws, against quadrature and autograd."""

from __future__ import annotations

import math

import pytest
import torch
from problems import generator, within_standard_errors
from torch import Tensor

from ebrl import Gaussian
from ebrl.energies import (
    Banana,
    CorrelatedGaussian,
    DoubleWell,
    Funnel,
    GaussianMixture,
    Ring,
    Target,
    TruncatedGaussian,
)

BOUNDS = (torch.tensor([-1.0, 0.5]), torch.tensor([1.0, 3.0]))
TARGETS: dict[str, tuple[Target, list[tuple[float, float]]]] = {  # with where its mass lies
    "gaussian": (Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([0.5, 2.0]), 2), [(-12, 12)] * 2),
    "correlated": (
        CorrelatedGaussian(torch.tensor([0.5, -1.0]), torch.tensor([[1.0, 0.6], [0.6, 0.5]])),
        [(-8, 8), (-7, 5)],
    ),
    "mixture": (GaussianMixture([[2.0, 0.0], [-1.0, 1.0]], 0.4, [0.7, 0.3]), [(-6, 6)] * 2),
    "funnel": (Funnel(2, deviation=0.8, mean=0.3, scale=1.2), [(-6, 6), (-60, 60)]),
    "banana": (Banana(0.7, 1.2, 0.4), [(-8, 8), (-4, 40)]),
    "double well": (DoubleWell(2.0, tilt=0.5, dimension=2), [(-4, 4)] * 2),
    "ring": (Ring(1.5, 0.3), [(-5, 5)] * 2),
    "wide ring": (Ring(0.7, 1.0), [(-11, 11)] * 2),
    "truncated": (
        TruncatedGaussian(0.8, 0.4, *BOUNDS, dimension=2),
        list(zip(*BOUNDS, strict=True)),
    ),
}
every_target = pytest.mark.parametrize("name", TARGETS)


def quadrature(
    target: Target, limits: list[tuple[float, float]], temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalizer, mean and variance of `exp(-E/T)` in two dimensions."""
    sides = [torch.linspace(*map(float, side), 801, dtype=torch.float64) for side in limits]
    grid = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)
    density = (-target(grid) / temperature).exp()

    def integral(values: Tensor) -> Tensor:
        return torch.trapezoid(torch.trapezoid(values, sides[1], dim=1), sides[0], dim=0)

    normalizer = integral(density)
    mean = torch.stack([integral(density * grid[..., i]) for i in range(2)]) / normalizer
    square = [integral(density * (grid[..., i] - mean[i]).square()) for i in range(2)]
    return normalizer, mean, torch.stack(square) / normalizer


@every_target
def test_density_and_moments_are_those_of_quadrature(name: str) -> None:
    target, limits = TARGETS[name]
    normalizer, mean, variance = quadrature(target, limits)
    assert normalizer.item() == pytest.approx(1, abs=2e-5)
    torch.testing.assert_close(target.mean.double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target.variance.double(), variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("name", [name for name in TARGETS if name != "mixture"])
def test_a_tempered_target_has_the_density_of_the_energy_over_the_temperature(
    name: str, temperature: float
) -> None:
    target, limits = TARGETS[name]
    x = target.sample((200,), generator()).double()
    tempered = target.tempered(temperature)
    constant = target(x) / temperature - tempered(x)
    assert constant.std() < 1e-5
    normalizer = quadrature(target, [(3 * a, 3 * b) for a, b in limits], temperature)[0]
    if name != "truncated":  # whose walls a wider grid does not meet
        assert -constant.mean().item() == pytest.approx(normalizer.log().item(), abs=2e-3)


@every_target
def test_draws_have_the_moments(name: str) -> None:
    target, _ = TARGETS[name]
    x = target.sample((20_000, 2), generator(3))
    assert x.shape == (20_000, 2, 2)
    assert target(x).isfinite().all()
    for column in x.unbind(1):
        assert within_standard_errors(column, target.mean, target.variance, 4)
    again = target.sample((20_000, 2), generator(3))
    assert torch.equal(x, again)


@every_target
def test_draws_have_the_entropy(name: str) -> None:
    # Mean energy and its quadrature see what two moments do not.
    target, limits = TARGETS[name]
    values = target(target.sample((20_000,), generator(5)).double())
    sides = [torch.linspace(*map(float, side), 801, dtype=torch.float64) for side in limits]
    energy = target(torch.stack(torch.meshgrid(*sides, indexing="ij"), -1))
    integrand = torch.where(energy.isfinite(), energy * (-energy).exp(), 0.0)
    expected = torch.trapezoid(torch.trapezoid(integrand, sides[1], dim=1), sides[0], dim=0)
    assert values.mean().item() == pytest.approx(expected.item(), abs=4 * values.std().item() / 141)


@every_target
def test_gradients_are_those_of_autograd(name: str) -> None:
    target, _ = TARGETS[name]
    x = target.sample((50, 3), generator(1)).double()
    value, gradient = target.value_and_gradient(x)
    expected = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(target(expected).sum(), expected)
    torch.testing.assert_close(gradient, slope)
    torch.testing.assert_close(value, target(x))
    torch.testing.assert_close(target.log_density(x), -value)
    assert value.shape == (50, 3)
    assert value.dtype == gradient.dtype == torch.float64
    assert value.grad_fn is None


@pytest.mark.parametrize("dimension", [2, 10])
def test_the_funnel_in_any_dimension_is_the_product_of_its_conditionals(dimension: int) -> None:
    target = Funnel(dimension)
    x = target.sample((100,), generator()).double()
    neck = torch.distributions.Normal(0.0, 3.0).log_prob(x[:, 0])
    rest = torch.distributions.Normal(0.0, (x[:, :1] / 2).exp()).log_prob(x[:, 1:]).sum(-1)
    torch.testing.assert_close(target.log_density(x), neck + rest)


def test_a_mixture_is_that_of_its_components() -> None:
    target = TARGETS["mixture"][0]
    x = torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    parts = [Gaussian(torch.tensor(m), 0.4, 2)(x).neg().exp() for m in ([2.0, 0.0], [-1.0, 1.0])]
    torch.testing.assert_close(
        (-target(x)).exp(), 0.7 * parts[0] + 0.3 * parts[1], rtol=1e-5, atol=0
    )


def test_a_truncated_gaussian_is_accurate_far_from_its_mean() -> None:
    # Far in the tail the law is exponential: mean distance from the wall is s / z (1 - 1/z² + …).
    target = TruncatedGaussian(0.0, 1.0, 20.0, 30.0)
    x = target.sample((20_000,), generator()).double()
    assert target.mean.item() - 20 == pytest.approx(1 / 20 * (1 - 2 / 400), rel=1e-3)
    assert (x - 20).mean().item() == pytest.approx(0.05, rel=0.03)
    assert target(x).isfinite().all()


def test_draws_of_a_truncated_gaussian_without_a_lower_bound_are_finite() -> None:
    # In float32 this stream has a uniform number of exactly 0.
    x = TruncatedGaussian(0.0, 1.0, -math.inf, 1.0).sample((2**20,), generator(12))
    assert x.isfinite().all()


def test_a_half_normal_has_its_moments() -> None:
    target = TruncatedGaussian(0.0, 1.0, 0.0, math.inf)
    torch.testing.assert_close(target.mean, torch.tensor([math.sqrt(2 / math.pi)]))
    torch.testing.assert_close(target.variance, torch.tensor([1 - 2 / math.pi]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_numbers_keep_the_dtype_of_their_tensors(dtype: torch.dtype) -> None:
    centre, one = torch.full((2,), 1 / 3, dtype=dtype), torch.ones(2, dtype=dtype)
    for target in (
        Gaussian(centre, 1.0, 2),
        CorrelatedGaussian(centre, torch.eye(2)),
        GaussianMixture(centre.expand(2, 2), 1.0, [1.0, 2.0]),
        TruncatedGaussian(centre, 1.0, centre - 9 * one, centre + 9 * one, 2),
    ):
        assert {buffer.dtype for buffer in target.buffers()} == {dtype}
        assert target.mean.dtype == target.variance.dtype == dtype
        assert target.sample((3,), generator()).dtype == dtype
        value, gradient = target.value_and_gradient(centre + one / 3)
        assert value.dtype == gradient.dtype == dtype
        assert gradient.sub(1 / 3).abs().max() < 4 * torch.finfo(dtype).eps
    assert Gaussian(1 / 3, 1.0, 2).mean.dtype == torch.get_default_dtype()


def test_a_mixture_copies_its_means() -> None:
    means = torch.zeros(2, 2)
    target = GaussianMixture(means, 1.0)
    target.means.fill_(1.0)
    assert not means.any()


def test_at_the_centre_of_a_ring_the_gradient_is_zero() -> None:
    value, gradient = Ring(1.0, 0.5).value_and_gradient(torch.zeros(3, 2))
    assert value.isfinite().all()
    assert (gradient == 0).all()


def test_outside_its_box_a_truncated_gaussian_is_infinite() -> None:
    target = TruncatedGaussian(0.0, 1.0, -1.0, torch.tensor([1.0, 2.0]), dimension=2)
    x = torch.tensor([[1.5, 0.0], [0.0, 1.5], [0.0, -1.01]])
    assert target(x).tolist()[0] == math.inf
    assert math.isfinite(target(x)[1])
    assert target(x).tolist()[2] == math.inf


@pytest.mark.parametrize(
    "make",
    [
        lambda: Funnel(1),
        lambda: Funnel(2, deviation=0.0),
        lambda: Banana(width=-1.0),
        lambda: DoubleWell(0.0),
        lambda: Ring(0.0),
        lambda: GaussianMixture([[0.0], [1.0]], 1.0, [0.5]),
        lambda: GaussianMixture([[0.0], [1.0]], 1.0, [-0.5, 1.5]),
        lambda: TruncatedGaussian(0.0, 1.0, 1.0, -1.0),
        lambda: TruncatedGaussian(0.0, 0.0, -1.0, 1.0),
    ],
)
def test_impossible_targets_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"expected .* got"):
        make()


def test_a_box_without_mass_is_refused() -> None:
    with pytest.raises(ValueError, match="some of the Gaussian's mass"):
        TruncatedGaussian(0.0, 1.0, 50.0, 60.0)


def test_a_correlated_gaussian_is_the_multivariate_normal() -> None:
    root = torch.randn(4, 4, generator=generator())
    mean, covariance = torch.arange(4.0), root @ root.mT + 0.1 * torch.eye(4)
    energy = CorrelatedGaussian(mean, covariance)
    known = torch.distributions.MultivariateNormal(mean, covariance)
    x = 3 * torch.randn(2, 5, 4, generator=generator(1))
    torch.testing.assert_close(energy.log_density(x), known.log_prob(x), rtol=1e-4, atol=1e-4)
    assert energy.entropy == pytest.approx(known.entropy().item(), rel=1e-5)
    assert Gaussian(0.0, torch.tensor([0.5, 3.0]), 2).entropy == pytest.approx(
        torch.distributions.Normal(0.0, torch.tensor([0.5, 3.0])).entropy().sum().item()
    )
    draws = energy.sample((200, 200), generator()).flatten(0, 1)
    sampled = torch.cov(draws.mT)
    scale = covariance.diagonal().sqrt()
    error = (scale.outer(scale) * 2**0.5 / len(draws) ** 0.5).clamp_min(1e-9)
    assert ((sampled - covariance).abs() < 4.5 * error).all()
    tempered = energy.tempered(2.0)
    torch.testing.assert_close(
        tempered.value_and_gradient(x)[1], energy.value_and_gradient(x)[1] / 2
    )


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (torch.zeros(3), torch.eye(2), "expected a mean"),
    ],
)
def test_what_is_no_covariance_is_refused(mean: Tensor, covariance: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorrelatedGaussian(mean, covariance)


@pytest.mark.parametrize("width", [1e-8, 1e-5, 1e-3])
def test_a_narrow_truncated_gaussian_is_nearly_uniform(width: float) -> None:
    target = TruncatedGaussian(0.0, 1.0, 0.5, 0.5 + width)
    assert target.variance.item() == pytest.approx(width**2 / 12, rel=1e-4)
    assert target.mean.item() == pytest.approx(0.5 + width / 2)


def test_both_formulas_of_a_truncated_gaussian_agree() -> None:
    below, above = (TruncatedGaussian(0.0, 1.0, 0.3, 0.3 + w) for w in (1 - 1e-6, 1 + 1e-6))
    torch.testing.assert_close(below.variance, above.variance, rtol=1e-5, atol=0)
    torch.testing.assert_close(below.mean, above.mean, rtol=1e-5, atol=0)


def test_no_draws_of_a_mixture() -> None:
    mixture = GaussianMixture([[-1.0], [1.0]], 1.0)
    assert mixture.sample((3, 0), generator()).shape == (3, 0, 1)
