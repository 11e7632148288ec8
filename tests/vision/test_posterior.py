"""Samples of posteriors of images against their closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_problems import DEVIATION, MEAN, NOISE, GaussianImages, random
from PIL import Image
from problems import generator
from torch import Tensor

from ebrl import schedules
from ebrl.energies import Energy
from ebrl.kernels import MALA
from ebrl.sampling import Sampler
from ebrl.sampling.sampler import Stage
from ebrl.vision.observations import (
    Blurred,
    Cropped,
    Direct,
    Masked,
    Observation,
    padded,
)
from ebrl.vision.photograph import ImageError, Photograph
from ebrl.vision.restoration import denoise_samples, posterior


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


def test_holes_vary_too_little_below_a_first_level_of_their_deviation() -> None:
    """The default starts at .19, which is as much as these pixels vary."""
    mask = torch.zeros(96, 96)
    mask[:48] = 1
    observation = Masked(measured(), mask, NOISE)
    found = posterior(observation, GaussianImages(), generator=generator(), samples=16)
    assert 0.8 < found.samples[:, :, 48:].var(0).mean().sqrt() / DEVIATION < 0.92


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
    takes_condition = True

    def __init__(self, covariance: Tensor, sigma: Tensor | float = 0.0):
        super().__init__()
        self.covariance, self.sigma = covariance, sigma

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


def test_samples_refuse_floats_of_another_range_unless_it_is_said() -> None:
    y = 2 * some_tensor(16, 20) - 1
    options: dict[str, Any] = {"samples": 2, "prior": GaussianImages()}
    with pytest.raises(ImageError, match="data_range"):
        denoise_samples(y - 1, 0.02, generator=generator(), **options)
    said = denoise_samples(y, 0.2, generator=generator(), data_range=(-1, 1), **options)
    plain = denoise_samples((y + 1) / 2, 0.1, generator=generator(), **options)
    torch.testing.assert_close(said.mean, 2 * plain.mean - 1)
