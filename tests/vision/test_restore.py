"""Observations as energies, and posteriors against a prior whose answer is a closed form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ebrl import schedules
from ebrl.energies import Energy, FunctionEnergy
from ebrl.kernels import MALA
from ebrl.sampling import Sampler
from ebrl.sampling.sampler import Stage
from ebrl.vision.conjugate_gradients import conjugate_gradients
from ebrl.vision.denoising import denoised
from ebrl.vision.observations import (
    Blurred,
    Cropped,
    Direct,
    Downsampled,
    Linear,
    Masked,
    Observation,
    gaussian_kernel,
    padded,
)
from ebrl.vision.photograph import Photograph
from ebrl.vision.restoration import denoise_samples, posterior, restore
from ebrl.vision.tiles import Tiled

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
    "cropped": lambda: Cropped(Blurred(random(1, 12, 16), skew_kernel(), NOISE), 2),
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
        # A number, or of each pixel.
        variance = DEVIATION**2 + condition.square()
        return FunctionEnergy(lambda x: ((x - MEAN).square() / (2 * variance)).sum((-3, -2, -1)), 3)


def assert_law(samples: Tensor, mean: Tensor, deviation: float) -> None:
    """The pixels' means, one by one and together, and their deviation, in standard errors."""
    count = len(samples)
    assert ((samples.mean(0) - mean).abs() < 5 * deviation / count**0.5).all()  # of thousands
    assert (samples - mean).mean().abs() < 4 * deviation / samples.numel() ** 0.5
    pooled = (samples - mean).std()
    assert abs(pooled - deviation) < 4 * deviation / (2 * samples.numel()) ** 0.5


def measured(seed: int = 5) -> Tensor:
    """An image of the prior's, with noise."""
    clean, noise = torch.randn(2, 1, 96, 96, generator=generator(seed))
    return MEAN + DEVIATION * clean + NOISE * noise


@pytest.mark.parametrize("rungs", [3, 12])
def test_the_posterior_counts_the_noise_once(rungs: int) -> None:
    """At a fixed level the precision would be 1/(v + level²) + 1/s²; here it is 1/v + 1/s²."""
    y = measured()
    found = posterior(
        Direct(y, NOISE),
        GaussianImages(),
        generator=generator(),
        samples=16,
        levels=schedules.geometric(1.0, 0.01, rungs),
    )
    precision = 1 / DEVIATION**2 + 1 / NOISE**2
    mean = (MEAN / DEVIATION**2 + y / NOISE**2) / precision
    assert found.samples.shape == (16, 1, 96, 96)
    assert_law(found.samples, mean, precision**-0.5)
    torch.testing.assert_close(found.mean, found.samples.mean(0))
    torch.testing.assert_close(found.deviation, found.samples.std(0))
    assert found.acceptance.isnan()


def test_the_cores_langevin_along_the_levels_finds_the_same() -> None:
    """A posterior is a path of the sampler that picks actions, and nothing more."""
    y = random(1, 4, 4).float()
    levels = schedules.geometric(0.5, 0.005, 6)
    stages = [Stage(GaussianImages().given(level) + Direct(y, NOISE), 60, 5e-3) for level in levels]
    x = y.expand(2_000, 1, 4, 4)
    found = Sampler(MALA(), steps=1).anneal(stages, x, generator=generator())
    precision = 1 / DEVIATION**2 + 1 / NOISE**2
    assert_law(found.x, (MEAN / DEVIATION**2 + y / NOISE**2) / precision, precision**-0.5)


def test_a_mask_of_bytes_is_a_mask_and_a_hole_may_hold_nothing() -> None:
    y, mask = random(1, 1, 8, 8), random(8, 8, seed=2) < 0.5
    holes = torch.where(mask, y, torch.nan)
    expected = Masked(y, mask, NOISE)
    for other in (Masked(y, 255 * mask.byte(), NOISE), Masked(holes, mask, NOISE)):
        assert torch.equal(other.start(), expected.start())
        assert torch.equal(other(y), expected(y))


def test_holes_keep_the_priors_law() -> None:
    mask = torch.zeros(96, 96)
    mask[:48] = 1
    found = posterior(
        Masked(measured(), mask, NOISE),
        GaussianImages(),
        generator=generator(),
        samples=16,
        levels=schedules.geometric(1.0, 0.01, 6),
    )
    assert_law(found.samples[:, :, 48:], torch.full((1, 48, 96), MEAN), DEVIATION)


def test_beyond_the_borders_the_prior_rules() -> None:
    y, margin = measured(), 20
    sharp = torch.ones(1, 1)
    found = posterior(
        Cropped(Blurred(padded(y, margin), sharp, NOISE), margin),
        GaussianImages(),
        generator=generator(),
        samples=8,
        levels=schedules.geometric(1.0, 0.01, 6),
    )
    precision = 1 / DEVIATION**2 + 1 / NOISE**2
    mean = (MEAN / DEVIATION**2 + y / NOISE**2) / precision
    middle = slice(margin, -margin)
    assert_law(found.samples[..., middle, middle], mean, precision**-0.5)
    assert_law(found.samples[..., :margin, :], torch.full((1, margin, 136), MEAN), DEVIATION)


class CorrelatedImages(Energy):
    """Pixels of N(mean, covariance), row by row; blurred, of covariance + σ²."""

    event_ndim = 3

    def __init__(self, covariance: Tensor, sigma: Tensor | float = 0.0):
        super().__init__()
        self.covariance, self.sigma = covariance, sigma

    @property
    def takes_condition(self) -> bool:
        return True

    def given(self, condition: Tensor) -> Energy:
        return CorrelatedImages(self.covariance, condition)

    def forward(self, x: Tensor) -> Tensor:
        off = (x - MEAN).flatten(-3)
        precision = (self.covariance + self.sigma**2 * torch.eye(len(self.covariance))).inverse()
        return 0.5 * torch.einsum("...i,ij,...j->...", off, precision, off)


@pytest.mark.parametrize("blurred", [False, True])
def test_a_corrector_takes_the_bias_away(blurred: bool) -> None:
    """On neighbours that resemble each other the walk is biased, and Metropolis's test knows it."""
    place = torch.arange(16).view(4, 4).flatten()
    apart = (place[:, None] // 4 - place // 4).abs() + (place[:, None] % 4 - place % 4).abs()
    covariance = DEVIATION**2 * 0.5**apart
    y = random(1, 4, 4).float()
    observation: Observation = Masked(y, random(4, 4, seed=2) < 0.5, NOISE)
    if blurred:
        observation = Blurred(y, torch.full((3, 1), 1 / 3), NOISE)
    columns = observation.operator(torch.eye(16).view(16, 1, 4, 4)).flatten(1)  # Aᵀ
    precision = covariance.inverse() + columns @ columns.mT / NOISE**2
    pull = covariance.inverse().sum(1) * MEAN + observation.adjoint(y).flatten() / NOISE**2
    law = precision.inverse()
    # The walk ends at a level where the corrector's steps reach across the posterior.
    found = posterior(
        observation,
        CorrelatedImages(covariance),
        generator=generator(),
        samples=2_000,
        levels=torch.cat([schedules.geometric(2.0, 0.1, 6), torch.tensor([0.004])]),
        corrector=Sampler(MALA(), steps=200),
        corrector_step=80.0,
    )
    x = found.samples.flatten(1)
    count, deviation = len(x), law.diagonal().sqrt()
    assert 0.3 < found.acceptance < 0.95
    assert ((x.mean(0) - law @ pull).abs() < 4 * deviation / count**0.5).all()
    error = (law.square() + torch.outer(law.diagonal(), law.diagonal())).div(count).sqrt()
    assert ((x.T.cov() - law).abs() < 4.5 * error).all()  # of 136 pairs


def test_samples_of_a_denoised_image() -> None:
    """In closed form, on an array of 8 bits: `1/(1/v + 1/s²)` around Wiener's filter."""
    y = (255 * measured()[0]).clamp(0, 255).byte().numpy()
    found = denoise_samples(
        y, 255 * NOISE, samples=16, generator=generator(), prior=GaussianImages()
    )
    variance = 255**2 / (1 / DEVIATION**2 + 1 / NOISE**2)
    mean = variance * (255 * MEAN / DEVIATION**2 + y / NOISE**2) / 255**2
    pixels = np.stack(found.samples).astype(float)
    assert pixels.shape == (16, 96, 96)
    assert found.mean.dtype == np.uint8
    assert found.samples[0].dtype == np.uint8
    assert abs((pixels - mean).mean()) < 4 * (variance / pixels.size) ** 0.5
    deviation = np.sqrt(np.square(found.deviation).mean())
    assert abs(deviation - variance**0.5) < 4 * (variance / (2 * pixels.size)) ** 0.5
    assert found.deviation.shape == (96, 96)


@pytest.mark.parametrize("kind", ["tensor", "colour", "file", "quiet"])
def test_samples_are_of_the_type_that_came_in(kind: str, tmp_path: Path) -> None:
    pixels = (255 * np.random.RandomState(0).rand(20, 24, 4)).astype(np.uint8)
    images = {
        "tensor": torch.rand(2, 3, 20, 24, generator=generator()),
        "colour": pixels,
        "file": tmp_path / "photo.png",
        "quiet": np.full((20, 24), 0.5, np.float32),
    }
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    found = denoise_samples(images[kind], samples=3, generator=generator(), prior=GaussianImages())
    assert len(found.samples) == 3
    for image in (found.mean, *found.samples):
        if kind == "tensor":
            assert image.shape == found.deviation.shape == (2, 3, 20, 24)
        elif kind == "quiet":  # has no noise to take away
            assert np.abs(image - 0.5).max() < 1e-3
        else:
            assert (np.asarray(image)[..., 3] == pixels[..., 3]).all()
            assert found.deviation.shape == (20, 24, 3)


def some_tensor(*shape: int) -> Tensor:
    return 0.4 + 0.2 * torch.rand(*shape, generator=generator())


def some_bytes(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).randint(100, 156, shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "place"),  # where it is not transparency
    [
        (some_tensor(16, 20), ...),
        (some_tensor(2, 16, 20), ...),  # two grey images
        (some_tensor(3, 2, 16, 20), ...),
        (some_tensor(4, 16, 20), np.s_[:3]),
        (some_bytes(16, 20), ...),
        (some_bytes(16, 20, 1), ...),
        (some_bytes(16, 20, 2), ...),
        (some_bytes(16, 20, 4), np.s_[..., :3]),
        (Photograph(some_bytes(3, 16, 20, 1)), ...),
        (Photograph(some_bytes(2, 16, 20, 3)), ...),
        (Photograph(some_bytes(3, 16, 20, 3)), ...),
        (Image.fromarray(some_bytes(16, 20)), ...),
        (Image.fromarray(some_bytes(16, 20, 2)), np.s_[..., 0]),
    ],
)
def test_each_pixels_deviation_lies_at_its_place(image: Any, place: Any) -> None:
    sigma = 0.1 if isinstance(image, Tensor) else 25
    _, deviation, samples = denoise_samples(
        image, sigma, samples=2, generator=generator(), prior=GaussianImages()
    )
    kind = torch.Tensor if isinstance(image, Tensor) else np.ndarray
    assert isinstance(deviation, kind)
    pixels = [one.pixels if isinstance(one, Photograph) else one for one in samples]
    first, second = (np.asarray(each, dtype=float)[place] for each in pixels)
    assert deviation.shape == first.shape
    rounding = 0.0 if isinstance(image, Tensor) else 1.0
    assert np.abs(np.abs(first - second) / 2**0.5 - np.asarray(deviation)).max() < rounding + 1e-6


def test_splitting_ends_where_prior_and_measurement_agree() -> None:
    y, mask = random(1, 4, 4).float(), torch.tensor([[1.0, 0.0]]).repeat(4, 2)
    x = restore(Masked(y, mask, 1e-3), GaussianImages(), levels=schedules.geometric(0.5, 1e-3, 40))
    known = mask.bool().expand(1, 4, 4)
    torch.testing.assert_close(x[known], y[known], atol=2e-3, rtol=0)
    assert ((x[~known] - MEAN).abs() < 0.05).all()


def test_pixels_that_are_known_exactly_stay() -> None:
    y, mask = random(1, 12, 12).float(), random(12, 12, seed=2) < 0.5
    x = restore(Masked(y, mask), GaussianImages(), levels=schedules.geometric(0.5, 0.1, 3))
    assert torch.equal(x[0][mask], y[0][mask])
    noisy = restore(Masked(y, mask, NOISE), GaussianImages(), levels=torch.tensor([0.1]))
    assert not torch.equal(noisy[0][mask], y[0][mask])


def test_restoration_in_inference_mode() -> None:
    y, mask = random(1, 12, 12).float(), random(12, 12, seed=2) < 0.5
    levels = schedules.geometric(0.5, 0.1, 3)
    expected = restore(Masked(y, mask), GaussianImages(), levels=levels)
    with torch.inference_mode():
        inside = restore(Masked(y, mask), GaussianImages(), levels=levels)
    assert torch.equal(inside, expected)
    assert not inside.is_inference()


@pytest.mark.parametrize("name", ["cropped", "downsampled"])
def test_a_preconditioner_changes_the_way_and_not_the_end(name: str) -> None:
    observation = OBSERVATIONS[name]()
    wanted = random(2, *observation.start().shape, seed=3)

    def normal(x: Tensor) -> Tensor:
        return observation.adjoint(observation.operator(x)) + 0.01 * x

    ends = [
        conjugate_gradients(normal, wanted, torch.zeros_like(wanted), *inverse, steps=300)
        for inverse in ((), (lambda r: observation.inverse(r, 0.01),))
    ]
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-3 * ends[0].abs().max().item())


def test_tiles_are_the_prior() -> None:
    """Of independent pixels, on images larger and smaller than a tile, with and without a map."""
    for shape in ((3, 1, 100, 70), (2, 3, 1, 20, 30), (1, 70, 65)):
        x = random(*shape)
        for sigma in (torch.tensor(0.1), 0.1 * random(1, *shape[-2:])):
            tiled = Tiled(GaussianImages(), 48)
            expected = denoised(GaussianImages(), x, sigma)
            torch.testing.assert_close(denoised(tiled, x, sigma), expected)
            value, gradient = tiled.given(sigma).value_and_gradient(x)
            torch.testing.assert_close(value, tiled.given(sigma)(x))
            assert gradient.shape == x.shape
    energy = GaussianImages().given(torch.tensor(0.1))
    small = random(5, 1, 40, 30)
    whole = Tiled(GaussianImages(), 48).given(torch.tensor(0.1))
    torch.testing.assert_close(whole(small), energy(small))
    with pytest.raises(TypeError, match="given"):
        tiled(x)


def test_a_kernel_is_how_a_point_of_light_looks() -> None:
    point = torch.zeros(1, 9, 11, dtype=torch.float64)
    point[:, 4, 5] = 1
    seen = Blurred(point, skew_kernel(), NOISE).operator(point)
    torch.testing.assert_close(seen[0, 3:6, 3:8], skew_kernel())


def test_margins_join_the_borders() -> None:
    y = random(1, 9, 7)
    large = padded(y, 4)
    assert large.shape == (1, 17, 15)
    assert torch.equal(large[..., 4:-4, 4:-4], y)
    jump = (large[..., 0, :] - large[..., -1, :]).abs().max()
    assert jump < 0.5 * (y[..., 0, :] - y[..., -1, :]).abs().max()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_pixel_of_a_smaller_image_is_the_mean_of_its_block(factor: int) -> None:
    x = random(2, 1, 12, 24)
    observation = Downsampled(random(1, 12 // factor, 24 // factor), factor)
    blocks = torch.nn.functional.avg_pool2d(x, factor)
    torch.testing.assert_close(observation.operator(x), blocks)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_larger_start_lies_on_the_same_grid(factor: int) -> None:
    ramp = torch.arange(24.0).view(1, 24, 1).expand(1, 24, 24) / 24
    observation = Downsampled(torch.nn.functional.avg_pool2d(ramp, factor), factor)
    off = (observation.start() - ramp)[..., 6:-6, 6:-6].abs().max()
    assert off < 0.2 / 24  # of a pixel


def test_holes_start_as_a_membrane() -> None:
    """Between two known walls it is a ramp; a measured pixel stays as it is."""
    y, mask = torch.zeros(1, 6, 9, dtype=torch.float64), torch.zeros(6, 9)
    y[..., -1] = 1
    mask[:, [0, -1]] = 1
    ramp = torch.linspace(0, 1, 9, dtype=torch.float64).expand(1, 6, 9)
    torch.testing.assert_close(Masked(y, mask).start(), ramp, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Direct(torch.zeros(4, 4), 0.1), "channels, height, width"),
        (lambda: Direct(torch.zeros(1, 4, 4), 0.0), "deviation > 0"),
        (lambda: Masked(torch.zeros(1, 4, 4), torch.zeros(3, 4)), "mask of"),
        (lambda: Blurred(torch.zeros(1, 4, 4), torch.ones(2, 3), 0.1), "odd sides"),
        (lambda: Blurred(torch.zeros(1, 4, 4), torch.ones(5, 5), 0.1), "no larger"),
        (lambda: Downsampled(torch.zeros(1, 9, 9), 1), "at least 2"),
        (lambda: Cropped(OBSERVATIONS["direct"](), 0), "margin of at least 1"),
        (lambda: Linear(torch.zeros(1, 4, 4), decimated, (1, 4, 4), 0.1), "an operator from"),
        (lambda: restore(OBSERVATIONS["direct"](), GaussianImages(), coupling=0), "coupling > 0"),
        (
            lambda: posterior(
                OBSERVATIONS["direct"](), GaussianImages(), samples=1, generator=generator()
            ),
            "two samples",
        ),
        (
            lambda: denoise_samples(np.zeros((9, 9)), 0.1, samples=1, generator=generator()),
            "samples >= 2",
        ),
        (
            lambda: denoise_samples(np.zeros((9, 9)), np.ones((9, 9)), generator=generator()),
            "got a map",
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
