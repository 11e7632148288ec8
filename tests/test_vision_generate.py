"""Generation against a law that is known at every level: a Gaussian's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebrl.energies import Energy, FunctionEnergy
from ebrl.kernels import MALA, ULA
from ebrl.paths import noise_path
from ebrl.sampler import Sampler
from ebrl.vision.generation import Guided, generate, generation_levels, heun

MEAN, DEVIATION, SHAPE, N = 0.4, 0.2, (1, 2, 2), 5_000


class GaussianImages(Energy):
    """Pixels of N(mean, deviation²), each for itself; blurred, of variance deviation² + σ²."""

    event_ndim = 3

    @property
    def takes_condition(self) -> bool:
        return True

    def given(self, condition: Tensor) -> Energy:
        variance = DEVIATION**2 + condition.square()
        return FunctionEnergy(
            lambda x: ((x - MEAN).square() / (2 * variance)).sum((-3, -2, -1)), event_ndim=3
        )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_moments(x: Tensor, mean: float, deviation: float) -> None:
    """Within four standard errors."""
    count = x.numel()
    assert abs(float(x.mean()) - mean) < 4 * deviation / count**0.5
    assert abs(float(x.std()) - deviation) < 4 * deviation / (2 * count) ** 0.5


def test_the_path_without_noise_ends_in_the_law() -> None:
    levels = generation_levels(rungs=60)
    made = generate(GaussianImages(), N, SHAPE, generator=generator(), levels=levels)
    assert made.x.shape == (N, *SHAPE)
    assert made.acceptance.isnan().all()
    # One pass of denoising at the last level, .005, takes away next to nothing.
    assert_moments(made.x, MEAN, DEVIATION)


def test_a_step_of_heun_is_of_second_order() -> None:
    x, prior = 0.5 + 2 * torch.randn(50, *SHAPE, generator=generator()), GaussianImages()

    def carried(level: float, following: float) -> Tensor:  # exactly
        ratio = ((DEVIATION**2 + following**2) / (DEVIATION**2 + level**2)) ** 0.5
        return MEAN + ratio * (x - MEAN)

    errors = []
    for width in (0.1, 0.05):
        ends = torch.tensor(0.5), torch.tensor(0.5 - width)
        errors.append((heun(prior, x, *ends) - carried(0.5, 0.5 - width)).abs().max())
    assert 6 < errors[0] / errors[1] < 10  # of third order in one step


def test_correctors_repair_a_coarse_path_and_tell_their_acceptance() -> None:
    levels = generation_levels(1.0, 0.02, 6)
    corrector = Sampler(MALA(), steps=30)
    made = generate(
        GaussianImages(), N, SHAPE, generator=generator(), levels=levels, corrector=corrector
    )
    assert made.acceptance[0].isnan()
    assert ((made.acceptance[1:] > 0.5) & (made.acceptance[1:] <= 1)).all()
    coarse = generate(GaussianImages(), N, SHAPE, generator=generator(), levels=levels)
    assert abs(made.x.std() - DEVIATION) < 0.5 * abs(coarse.x.std() - DEVIATION)


def test_the_core_anneals_to_the_same_law() -> None:
    levels = generation_levels(1.0, 0.02, 10)
    start = 0.5 + torch.randn(N, *SHAPE, generator=generator())
    stages = noise_path(GaussianImages(), levels, steps=200, step_size=0.3 * 0.02**2)
    x = Sampler(ULA(), steps=1).anneal(stages, start, generator=generator(1)).x
    assert abs(x.mean() - MEAN) < 0.02
    assert abs(x.std() - DEVIATION) < 0.02


def test_a_guide_shifts_the_law_as_the_product_of_experts() -> None:
    guide = FunctionEnergy(lambda x: ((x - 1).square() / (2 * 0.2**2)).sum((-3, -2, -1)), 3)
    levels = generation_levels(1.0, 0.02, 8)
    made = generate(
        Guided(GaussianImages(), guide),
        N,
        SHAPE,
        generator=generator(),
        levels=levels,
        corrector=Sampler(MALA(), steps=60),
    )
    assert abs(made.x.mean() - 0.7) < 0.02  # precisions 1/.2² each
    assert abs(made.x.std() - 0.2 / 2**0.5) < 0.02


def test_levels_that_do_not_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="that fall"):
        generate(GaussianImages(), 1, SHAPE, generator=generator(), levels=torch.tensor([0.1, 0.2]))
    with pytest.raises(TypeError, match=r"given\(sigma\)"):
        Guided(GaussianImages(), GaussianImages())(torch.zeros(SHAPE))
