"""Sets of images against sets of which the answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ebrl.vision.resemblance import compare, frechet_distance, neighbourhoods, reach


def normal(n: int, dimension: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed))


class Pixels(nn.Module):
    """Features are the pixels, and the class is the brightest of the first three."""

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]


# ---- the Fréchet distance -------------------------------------------------------------------


def test_the_distance_of_gaussians_is_closed_form() -> None:
    """`|m - m'|² + Σ (s - s')²` where the covariances commute."""
    x = whitened(normal(500, 6))
    mean, deviation = torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6)
    expected = float((mean**2).sum() + ((deviation - 1) ** 2).sum())
    assert frechet_distance(mean + deviation * x, x) == pytest.approx(expected, rel=1e-6)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=1).double())
    turned = frechet_distance((mean + deviation * x) @ turn, x @ turn)
    assert turned == pytest.approx(expected, rel=1e-6)


def test_the_distance_of_correlated_gaussians() -> None:
    """In one plane, unit variances and correlations r and -r: `tr √(C C') = 2 √(1 - r²)`."""
    x, r = whitened(normal(500, 2)), 0.6
    bent = [torch.stack([x[:, 0], s * r * x[:, 0] + 0.8 * x[:, 1]], 1) for s in (1, -1)]
    assert frechet_distance(*bent) == pytest.approx(4 - 4 * 0.8, rel=1e-6)


def test_equal_sets_are_no_distance_apart() -> None:
    x = normal(200, 16)
    assert abs(frechet_distance(x, x.flip(0))) < 1e-5


def test_the_bias_falls_with_the_number_of_images() -> None:
    few, many = (frechet_distance(normal(n, 8), normal(n, 8, seed=1)) for n in (100, 10_000))
    assert 0 < many < 0.05 < few


# ---- neighbourhoods -------------------------------------------------------------------------


def test_reach_is_to_the_fifth_neighbour_and_not_to_oneself() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0], [31.0], [63.0]]).double()
    assert reach(points).tolist() == [31, 30, 28, 24, 16, 31, 62]


def test_equal_sets_cover_each_other() -> None:
    x = normal(300, 4)
    found = neighbourhoods(x, x)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # Each lies within its own reach and that of its neighbours: neighbours + 1, on average.
    assert found.density == pytest.approx(6 / 5)


def test_sets_of_one_law() -> None:
    found = neighbourhoods(normal(3_000, 4), normal(3_000, 4, seed=1))
    assert found.density == pytest.approx(1, abs=0.05)
    # Naeem et al. 2020, section 3.2: 1 - 2^-k for large sets of one law.
    assert found.coverage == pytest.approx(1 - 2**-5, abs=0.01)
    assert found.precision == pytest.approx(found.recall, abs=0.02)


def test_half_of_the_modes_is_half_of_the_recall() -> None:
    """Real images of two places far apart; what was made knows one."""
    real = normal(1_000, 4)
    real[500:] += 100
    found = neighbourhoods(normal(1_000, 4, seed=1), real)
    assert found.recall == pytest.approx(0.5, abs=0.02)
    assert found.coverage == pytest.approx(0.5, abs=0.02)
    assert found.precision > 0.9


def test_half_junk_is_half_of_the_precision() -> None:
    made = normal(1_000, 4, seed=1)
    made[500:] += 100 * torch.arange(1, 501).unsqueeze(1)  # each in a place of its own
    found = neighbourhoods(made, normal(1_000, 4))
    assert found.precision == pytest.approx(0.5, abs=0.02)
    assert found.density == pytest.approx(0.5, abs=0.05)


def test_an_image_copied_over_and_over_covers_next_to_nothing() -> None:
    real = normal(1_000, 4)
    found = neighbourhoods(real[:1].expand(1_000, -1), real)
    assert found.precision == 1
    assert found.recall < 0.01
    assert found.coverage < 0.02


class Contrast(Pixels):
    """Features are an image's mean and deviation."""

    def features(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)


def test_white_noise_recalls_nothing() -> None:
    """Every noise image has the contrast of every other, and real ones have all sorts."""
    generator = torch.Generator().manual_seed(0)
    shade, contrast = torch.rand(2, 500, 1, 1, 1, generator=generator)
    real = shade + 0.1 * contrast * torch.randn(500, 1, 8, 8, generator=generator)
    noise = torch.rand(500, 1, 8, 8, generator=generator)
    found = compare(noise, real, Contrast()).neighbourhoods
    assert found.recall == 0
    assert found.coverage < 0.02


# ---- together -------------------------------------------------------------------------------


def test_compare_counts_classes_and_measures_features() -> None:
    made = torch.zeros(2_500, 1, 2, 2)  # more than go at once
    made[:2_000, 0, 0, 1] = 1
    made[2_000:, 0, 1, 0] = 1
    real = torch.rand(300, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = compare(made, real, Pixels())
    assert found.shares == pytest.approx((0, 0.8, 0.2))
    assert found.frechet == frechet_distance(made.flatten(1), real.flatten(1))


def test_too_few_for_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 5 points"):
        neighbourhoods(normal(5, 2), normal(50, 2))


def whitened(x: Tensor) -> Tensor:
    """Return x of mean 0 and covariance 1, up to rounding."""
    x = x.double() - x.double().mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T


def test_sets_without_moments_are_refused() -> None:
    images = torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="expected more than"):
        compare(images[:1], images, Pixels())
    with pytest.raises(ValueError, match="at least 2 points"):
        frechet_distance(normal(1, 3), normal(9, 3))
    images[3, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite features"):
        compare(images, images, Pixels())
