"""Observations as energies, and posteriors against a prior whose answer is a closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from image_problems import MEAN, NOISE, GaussianImages, random
from problems import generator
from torch import Tensor

from ebrl import schedules
from ebrl.vision.conjugate_gradients import conjugate_gradients
from ebrl.vision.denoising import denoised
from ebrl.vision.holes import tension
from ebrl.vision.linear import Linear
from ebrl.vision.observations import (
    Blurred,
    Cropped,
    Direct,
    Downsampled,
    Masked,
    Observation,
    gaussian_kernel,
    padded,
)
from ebrl.vision.restoration import denoise_samples, posterior, restore
from ebrl.vision.tiles import Tiled

SHAPE = (1, 8, 12)


def skew_kernel() -> Tensor:
    """No symmetry hides an adjoint that is the operator itself."""
    kernel = random(3, 5, seed=1)
    return kernel / kernel.sum()


def decimated(x: Tensor) -> Tensor:
    return (x[..., ::2, :] + 0.5 * x[..., 1::2, :])[..., ::3]


def twice_decimated(x: Tensor) -> Tensor:
    return torch.stack([decimated(x), decimated(x.flip(-1))])


def projected(x: Tensor) -> Tensor:
    return random(7, SHAPE[1] * SHAPE[2], seed=6) @ x.flatten()


OBSERVATIONS: dict[str, Callable[[], Observation]] = {
    "direct": lambda: Direct(random(*SHAPE), NOISE),
    "masked": lambda: Masked(random(*SHAPE), random(8, 12, seed=2) < 0.5, NOISE),
    "blurred": lambda: Blurred(random(*SHAPE), skew_kernel(), NOISE),
    "downsampled": lambda: Downsampled(random(1, 4, 6), 2, skew_kernel(), NOISE),
    "downsampled by default": lambda: Downsampled(random(1, 4, 4), 3, deviation=NOISE),
    "cropped": lambda: Cropped(Blurred(random(1, 12, 16), skew_kernel(), NOISE), 2),
    "linear": lambda: Linear(random(1, 4, 4), decimated, SHAPE, NOISE),
    "linear to a line": lambda: Linear(random(7), projected, SHAPE, NOISE),
    "linear to four axes": lambda: Linear(random(2, 1, 4, 4), twice_decimated, SHAPE, NOISE),
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


def holed(*shape: int) -> Tensor:
    y = random(*shape)
    y[..., 2, 3] = torch.nan
    return y


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


def test_a_large_hole_starts_as_a_membrane_too() -> None:
    """On the saddle `x² - y²`, which is harmonic on a grid, and its own answer."""
    line = torch.linspace(-0.7, 0.7, 800)
    saddle = (0.5 + line[:, None] ** 2 - line**2).unsqueeze(0)
    mask = torch.ones(800, 800)
    mask[5:-5, 5:-5] = 0
    torch.testing.assert_close(Masked(saddle, mask).start(), saddle, atol=2e-3, rtol=0)
    bright = torch.full_like(saddle, 0.8)
    torch.testing.assert_close(Masked(bright, mask).start(), bright)


def test_holes_are_filled_image_by_image_and_colour_by_colour() -> None:
    y, mask = random(2, 3, 9, 14), random(2, 1, 9, 14, seed=2) < 0.3
    together = Masked(y, mask).start()
    for i, j in ((0, 0), (1, 2)):
        alone = Masked(y[i, j : j + 1], mask[i, 0]).start()[0]
        torch.testing.assert_close(together[i, j], alone, atol=1e-4, rtol=0)
    pull = tension(together)[~mask.expand_as(y)]
    assert pull.abs().max() < 1e-3
    assert torch.equal(together[mask.expand_as(y)], y[mask.expand_as(y)])


def test_a_measurement_of_a_line_of_numbers_is_restored() -> None:
    truth = random(1, 4, 4)
    ways = random(30, 16, seed=1)
    observation = Linear(ways @ truth.flatten(), lambda x: ways @ x.flatten(), (1, 4, 4), 1e-3)
    levels = schedules.geometric(0.5, 1e-3, 12)
    x = restore(observation, GaussianImages(), levels=levels)
    torch.testing.assert_close(x, truth, atol=0.02, rtol=0)
    found = posterior(
        observation, GaussianImages(), generator=generator(), samples=3, levels=levels
    )
    assert found.samples.shape == (3, 1, 4, 4)


def test_a_mask_may_be_an_array_and_one_for_each_image() -> None:
    y, mask = random(2, 1, 8, 8), random(2, 1, 8, 8, seed=2) < 0.5
    assert torch.equal(Masked(y, mask.numpy()).mask, mask.to(y))
    assert Masked(y, mask).y.shape == y.shape


def test_single_bright_pixels_are_measured_as_they_are() -> None:
    y = random(1, 64, 64)
    y[0, 3, 4] = 40
    assert Direct(y, NOISE).y.max() == 40


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Blurred(255 * random(1, 9, 9), skew_kernel(), NOISE), r"\[0, 1\].*y / 255"),
        (lambda: Blurred(holed(1, 9, 9), skew_kernel(), NOISE), "NaN or infinity"),
        (lambda: Masked(holed(1, 9, 9), torch.ones(9, 9)), "NaN or infinity"),
        (lambda: Masked(random(2, 1, 8, 8), random(2, 8, 8)), r"unsqueeze\(1\)"),
        (lambda: Masked(random(1, 8, 8), random(3, 8, 8)), "broadcasts to y's"),
        (lambda: Masked(random(3, 8, 8), random(2, 8, 8)), "broadcasts to y's"),
        (lambda: Linear(torch.tensor(0.5), torch.sum, (1, 4, 4), NOISE), "at least one axis"),
        (lambda: Linear(random(1, 4, 4), lambda x: x + 1, (1, 4, 4), NOISE), r"A\(0\) ≠ 0"),
        (lambda: Linear(random(1, 4, 4), torch.square, (1, 4, 4), NOISE), r"A\(v\) \+ A\(w\)"),
        (lambda: Linear(random(1, 4, 4), torch.abs, (1, 4, 4), NOISE), r"A\(v\) \+ A\(w\)"),
        (lambda: Direct(torch.zeros(4, 4), 0.1), "channels, height, width"),
        (lambda: Direct(torch.zeros(1, 4, 4), 0.0), "deviation > 0"),
        (lambda: Masked(torch.zeros(1, 4, 4), torch.zeros(3, 4)), "mask of"),
        (lambda: Blurred(torch.zeros(1, 4, 4), torch.ones(2, 3), 0.1), "odd sides"),
        (lambda: Blurred(torch.zeros(1, 4, 4), torch.ones(5, 5), 0.1), "no larger"),
        (lambda: Downsampled(torch.zeros(1, 9, 9), 1), "at least 2"),
        (lambda: Cropped(OBSERVATIONS["direct"](), 0), "margin of at least 1"),
        (lambda: Cropped(OBSERVATIONS["direct"](), 99), "margin .* that leaves some of"),
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


@pytest.mark.parametrize("levels", [[0.1, 0.0], [0.01, 0.1], [0.1, 0.1], []])
def test_levels_are_positive_and_fall(levels: list[float]) -> None:
    observation, path = Direct(random(1, 8, 8), NOISE), torch.tensor(levels)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="positive levels that fall"):
        restore(observation, GaussianImages(), levels=path)
    with pytest.raises(ValueError, match="positive levels that fall"):
        posterior(observation, GaussianImages(), levels=path, generator=generator)
