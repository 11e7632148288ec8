"""An energy averaged over symmetries: it has them, and it is an average."""

from __future__ import annotations

import pytest
import torch
from photographs import grey

from ebrl import vision
from ebrl.vision.generation import Guided
from ebrl.vision.symmetry import Symmetric, turned, turned_back
from ebrl.vision.tiles import Tiled


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def prior() -> vision.GradientStepEnergy:
    torch.manual_seed(0)
    return vision.GradientStepEnergy(1, widths=(8, 12), blocks=1).double()


def test_a_level_may_be_a_number() -> None:
    x, level = images(1, 8, 12), torch.tensor(0.1)
    for energy in (prior(), Symmetric(prior()), Tiled(prior()), Guided(prior(), prior().given(1))):
        torch.testing.assert_close(energy.given(0.1)(x), energy.given(level)(x))


WAYS = [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]
LEVELS = [torch.tensor(0.1), torch.tensor([0.05, 0.2]), 0.05 + 0.2 * images(2, 1, 8, 12)]


@pytest.mark.parametrize("way", WAYS)
def test_turning_back_undoes_a_turn(way: tuple[int, bool]) -> None:
    x = images(2, 3, 4, 5)
    assert torch.equal(turned_back(turned(x, *way), *way), x)


@pytest.mark.parametrize("way", WAYS)
def test_the_energy_of_a_turned_image_is_the_images(way: tuple[int, bool]) -> None:
    energy, x = Symmetric(prior()), images(2, 1, 8, 12)
    level = LEVELS[2]
    value, gradient = energy.given(level).value_and_gradient(x)
    there, slope = energy.given(turned(level, *way)).value_and_gradient(turned(x, *way))
    torch.testing.assert_close(there, value)
    torch.testing.assert_close(turned_back(slope, *way), gradient)


@pytest.mark.parametrize("level", LEVELS, ids=["one", "each", "map"])
@pytest.mark.parametrize("symmetries", [1, 2, 4, 8])
def test_it_is_the_mean_and_has_its_gradient(symmetries: int, level: torch.Tensor) -> None:
    x = images(2, 1, 8, 12).requires_grad_()
    energy = Symmetric(prior(), symmetries).given(level.double())
    value, gradient = energy.value_and_gradient(x)
    assert value.shape == (2,)
    torch.testing.assert_close(energy(x), value)
    torch.testing.assert_close(torch.autograd.grad(energy(x).sum(), x)[0], gradient)
    if symmetries == 2:
        is_map = level.ndim == 4
        other = prior().given(level.flip(-1) if is_map else level)(x.flip(-1))
        torch.testing.assert_close(value, (prior().given(level)(x) + other) / 2)


def test_it_is_no_energy_of_its_own_with_one() -> None:
    x = images(1, 1, 8, 8)
    torch.testing.assert_close(
        Symmetric(prior(), 1).given(LEVELS[0])(x), prior().given(LEVELS[0])(x)
    )


def test_it_denoises_better_than_what_it_averages() -> None:
    clean = torch.from_numpy(grey(96, 128).astype("float32") / 255)[None]
    y = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    shipped = vision.pretrained("gray")
    errors = [
        (vision.denoise(y.clamp(0, 1), 0.1, prior=one) - clean).square().mean()
        for one in (shipped, Symmetric(shipped), Symmetric(Tiled(shipped, 64), 8))
    ]
    assert errors[1] < 0.995 * errors[0]
    assert errors[2] < 0.995 * errors[0]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="expected symmetries of"):
        Symmetric(prior(), 3)
    with pytest.raises(TypeError, match="conditional"):
        Symmetric(prior())(images(1, 1, 8, 8))
