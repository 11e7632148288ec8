"""Generation against a law that is known at every level: a Gaussian's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ebrl.energies import ClassifierEnergy, Energy, FunctionEnergy
from ebrl.kernels import MALA, ULA
from ebrl.sampling import Sampler, noise_path
from ebrl.vision.generation import Guided, generate, generation_levels, heun
from ebrl.vision.networks import GradientStepEnergy
from ebrl.vision.observations import Masked

MEAN, DEVIATION, SHAPE, N = 0.4, 0.2, (1, 2, 2), 5_000


class GaussianImages(Energy):
    """Pixels of N(mean, deviation²), each for itself; blurred, of variance deviation² + σ²."""

    event_ndim = 3
    takes_condition = True

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


def test_a_corrector_moves_at_its_temperature() -> None:
    levels, cold = generation_levels(1.0, 0.02, 6), Sampler(ULA(), steps=30, temperature=0.0)
    made = generate(
        GaussianImages(), N, SHAPE, generator=generator(), levels=levels, corrector=cold
    )
    assert made.x.std() < 0.1 * DEVIATION  # it descends to the mean


def test_the_core_anneals_to_the_same_law() -> None:
    levels = generation_levels(1.0, 0.02, 10)
    start = 0.5 + torch.randn(N, *SHAPE, generator=generator())
    stages = noise_path(GaussianImages(), levels, steps=200, step_size=0.3 * 0.02**2)
    x = Sampler(ULA(), steps=1).anneal(stages, start, generator=generator(1)).x
    assert abs(x.mean() - MEAN) < 0.02
    assert abs(x.std() - DEVIATION) < 0.02


def test_a_guide_is_asked_about_the_clean_image() -> None:
    """At every level the energy is `E(x, σ) + G(D)` and D the Gaussian's own mean given x."""
    guide = FunctionEnergy(lambda x: ((x - 1).square() / (2 * 0.2**2)).sum((-3, -2, -1)), 3)
    x, level = torch.randn(7, *SHAPE, generator=generator()), torch.tensor(0.3)
    guided = Guided(GaussianImages(), guide).given(level)
    kept = DEVIATION**2 / (DEVIATION**2 + level**2)
    expected = GaussianImages().given(level)(x) + guide(MEAN + kept * (x - MEAN))
    value, gradient = guided.value_and_gradient(x)
    torch.testing.assert_close(value, expected)
    with torch.no_grad():
        torch.testing.assert_close(guided(x), expected)
    slope = (x - MEAN) / (DEVIATION**2 + level**2)
    pull = kept * (MEAN + kept * (x - MEAN) - 1) / 0.2**2
    torch.testing.assert_close(gradient, slope + pull)


def test_a_guide_shifts_the_law_as_the_product_of_experts() -> None:
    guide = FunctionEnergy(lambda x: ((x - 1).square() / (2 * 0.2**2)).sum((-3, -2, -1)), 3)
    made = generate(
        Guided(GaussianImages(), guide),
        N,
        SHAPE,
        generator=generator(),
        levels=generation_levels(1.0, 0.02, 8),
        corrector=Sampler(MALA(), steps=60),
    )
    assert abs(made.x.mean() - 0.7) < 0.02  # precisions 1/.2² each
    assert abs(made.x.std() - 0.2 / 2**0.5) < 0.02


def test_a_measurement_leaves_the_posterior_without_correctors() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    y, noise = torch.full(SHAPE, 0.8), 0.15
    guided = Guided(GaussianImages(), Masked(y, mask, noise), noise=noise, spread=DEVIATION)
    made = generate(guided, N, SHAPE, generator=generator(), levels=generation_levels(rungs=60))
    precision = 1 / DEVIATION**2 + 1 / noise**2
    mean = (MEAN / DEVIATION**2 + 0.8 / noise**2) / precision
    assert_moments(made.x[..., mask], mean, precision**-0.5)
    assert_moments(made.x[..., ~mask], MEAN, DEVIATION)


def test_a_measurement_of_images_of_unknown_spread_needs_correctors() -> None:
    mask, noise = torch.ones(2, 2), 0.15
    observation = Masked(torch.full(SHAPE, 0.8), mask, noise)
    levels, corrector = generation_levels(1.0, 0.02, 8), Sampler(MALA(), steps=60)
    made = generate(
        Guided(GaussianImages(), observation, noise=noise),
        N,
        SHAPE,
        generator=generator(),
        levels=levels,
        corrector=corrector,
    )
    precision = 1 / DEVIATION**2 + 1 / noise**2
    assert abs(made.x.mean() - (MEAN / DEVIATION**2 + 0.8 / noise**2) / precision) < 0.02
    assert abs(made.x.std() - precision**-0.5) < 0.02


class TwoClasses(nn.Module):
    """Logits of dark and bright images, `± steepness Σ (x - .5)`."""

    def forward(self, x: Tensor) -> Tensor:
        bright = 4 * (x - 0.5).sum((1, 2, 3))
        return torch.stack([-bright, bright], 1)


def test_a_classifiers_energy_makes_its_class() -> None:
    classes = ClassifierEnergy(TwoClasses())
    label = torch.tensor([0, 1]).repeat(N // 2)
    # -log p(y|x): the classifier's own density, which subtracts out, is no wish.
    guided = Guided(GaussianImages(), classes.given(label) - classes)
    made = generate(
        guided,
        N,
        SHAPE,
        generator=generator(),
        levels=generation_levels(1.0, 0.02, 8),
        corrector=Sampler(MALA(), steps=30),
    )
    # By weights of exact draws of the prior: E[x w] / E[w] with w = p(bright | x).
    x = MEAN + DEVIATION * torch.randn(400_000, *SHAPE, generator=generator(1))
    total, bright = x.sum((1, 2, 3)), classes.logits(x).softmax(1)[:, 1]
    expected = (total * bright).mean() / bright.mean()
    found = made.x[label == 1].sum((1, 2, 3))
    # The levels are few and end above 0: a tenth of the shift from the prior's mean is theirs.
    assert abs(found.mean() - expected) < 0.1 * (expected - total.mean())
    assert (classes.logits(made.x).argmax(1) == label).float().mean() > 0.75


def test_fewer_than_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="expected n >= 1, got 0"):
        generate(GaussianImages(), 0, SHAPE, generator=generator())


def test_levels_that_do_not_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="that fall"):
        generate(GaussianImages(), 1, SHAPE, generator=generator(), levels=torch.tensor([0.1, 0.2]))
    with pytest.raises(TypeError, match=r"given\(sigma\)"):
        Guided(GaussianImages(), GaussianImages())(torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="noise > 0"):
        Guided(GaussianImages(), GaussianImages(), noise=0.0)


def test_a_prior_that_knows_too_little_noise_for_the_path_is_refused() -> None:
    prior = GradientStepEnergy(1, widths=(4,), blocks=1, levels=(0.0, 0.3))
    for energy in (prior, Guided(prior, prior.given(torch.tensor(0.1)))):
        with pytest.raises(ValueError, match=r"starts at 20, got one that knows noise up to 0\.3"):
            generate(energy, 1, (1, 8, 8), generator=generator())
    within = generation_levels(0.3, 0.1, 3)
    assert generate(prior, 1, (1, 8, 8), generator=generator(), levels=within).x.shape[0] == 1
