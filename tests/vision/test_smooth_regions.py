"""What shipped weights make of smooth regions, where errors of a denoiser would grow."""

from __future__ import annotations

import pytest
import torch

from ebrl.vision.observations import Blurred, Downsampled, Masked
from ebrl.vision.restoration import restore
from ebrl.vision.shipped import pretrained


def hole(side: int, width: int) -> torch.Tensor:
    inside = slice((side - width) // 2, (side + width) // 2)
    known = torch.ones(side, side, dtype=torch.bool)
    known[inside, inside] = False
    return known


def ramp(side: int) -> torch.Tensor:
    return torch.linspace(0, 1, side).expand(1, side, side).clone()


SMOOTH = {
    "grey": torch.full((1, 80, 80), 0.5),
    "white": torch.ones(1, 80, 80),
    "ramp": ramp(96),
}


@pytest.mark.parametrize("image", SMOOTH.values(), ids=list(SMOOTH))
def test_holes_in_smooth_regions_stay_smooth(image: torch.Tensor) -> None:
    known = hole(image.shape[-1], 8)
    x = restore(Masked(image * known, known), pretrained("gray"))
    assert (x - image).abs().max() < 4 / 255


def test_enlarging_a_smooth_image_keeps_it_smooth() -> None:
    small = Downsampled(ramp(96)[:, ::2, ::2] + 1 / 190, 2)
    x = restore(small, pretrained("gray"))
    inside = (x - ramp(96))[:, 8:-8, 8:-8]
    assert inside.square().mean().sqrt() < 1 / 255


def test_deblurring_a_smooth_image_removes_the_noise() -> None:
    kernel = (torch.eye(9) + 0.5 * torch.eye(9).roll(1, 1).triu()).div(13)
    clean = ramp(64)
    clean = torch.cat([clean, clean.flip(-1)], -1)  # the borders of a blurred image are joined
    clean = torch.cat([clean, clean.flip(-2)], -2)
    noise = 0.03 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    y = Blurred(clean, kernel, 0.03).operator(clean) + noise
    x = restore(Blurred(y, kernel, 0.03), pretrained("gray"))
    assert (x - clean).square().mean().sqrt() < 3.5 / 255  # the noise has 7.65


def test_a_measurement_gives_one_image() -> None:
    generator = torch.Generator().manual_seed(0)
    y, known = torch.rand(1, 32, 32, generator=generator), hole(32, 8)
    first, second = (restore(Masked(y, known), pretrained("gray")) for _ in range(2))
    assert torch.equal(first, second)
    other = restore(Masked(y, known), pretrained("gray"), generator=generator)
    assert not torch.equal(first, other)
