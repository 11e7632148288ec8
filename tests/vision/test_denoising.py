"""Denoising: units and ranges, the estimate of the noise, and what happens in doubt."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from photographs import GaussianImages, colour, grey
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ebrl import vision
from ebrl.energies import Energy, FunctionEnergy
from ebrl.vision.denoising import denoised, guarded, tweedie
from ebrl.vision.noise import noise_levels
from ebrl.vision.noise_estimate import estimate
from ebrl.vision.photograph import ImageError
from ebrl.vision.tiles import Tiled


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


class Towards(Energy):
    """A prior whose denoised image is `y + pull`, whatever y is."""

    event_ndim = 3
    takes_condition = True

    def __init__(self, pull: Tensor):
        super().__init__()
        self.pull = pull

    def given(self, condition: Tensor) -> Energy:
        slope = self.pull / vision.networks.over_images(condition, self.pull) ** 2
        return FunctionEnergy(lambda x: -(slope * x).sum((-3, -2, -1)), 3)


# ---- the guard ------------------------------------------------------------------------------


def test_what_is_no_more_than_noise_is_taken_away() -> None:
    y = 0.5 + 0.1 * noise(3, 64, 64)
    prior = GaussianImages(0.01)
    torch.testing.assert_close(
        denoised(prior, y, torch.tensor(0.1)), tweedie(prior, y, torch.tensor(0.1))
    )


@pytest.mark.parametrize("times", [1.0, 3.0, 1e6])
def test_more_than_noise_is_taken_in_the_measure_that_it_is_more(times: float) -> None:
    """Trust is `(limit σ² / |y - D|²)²`: nothing is left of a prior that diverges."""
    y, sigma = torch.rand(2, 1, 40, 30, generator=generator()), torch.tensor([0.1, 0.02])
    pull = times * 0.1 * torch.ones(2, 1, 40, 30)
    x, trust = guarded(Towards(pull), y, sigma)
    for place, pixels in ((20, 25 * 25), (0, 13 * 13)):  # in the middle, and in a corner
        limit = 1 + 3 * (2 / pixels) ** 0.5
        expected = (limit * sigma**2 / (times * 0.1) ** 2).square().clamp(max=1)
        torch.testing.assert_close(
            trust[:, 0, place, place * 3 // 4], expected, rtol=1e-4, atol=1e-12
        )
    torch.testing.assert_close(x, y + trust * pull, rtol=1e-4, atol=1e-5)


def test_doubt_stays_where_it_arises() -> None:
    y = torch.full((1, 64, 64), 0.5)
    pull = torch.zeros(1, 64, 64)
    pull[:, :10, :10] = 100.0
    _, trust = guarded(Towards(pull), y, torch.tensor(0.1))
    assert trust[:, :10, :10].max() < 1e-3
    assert (trust[:, 23:, 23:] == 1).all()


def test_at_an_edge_no_pixel_changes_by_more_than_twice_the_noise() -> None:
    """Far above the noise a larger change moves the edge; elsewhere noise may be as large."""
    y = torch.zeros(3, 64, 64)
    y[:, :, 32:] = 0.5
    pull = torch.zeros(3, 64, 64)
    pull[1, 8, 28:36], pull[2, 8, 10] = 0.03, 0.03
    x, trust = guarded(Towards(pull), y, torch.tensor(0.01))
    assert (trust == 1).all()
    torch.testing.assert_close((x - y)[1, 8, 28:36], torch.full((8,), 0.02))
    assert float((x - y)[2, 8, 10]) == pytest.approx(0.03)


def test_without_noise_everything_stays() -> None:
    y = torch.rand(2, 1, 20, 20, generator=generator())
    x = denoised(GaussianImages(), y, torch.tensor([0.0, 0.1]))
    assert torch.equal(x[0], y[0])
    assert not torch.equal(x[1], y[1])


@pytest.mark.parametrize("sigma", [1.0, 2.0, 7.0, 50.0])
def test_no_pixel_of_a_fine_line_is_worse_by_more_than_twice_the_noise(sigma: float) -> None:
    """Of the network, on what photographs never hold: lines and checks a pixel wide."""
    rows, columns = np.indices((96, 96))
    for clean in (
        np.where((rows + columns) % 2, 60.0, 200.0),
        np.where((rows + columns) % 3, 200.0, 40.0),
        np.where(columns % 2, 20.0, 235.0),
        np.where((rows % 12 == 0) | (columns % 16 == 0), 20.0, 235.0),
    ):
        y = ((clean + sigma * noise(96, 96, seed=1).numpy()) / 255).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the doubt
            result = vision.denoise(y, sigma / 255)
        after = np.abs(255 * result - clean)
        assert np.sqrt(np.square(after).mean()) < 1.4 * sigma
        assert (after - np.abs(255 * y - clean)).max() < 2.01 * sigma


def test_doubt_is_said() -> None:
    grey, pull = np.full((96, 96), 128, np.uint8), torch.full((1, 96, 96), 0.2)
    with pytest.warns(UserWarning, match="100 % of the image does not look like noise"):
        vision.denoise(grey, sigma=10, prior=Towards(pull))  # changes of five deviations


# ---- levels -----------------------------------------------------------------------------------


def known(levels: tuple[float, float]) -> vision.GradientStepEnergy:
    torch.manual_seed(0)
    return vision.GradientStepEnergy(1, widths=(8, 12), blocks=1, levels=levels).double()


def test_beyond_the_known_levels_the_energy_goes_on_without_a_step() -> None:
    y = torch.rand(1, 16, 16, dtype=torch.float64, generator=generator())
    everywhere, within = known((0, float("inf"))), known((0.05, 0.2))
    for sigma in (0.05, 0.1, 0.2):
        level = torch.tensor(sigma)
        torch.testing.assert_close(within.given(level)(y), everywhere.given(level)(y))
    # Below, the denoiser of the lowest level; beyond, that of the image with less contrast.
    lowest = tweedie(everywhere, y, torch.tensor(0.05))
    torch.testing.assert_close(tweedie(within, y, torch.tensor(0.01)), lowest)
    flat = tweedie(everywhere, 0.5 + 0.5 * (y - 0.5), torch.tensor(0.2))
    torch.testing.assert_close(tweedie(within, y, torch.tensor(0.4)), 0.5 + 2 * (flat - 0.5))
    with pytest.raises(ValueError, match="low < high"):
        known((0.2, 0.1))


def test_more_noise_than_was_learnt_is_said() -> None:
    with pytest.warns(UserWarning, match="sigma 100 is beyond the 75"):
        vision.denoise(grey(), sigma=100)


def test_each_image_of_a_batch_has_its_own_level() -> None:
    y = 0.5 + torch.tensor([0.02, 0.2]).view(2, 1, 1, 1) * noise(2, 1, 64, 64)
    levels = noise_levels(y, None)
    torch.testing.assert_close(levels, torch.tensor([0.02, 0.2]), rtol=0.1, atol=0)
    prior = GaussianImages()
    together = vision.denoise(y, prior=prior)
    each = torch.stack([vision.denoise(image, prior=prior) for image in y])
    torch.testing.assert_close(together, each)
    told = vision.denoise(y, sigma=torch.tensor([0.02, 0.2]), prior=prior)
    torch.testing.assert_close(told[1], vision.denoise(y[1], 0.2, prior=prior))
    with pytest.raises(ValueError, match="one for each image of the batch"):
        vision.denoise(y, sigma=torch.tensor([0.1, 0.1, 0.1]), prior=prior)


@pytest.mark.parametrize("side", [16, 48])
def test_tiles_take_a_level_for_each_image(side: int) -> None:
    y, sigma = torch.rand(3, 1, 50, 40, generator=generator()), torch.tensor([0.05, 0.1, 0.2])
    prior = GaussianImages()
    expected = prior.given(sigma).value_and_gradient(y)[1]
    torch.testing.assert_close(Tiled(prior, side, sigma).value_and_gradient(y)[1], expected)


# ---- ranges and modes -------------------------------------------------------------------------


@pytest.mark.parametrize("image", [2 * grey() / 255 - 1, 2 * grey() / grey().max()])
def test_floats_of_another_range_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="data_range"):
        vision.denoise(image, sigma=0.02, prior=GaussianImages())
    spread = vision.denoise(image, 0.04, prior=GaussianImages(), data_range=(-1, 2))
    assert np.abs(spread - image).mean() < 0.02


def test_noise_may_leave_the_range() -> None:
    y = 0.2 * noise(64, 64).numpy()  # black
    assert vision.denoise(y, sigma=0.2, prior=GaussianImages(1.0)).shape == (64, 64)


def test_the_strength_says_nothing_of_the_noise_that_is_there() -> None:
    y = 0.2 * noise(64, 64).numpy()
    assert (
        np.abs(vision.denoise(y, 0.2, strength=0.0, prior=GaussianImages()) - y.clip(0)).max() == 0
    )


def test_a_graph_of_the_image_is_left_behind() -> None:
    y, sigma = noise(1, 8, 8).requires_grad_(), torch.tensor(0.1, requires_grad=True)
    assert not denoised(GaussianImages(), y, sigma).requires_grad
    assert torch.equal(denoised(GaussianImages(), y, 0.1), denoised(GaussianImages(), y, sigma))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_fewer_bits_in_16_are_seen(bits: int) -> None:
    top = 2**bits - 1
    image = (grey() / 255 * top).astype(np.uint16)
    image[0, 0] = top
    result = vision.denoise(image, 0.1 * top, prior=GaussianImages())
    expected = vision.denoise((image / top), 0.1, prior=GaussianImages())
    assert np.abs(result / top - expected).max() <= 1 / top
    stated = vision.denoise(
        image.astype(np.int32), 0.1 * top, prior=GaussianImages(), data_range=(0, top)
    )
    assert np.array_equal(stated, result)


def test_two_channels_are_two_grey_images() -> None:
    y = (grey() / 255).astype(np.float32)
    both = vision.denoise(np.dstack([y, y[::-1]]), 0.1, prior=GaussianImages())
    one = vision.denoise(y, 0.1, prior=GaussianImages())
    np.testing.assert_allclose(both, np.dstack([one, one[::-1]]), atol=1e-6)


def test_inference_mode_changes_nothing_and_leaves_nothing() -> None:
    with torch.inference_mode():
        inside = vision.denoise(grey(), sigma=25)
        tensor = vision.denoise(torch.rand(1, 16, 16), sigma=0.1)
    assert np.array_equal(inside, vision.denoise(grey(), sigma=25))
    assert not tensor.is_inference()
    assert not any(p.is_inference() for p in vision.pretrained("gray").parameters())


# ---- the estimate -----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [5, 25])
@pytest.mark.parametrize("width", [0.0, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_seen_at_two_scales(sigma: float, width: float, channels: int) -> None:
    """White noise in the finest band, noise that neighbours share in the next one."""
    white = noise(channels, 192, 192).numpy()
    shared = gaussian_filter(white, (0, width, width), mode="wrap")
    image = 0.5 + sigma / 255 * shared / shared.std()
    found = estimate(torch.from_numpy(image))
    assert found.is_coarse == (width > 0)
    assert 0.8 < 255 * found.sigma / sigma < 2.5
    if not width:
        assert 255 * found.fine == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("level", [0, 100, 128, 255])
def test_flat_parts_of_any_level_have_no_part_in_the_estimate(level: int) -> None:
    image = 0.5 + 20 / 255 * noise(1, 192, 192).numpy()
    image[:, :120] = level / 255
    assert 255 * estimate(torch.from_numpy(image)).fine == pytest.approx(20, rel=0.05)


def test_images_without_noise_have_none() -> None:
    stars = torch.zeros(1, 200, 200)
    stars[0, 5::23, 7::31] = 0.8
    for image in (torch.full((1, 64, 64), 128 / 255), torch.full((3, 64, 64), 0.3), stars):
        assert estimate(image).sigma < 1e-6


@pytest.mark.parametrize(("ground", "ink"), [(255, 0), (0, 255), (235, 20), (0, 180)])
def test_a_page_of_text_has_the_noise_that_was_added(ground: int, ink: int) -> None:
    page = Image.new("L", (320, 200), ground)
    for row in range(4, 190, 18):
        words = "The quick brown fox jumps over the lazy dog, again."
        ImageDraw.Draw(page).text((4, row), words, ink, ImageFont.load_default(14))
    clean = np.array(page)
    assert estimate(torch.from_numpy(clean)[None] / 255).sigma == 0
    assert np.array_equal(vision.denoise(clean), clean)
    noisy = (clean + 20 * noise(200, 320).numpy()).round().clip(0, 255) / 255
    assert 255 * estimate(torch.from_numpy(noisy)[None]).sigma > 10


@pytest.mark.parametrize("sigma", [2, 5])
def test_texture_in_parts_is_hardly_noise(sigma: float) -> None:
    """In two thirds of the image: its deviation of 40 would be the median's."""
    image = 0.5 + sigma / 255 * noise(1, 192, 192).numpy()
    image[:, :, :130] += 40 / 255 * noise(1, 192, 130, seed=1).numpy()
    assert 255 * estimate(torch.from_numpy(image)).sigma == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("width", [0.6, 0.8])
def test_the_deviation_of_a_cameras_noise(width: float) -> None:
    shared = gaussian_filter(noise(192, 192).numpy(), width, mode="wrap")
    image = grey(192, 192) / 255 + 16 / 255 * shared / shared.std()
    found = estimate(torch.from_numpy(image)[None])
    assert found.is_coarse
    assert 255 * found.deviation == pytest.approx(16, rel=0.1)


def test_texture_of_a_clean_photograph_is_no_coarse_noise() -> None:
    for image in (colour(200, 200), grey(200, 200)):
        planes = torch.from_numpy(image.reshape(200, 200, -1).copy()).movedim(-1, 0) / 255
        assert 255 * estimate(planes).sigma < 4
