"""The noise that image energies learn from, and what clipping leaves of it."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import tifffile
import torch
from photographs import grey, write

from ebrl import vision
from ebrl.vision.drawings import drawings
from ebrl.vision.noise import clipped, doubts
from ebrl.vision.noise_estimate import estimate
from ebrl.vision.objectives import CorrelatedNoise, WhiteNoise, blurred
from ebrl.vision.patches import Patches, photographs

IMAGES = torch.full((400, 1, 16, 16), 0.5)
N = IMAGES.numel()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("width", [0.0, 0.4, 1.0])
def test_blurred_noise_keeps_its_variance_and_correlates_as_its_kernel(width: float) -> None:
    white = torch.randn(IMAGES.shape, generator=generator())
    noise = blurred(white, torch.full((len(white),), width))
    line = [math.exp(-(o**2) / (2 * max(width, 1e-3) ** 2)) for o in range(-3, 4)]
    power = sum(k * k for k in line)
    expected = sum(a * b for a, b in pairwise(line)) / power
    # Each image is one draw of means over its pixels, whatever correlates within it.
    for measured, truth in (
        (noise.square(), 1.0),
        (noise * noise.roll(1, -1), expected),
        (noise * noise.roll(1, -2), expected),
        (noise * noise.roll((1, 1), (-2, -1)), expected**2),
    ):
        means = measured.mean((1, 2, 3))
        assert means.mean().item() == pytest.approx(
            truth, abs=4 * means.std().item() / len(means) ** 0.5 + 1e-6
        )


def test_colours_are_blurred_apart() -> None:
    white = torch.randn(8, 3, 16, 16, generator=generator())
    width = torch.linspace(0, 1, 8)
    together = blurred(white, width)
    for channel in range(3):
        alone = blurred(white[:, channel : channel + 1], width)
        torch.testing.assert_close(together[:, channel : channel + 1], alone)
    torch.testing.assert_close(together[0], white[0])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_images_has_blurred_noise_of_the_level_that_is_told(share: float) -> None:
    y, sigma = CorrelatedNoise(share=share)(IMAGES, generator())
    noise = (y - IMAGES) / sigma
    assert noise.square().mean().item() == pytest.approx(1, abs=4 * (4 / N) ** 0.5)
    neighbours = (noise * noise.roll(1, -1)).mean((1, 2, 3))
    # Of 256 pixels, the mean product of white neighbours has a deviation of 1/16.
    blurred_ones = (neighbours > 4 / 16).float().mean().item()
    likely = share * (1 - 0.49)  # a correlation of .25 belongs to a width of .49
    assert blurred_ones == pytest.approx(likely, abs=4 * (0.25 / len(y)) ** 0.5 + 0.01)


def test_without_a_share_it_is_white_noise() -> None:
    told = [noise(IMAGES[:4], generator(3)) for noise in (WhiteNoise(), CorrelatedNoise(share=0))]
    for one, other in zip(*told, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_levels_are_powers_of_uniform_ones(power: float) -> None:
    """P(level <= low + q (high - low)) = q^(1 / power)."""
    _, sigma = WhiteNoise(0.1, 0.3, power)(torch.zeros(20_000, 1, 1, 1), generator())
    assert sigma.min() >= 0.1
    assert sigma.max() <= 0.3
    for q in (0.1, 0.5, 0.9):
        share = (sigma <= 0.1 + 0.2 * q).float().mean().item()
        assert share == pytest.approx(q ** (1 / power), abs=4 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.1, 0.3, 0.6, 1.0])
def test_clipping_leaves_less_noise(sigma: float) -> None:
    x = 0.5 + sigma * torch.randn(400_000, dtype=torch.float64, generator=generator(3))
    truth = float((x.clamp(0, 1) - 0.5).square().mean().sqrt())
    clean = torch.full((1, 4, 4), 0.5)
    found = float(clipped(torch.tensor(sigma), clean))
    assert found == pytest.approx(truth, rel=5 / (2 * 400_000) ** 0.5)  # five standard errors
    assert float(clipped(torch.tensor(sigma), clean - 0.6)) == pytest.approx(sigma)
    levels, batch = torch.tensor([sigma, sigma]), torch.stack([clean, clean + 0.6])
    assert clipped(levels, batch).tolist() == pytest.approx([found, sigma])
    assert clipped(torch.full((1, 4, 4), sigma), batch).shape == (2, 1, 4, 4)


@pytest.mark.parametrize("sigma", [75, 150])
def test_strong_noise_that_was_clipped(sigma: float) -> None:
    clean = skimage.data.astronaut()[:96, 150:246].astype(float)
    y = (clean + sigma * np.random.default_rng(0).standard_normal(clean.shape)).clip(0, 255)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # beyond what was learnt
        told, less = (vision.denoise(y.astype(np.uint8), sigma=each) for each in (sigma, 60))
    error, before, other = (np.square(each - clean).mean() for each in (told, y, less))
    assert error < 0.2 * before
    assert error < other


def test_drawings_are_always_the_same_and_unlike_photographs() -> None:
    one, again = (list(drawings(count=2)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], one[1])
    pixels = np.asarray(one[0].convert("L"), dtype=float)
    steps = np.abs(np.diff(pixels, axis=1))
    assert (steps == 0).mean() > 0.5  # flat, between
    assert (steps > 50).mean() > 0.05  # hard edges


def test_the_last_images_of_a_folder_are_left_out() -> None:
    every = Patches("drawings", size=320, stride=160)
    fewer = Patches("drawings", size=320, stride=160, leave_out=3)
    assert len(every.images) - len(fewer.images) == 3
    assert np.array_equal(fewer.images[-1], every.images[-4])
    with pytest.raises(ValueError, match="leave_out"):
        Patches("drawings", leave_out=-1)


def test_photographs_of_other_depths_are_learnt_from_by_their_range(tmp_path: Path) -> None:
    pixels = grey(64, 64)
    write(tmp_path / "8" / "x.png", pixels)
    write(tmp_path / "16" / "x.png", pixels.astype(np.uint16) * 257)
    (tmp_path / "f").mkdir()
    tifffile.imwrite(tmp_path / "f" / "x.tif", (pixels / 255).astype(np.float32))
    for folder in ("8", "16", "f"):
        (found,) = photographs(str(tmp_path / folder), 1)
        assert np.array_equal(found[..., 0], pixels), folder


def test_patches_of_drawings() -> None:
    patches = Patches("drawings", channels=3, size=64, stride=64)
    assert patches[0].shape == (3, 64, 64)
    assert len(patches) == 80 * 5 * 7 * 8


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_of_smaller_copies_cover_as_much_of_a_photograph(channels: int) -> None:
    whole = Patches("drawings", channels, size=32, stride=32)
    both = Patches("drawings", channels, size=32, stride=32, scales=(1.0, 0.5))
    assert np.array_equal(both.images[0], whole.images[0])
    assert both.images[1].shape == (160, 240, channels)
    halved = whole.images[0].reshape(160, 2, 240, 2, channels).mean((1, 3))
    assert np.abs(both.images[1] - halved).mean() < 10  # of 255
    rows, columns = both.grids[1]
    assert (rows, columns) == (9, 14)  # of 32 pixels, 16 apart, in 160x240
    last = both[8 * (sum(r * c for r, c in both.grids[:2]) - 1)]
    corner = both.images[1][128:160, 208:240]
    assert torch.equal((last * 255).round().byte(), torch.from_numpy(corner.copy()).movedim(-1, 0))


def test_patches_of_copies_with_stronger_colours() -> None:
    patches = Patches("drawings", 3, size=64, stride=64, saturations=(0.0, 1.0, 1.5))
    grey, plain, strong = (image.astype(float) for image in patches.images[:3])
    assert np.array_equal(plain, Patches("drawings", 3, size=64, stride=64).images[0])
    assert np.ptp(grey, axis=-1).max() == 0
    expected = (grey + 1.5 * (plain - grey)).clip(0, 255)
    assert np.abs(strong - expected).max() <= 1  # rounding


@pytest.mark.parametrize(
    "wrong",
    [
        *({"scales": scales} for scales in ((), (0.0,), (1.0, 2.0), (math.nan,))),
        *({"saturations": each} for each in ((), (-1.0,), (math.inf,), (math.nan,))),
        {"saturations": (1.0, 2.0), "channels": 1},
    ],
)
def test_impossible_copies_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong.keys() - {"channels"}
    with pytest.raises(ValueError, match=name):
        Patches("drawings", **{"channels": 3, **wrong})


@pytest.mark.parametrize("wrong", [{"widest": 0.0}, {"widest": 2.0}, {"share": 1.5}, {"low": 0.0}])
def test_impossible_noise_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 <"):
        CorrelatedNoise(**wrong)


def test_shipped_weights_train_on_as_a_copy() -> None:
    energy = vision.trainable("gray")
    assert all(parameter.requires_grad for parameter in energy.parameters())
    with torch.no_grad():
        next(energy.parameters()).add_(1)
    shipped = vision.pretrained("gray")
    assert not any(parameter.requires_grad for parameter in shipped.parameters())
    assert not torch.equal(next(energy.parameters()), next(shipped.parameters()))


def test_a_pattern_of_black_and_white_is_no_noise() -> None:
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float()
    assert estimate(board[None]).sigma == 0
    generator = torch.Generator().manual_seed(0)
    saturated = (0.5 + 2 * torch.randn(1, 64, 64, generator=generator)).clamp(0, 1)
    assert estimate(saturated).sigma > 0.3  # noise that clips nearly everywhere


def test_a_sigma_in_other_units_is_doubted() -> None:
    assert "25.5 here" in doubts(0.1, 0.1 / 255, 0.3, 255)[0]
    assert doubts(0.1, 0.1, 0.3, 1.0) == []
    assert "beyond the 76.5" in doubts(80.0, 80 / 255, 0.3, 255)[0]
