"""Images from noise: along the levels of an energy, from almost all noise to almost none.

    made = generate(prior, 64, (1, 28, 28), generator=generator)
    made = generate(prior, 64, (1, 28, 28), generator=generator, corrector=Sampler(MALA(), steps=2))

The corrector is the core's sampler, on the energy itself: its acceptance is evidence that only an
explicit energy can give. Classes and completion are algebra, too: an energy of clean images, such
as a classifier's or an observation's, is added to the prior at every level (`Guided`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl import schedules
from ebrl.energies import Energy, align_left, over_event
from ebrl.sampling import Sampler
from ebrl.sampling.sampler import Stage
from ebrl.vision.denoising import tweedie

CORRECTOR_STEP = 0.15  # of the level squared: near MALA's best for some hundred pixels


class GeneratedImages(NamedTuple):
    """Images, and how the correctors fared at each level; NaN where there was none."""

    x: Tensor  # (n, channels, height, width)
    acceptance: Tensor  # (levels,)


class Reached(NamedTuple):
    """Images on their way, with the noise of a level on them still."""

    x: Tensor  # (n, channels, height, width)
    acceptance: Tensor  # (), of the correctors there


class Guided(Energy):
    """`prior.given(σ) + guide(D)`: the guide is asked about `D = x - σ² ∇E(x, σ)`, x denoised.

    A guide knows clean images, not noise: at high levels it judges the mean of what x may become,
    and its pull goes through the denoiser, by what of x is still open (Chung et al. 2023, DPS).
    As the level falls to 0 this becomes `prior + guide`.

    The guide of a measurement, an `Observation` of noise `noise`, is told as well that D is not yet
    sure: it counts `s²/(s² + r²)` with `1/r² = 1/σ² + 1/spread²` (Song et al. 2023, ΠGDM). That is
    exact for Gaussian images of deviation `spread` in every direction. In some direction pictures
    differ many times as much as at one pixel: infinity is safe and listens late, and .5 served
    Fashion-MNIST best. Raises `ValueError` for a noise or a spread that is not positive.
    """

    event_ndim = 3

    def __init__(
        self, prior: Energy, guide: Energy, noise: float = math.inf, spread: float = math.inf
    ):
        super().__init__()
        if not (noise > 0 and spread > 0):
            raise ValueError(f"expected noise > 0 and spread > 0, got {noise=}, {spread=}")
        self.prior, self.guide, self.noise, self.spread = prior, guide, noise, spread

    @property
    def takes_condition(self) -> bool:
        return True

    def given(self, condition: Tensor) -> Energy:
        return GuidedAt(self, condition)

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
    corrector_step: float = CORRECTOR_STEP,
) -> GeneratedImages:
    """Draw `n` images: Heun's method on the path without noise, correctors after every step.

    What is left of the noise at the last level is taken away at once. All images go together:
    draw thousands in several calls. Raises `ValueError` for levels that do not fall.
    """
    levels = (generation_levels() if levels is None else levels).to(generator.device)
    acceptance = []
    for reached in descend(prior, n, shape, levels, corrector, corrector_step, generator=generator):
        acceptance.append(reached.acceptance)
    return GeneratedImages(tweedie(prior, reached.x, levels[-1]), torch.stack(acceptance))


def descend(
    prior: Energy,
    n: int,
    shape: tuple[int, int, int],
    levels: Tensor,
    corrector: Sampler | None = None,
    corrector_step: float = CORRECTOR_STEP,
    *,
    generator: torch.Generator,
) -> Iterator[Reached]:
    """Yield the images at each of the falling levels, beginning with noise at the first.

    The path is the probability flow, `dx/dσ = σ ∇E(x, σ)` (Karras et al. 2022, algorithm 1). A
    corrector's step size is `corrector_step` times the level squared.
    """
    if len(levels) < 2 or not (levels.diff() < 0).all() or not (levels > 0).all():
        raise ValueError(f"expected positive levels that fall, got {levels.tolist()}")
    x = 0.5 + levels[0] * torch.randn(n, *shape, generator=generator, device=generator.device)
    none = x.new_tensor(torch.nan)
    yield Reached(x, none)
    for level, following in pairwise(levels):
        x, acceptance = heun(prior, x, level, following), none
        if corrector is not None:
            step_size = corrector_step * float(following) ** 2
            stage = Stage(prior.given(following), corrector.steps, step_size)
            corrected = corrector.anneal([stage], x, generator=generator)
            x, acceptance = corrected.x, corrected.info.acceptance.mean()
        yield Reached(x, acceptance)


def heun(prior: Energy, x: Tensor, level: Tensor, following: Tensor) -> Tensor:
    """Return x carried from one level to the following one by Heun's second-order step."""
    slope = (x - tweedie(prior, x, level)) / level
    ahead = x + (following - level) * slope
    slope_ahead = (ahead - tweedie(prior, ahead, following)) / following
    return x + (following - level) * 0.5 * (slope + slope_ahead)
