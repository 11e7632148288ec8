"""Image energies: shapes, sizes, what their gradient denoises to, and learning to denoise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebrl import schedules, vision
from ebrl.energies import Energy
from ebrl.kernels import ULA
from ebrl.objectives.protocol import Objective
from ebrl.sampling import Sampler, noise_path
from ebrl.training import RunningClip, fit
from ebrl.vision.networks import NoisyImageEnergy
from ebrl.vision.objectives import WhiteNoise

HEADS = [vision.GradientStepEnergy, vision.SumEnergy]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(head: type[NoisyImageEnergy], channels: int = 1) -> NoisyImageEnergy:
    torch.manual_seed(0)
    return head(channels, widths=(8, 12), blocks=1)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 1, 17, 23), (2, 3, 1, 9, 8)])
def test_one_number_an_image_of_any_size(head: type[NoisyImageEnergy], shape: tuple) -> None:
    energy = tiny(head).given(torch.tensor(0.1))
    y = torch.rand(shape, generator=generator())
    value, gradient = energy.value_and_gradient(y)
    assert value.shape == shape[:-3]
    assert gradient.shape == shape


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_is_that_of_the_energy(head: type[NoisyImageEnergy]) -> None:
    energy = tiny(head).double().given(torch.tensor(0.1, dtype=torch.float64))
    y = torch.rand(1, 1, 6, 5, dtype=torch.float64, generator=generator(), requires_grad=True)
    assert torch.autograd.gradcheck(energy, y)
    assert torch.autograd.gradgradcheck(energy, y, atol=1e-4)  # what score matching descends


@pytest.mark.parametrize("head", HEADS)
def test_a_level_for_each_image_and_a_map_say_the_same(head: type[NoisyImageEnergy]) -> None:
    energy = tiny(head)
    y = torch.rand(3, 1, 8, 8, generator=generator())
    levels = torch.tensor([0.05, 0.1, 0.2])
    separate = torch.stack([energy.given(s)(x) for x, s in zip(y, levels, strict=True)])
    torch.testing.assert_close(energy.given(levels)(y), separate)
    maps = levels.view(3, 1, 1, 1).expand(3, 1, 8, 8)
    torch.testing.assert_close(energy.given(maps)(y), separate)


def test_particles_of_an_image_share_its_level() -> None:
    energy, levels = tiny(vision.SumEnergy), torch.tensor([0.05, 0.2])
    y = torch.rand(2, 4, 1, 8, 8, generator=generator())  # 4 particles an image
    expected = torch.stack([energy.given(levels[i])(y[i]) for i in range(2)])
    torch.testing.assert_close(energy.given(levels)(y), expected)


def test_what_no_energy_is_for_is_refused() -> None:
    energy = tiny(vision.GradientStepEnergy)
    with pytest.raises(TypeError, match=r"given\(sigma\)"):
        energy(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="1, height, width"):
        energy.given(torch.tensor(0.1))(torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match="leading batch axes"):
        energy.given(torch.tensor([0.1, 0.2]))(torch.rand(3, 1, 8, 8))
    with pytest.raises(ValueError, match="positive"):
        vision.GradientStepEnergy(1, widths=(8, 0))
    with pytest.raises(ValueError, match="low <= high"):
        WhiteNoise(0.2, 0.1)
    with pytest.raises(TypeError, match="plain=0"):
        vision.Denoising(plain=1)(
            tiny(vision.SumEnergy), torch.rand(2, 1, 8, 8), generator=generator()
        )
    with pytest.raises(TypeError, match="expected no condition"):
        vision.Denoising()(
            tiny(vision.SumEnergy), torch.rand(2, 1, 8, 8), torch.ones(2), generator=generator()
        )


class Blobs(torch.utils.data.Dataset[Tensor]):
    """Images of one brightness each, in which averaging is all that there is to learn."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((1, 8, 8), 0.2 + 0.6 * index / 64)


def trained(head: type[NoisyImageEnergy], objective: Objective, steps: int) -> Energy:
    return fit(
        tiny(head),
        Blobs(),
        objective,
        steps=steps,
        generator=generator(),
        batch_size=16,
        learning_rate=3e-3,
        schedule=schedules.cosine,
        clip=RunningClip(1.5),
    ).average


@pytest.mark.parametrize(
    ("head", "plain"),
    [
        (HEADS[0], 200),
        pytest.param(HEADS[0], 0, marks=pytest.mark.slow),
        pytest.param(HEADS[1], 0, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_of_a_trained_energy_denoises(
    head: type[NoisyImageEnergy], plain: int
) -> None:
    noise = WhiteNoise(0.1, 0.2)
    energy = trained(head, vision.Denoising(noise, plain), 300)
    x = torch.stack([Blobs()[i] for i in range(0, 64, 4)])
    sigma = torch.full((len(x),), 0.15)
    y = x + 0.15 * torch.randn(x.shape, generator=generator(1))
    error = (vision.denoised(energy, y, sigma) - x).square().mean().sqrt()
    assert error < 0.1  # of .15: more than half of the noise's power is gone


def test_the_sampler_that_picks_actions_denoises_and_generates() -> None:
    """The very class, kernel and path: annealed Langevin on a trained image energy."""
    energy = trained(vision.SumEnergy, vision.Denoising(WhiteNoise(0.05, 0.5)), 250)
    levels = schedules.geometric(0.5, 0.05, 8)
    sampler = Sampler(ULA(), steps=1)
    start = 0.5 + 0.5 * torch.randn(16, 1, 8, 8, generator=generator(2))
    stages = noise_path(energy, levels, steps=20, step_size=0.3 * 0.05**2)
    x = sampler.anneal(stages, start, generator=generator(3)).x
    assert x.flatten(1).std(1).mean() < 0.2  # nearly flat, as the data are; the start has .5
    assert 0.1 < x.mean() < 0.9
