"""Images from noise, along falling noise levels of an energy.

    made = generate(prior, 64, (1, 28, 28), generator=generator)
    made = generate(prior, 64, (1, 28, 28), generator=generator, corrector=Sampler(MALA(), steps=2))

A corrector is a sampler of the energy at each level; its acceptance rate is evidence that only an
explicit energy can give. An energy of clean images, such as a classifier's or an observation's, can
be added to the prior at every level (`Guided`): for classes, and for completion.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl import schedules
from ebrl.energies import Energy, align_left, over_event
from ebrl.ranges import check_at_least
from ebrl.sampling import Sampler
from ebrl.sampling.run import Progress
from ebrl.vision.correctors import corrected
from ebrl.vision.denoising import tweedie
from ebrl.vision.networks import ANY_LEVEL
from ebrl.vision.noise import check_levels

CORRECTOR_STEP = 0.15  # of the level squared: near MALA's best for some hundred pixels


class GeneratedImages(NamedTuple):
    """Images that were generated."""

    x: Tensor  # (n, channels, height, width)
    acceptance: Tensor  # (levels,), of the correctors; NaN without one


class Guided(Energy):
    """`prior.given(σ) + guide(D)`, with the guide at the denoised image `D = x - σ² ∇E(x, σ)`.

    A guide is an energy of clean images. At high levels it judges the posterior mean of x, and its
    gradient passes through the denoiser (Chung et al. 2023, DPS). As the level falls to 0, the sum
    becomes `prior + guide`.

    The energy of a measurement is weighted by `s²/(s² + r²)` with `1/r² = 1/σ² + 1/spread²`, which
    accounts for the uncertainty of D (Song et al. 2023, ΠGDM). That is exact for Gaussian images of
    standard deviation `spread` in every direction.

    Args:
        prior: The conditional energy of images.
        guide: The energy of clean images.
        noise: Standard deviation s of a measurement; infinity for other guides.
        spread: Standard deviation of images. Infinity is conservative: guidance acts only at low
            noise. .5 was best for Fashion-MNIST.

    Raises:
        ValueError: For a noise or a spread that is not positive.
    """

    event_ndim = 3
    takes_condition = True

    def __init__(
        self, prior: Energy, guide: Energy, noise: float = math.inf, spread: float = math.inf
    ):
        super().__init__()
        if not (noise > 0 and spread > 0):
            raise ValueError(f"expected noise > 0 and spread > 0, got {noise=}, {spread=}")
        self.prior, self.guide, self.noise, self.spread = prior, guide, noise, spread
        self.levels = getattr(prior, "levels", ANY_LEVEL)

    def given(self, condition: Tensor) -> Energy:
        return GuidedAt(self, torch.as_tensor(condition))

    def forward(self, x: Tensor) -> Tensor:
        raise TypeError("this energy is conditional: call energy.given(sigma) first")


class GuidedAt(Energy):
    """A guided energy at noise sigma, `(*leading batch,)`."""

    event_ndim = 3

    def __init__(self, guided: Guided, sigma: Tensor):
        super().__init__()
        self.prior, self.guide, self.sigma = guided.prior.given(sigma), guided.guide, sigma
        unsure = 1 / (1 / sigma.square() + guided.spread**-2)
        self.weight = 1 / (1 + unsure / guided.noise**2)

    def forward(self, x: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            y = x if wanted and x.requires_grad else x.detach().requires_grad_()
            value = self.prior(y)
            (gradient,) = torch.autograd.grad(value.sum(), y, create_graph=True)
            variance = over_event(align_left(self.sigma, value.ndim), 3) ** 2
            guided = value + align_left(self.weight, value.ndim) * self.guide(
                y - variance * gradient
            )
        return guided if wanted else guided.detach()


def generation_levels(first: float = 20.0, last: float = 0.005, rungs: int = 18) -> Tensor:
    """Return the levels `(rungs,)` of Karras et al. 2022, equation 5, for images in [0, 1]."""
    return schedules.karras(first, last, rungs)


def generate(
    prior: Energy,
    n: int,
    shape: tuple[int, int, int],
    *,
    generator: torch.Generator,
    levels: Tensor | None = None,
    corrector: Sampler | None = None,
    progress: Progress | None = None,
) -> GeneratedImages:
    """Generate images: Heun's method on the probability flow, with correctors after each step.

    The flow is `dx/dσ = σ ∇E(x, σ)` (Karras et al. 2022, algorithm 1). The remaining noise at the
    last level is removed by one denoising step. All images are one batch: generate thousands in
    several calls.

    Args:
        prior: An energy of images that takes a sigma.
        n: Number of images.
        shape: Shape of an image, `(channels, height, width)`.
        generator: Source of the noise; its device is used.
        levels: Noise levels `(levels,)` that fall; `generation_levels()` by default.
        corrector: A sampler that moves the images at each level, with its own kernel, number of
            steps and temperature. Its step size is .15 of the level squared.
        progress: Called with the number of levels reached so far and in total.

    Raises:
        ValueError: For levels that do not fall or begin above those that the prior knows, and for
            fewer than one image.
    """
    check_at_least(1, n=n)
    levels = (generation_levels() if levels is None else levels).to(generator.device)
    check_levels(levels)
    _, highest = getattr(prior, "levels", ANY_LEVEL)
    if levels[0] > highest:
        raise ValueError(
            f"expected a prior of every level of the path, which starts at {levels[0]:.3g}, got "
            f"one that knows noise up to {highest:.3g}: pass a DiffusionEnergy, or levels within"
        )
    x = 0.5 + levels[0] * torch.randn(n, *shape, generator=generator, device=generator.device)
    acceptance = [x.new_tensor(torch.nan)]
    for level, following in pairwise(levels):
        x = heun(prior, x, level, following)
        step_size = CORRECTOR_STEP * float(following) ** 2
        x, accepted = corrected(corrector, prior.given(following), x, step_size, generator)
        acceptance.append(accepted)
        if progress is not None:
            progress(len(acceptance), len(levels))
    return GeneratedImages(tweedie(prior, x, levels[-1]), torch.stack(acceptance))


def heun(prior: Energy, x: Tensor, level: Tensor, following: Tensor) -> Tensor:
    """Return x carried from one level to the following one by Heun's second-order step."""
    slope = (x - tweedie(prior, x, level)) / level
    ahead = x + (following - level) * slope
    slope_ahead = (ahead - tweedie(prior, ahead, following)) / following
    return x + (following - level) * 0.5 * (slope + slope_ahead)
