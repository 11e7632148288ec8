"""Images from noise: along the levels of an energy, from almost all noise to almost none.

    made = generate(prior, 64, (1, 28, 28), generator=generator)
    made = generate(prior, 64, (1, 28, 28), generator=generator, corrector=Sampler(MALA(), steps=2))

The corrector is the core's sampler, on the energy itself: its acceptance is evidence that only an
explicit energy can give. Guidance and completion are algebra: an energy of clean images, such as a
classifier's or an observation's, is added to the prior at every level (`Guided`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl import schedules
from ebrl.energies import Energy, Sum
from ebrl.sampler import Sampler, Stage
from ebrl.vision.denoising import denoised


class Generated(NamedTuple):
    """Images, and how the correctors fared at each level; NaN where there was none."""

    x: Tensor  # (n, channels, height, width)
    acceptance: Tensor  # (levels,)


class Guided(Energy):
    """`prior.given(sigma) + guide`, at every sigma: the product of two experts.

    The guide is an energy of clean images and is asked about noisy ones: what it says at high
    levels is as good as it knows noise.
    """

    event_ndim = 3

    def __init__(self, prior: Energy, guide: Energy):
        super().__init__()
        self.prior, self.guide = prior, guide

    @property
    def takes_condition(self) -> bool:
        return True

    def given(self, condition: Tensor) -> Energy:
        return Sum([self.prior.given(condition), self.guide])

    def forward(self, x: Tensor) -> Tensor:
        raise TypeError("this energy is conditional: call energy.given(sigma) first")


def generation_levels(first: float = 10.0, last: float = 0.005, rungs: int = 18) -> Tensor:
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
    corrector_step: float = 0.3,
) -> Generated:
    """Draw `n` images: Heun's method on the path without noise, correctors after every step.

    The path is the probability flow, `dx/dσ = σ ∇E(x, σ)` (Karras et al. 2022, algorithm 1); what
    is left of the noise at the last level is then taken away at once. A corrector's step size is
    `corrector_step` times the level squared. Raises `ValueError` for levels that do not fall.
    """
    levels = (generation_levels() if levels is None else levels).to(generator.device)
    if len(levels) < 2 or not (levels.diff() < 0).all() or not (levels > 0).all():
        raise ValueError(f"expected positive levels that fall, got {levels.tolist()}")
    x = 0.5 + levels[0] * torch.randn(n, *shape, generator=generator, device=generator.device)
    acceptance = [x.new_tensor(torch.nan)]
    for level, following in pairwise(levels):
        x = heun(prior, x, level, following)
        accepted = x.new_tensor(torch.nan)
        if corrector is not None:
            step_size = corrector_step * float(following) ** 2
            stage = Stage(prior.given(following), corrector.steps, step_size)
            corrected = corrector.anneal([stage], x, generator=generator)
            x, accepted = corrected.x, corrected.info.acceptance.mean()
        acceptance.append(accepted)
    return Generated(denoised(prior, x, levels[-1]), torch.stack(acceptance))


def heun(prior: Energy, x: Tensor, level: Tensor, following: Tensor) -> Tensor:
    """Return x carried from one level to the following one by Heun's second-order step."""
    slope = (x - denoised(prior, x, level)) / level
    ahead = x + (following - level) * slope
    slope_ahead = (ahead - denoised(prior, ahead, following)) / following
    return x + (following - level) * 0.5 * (slope + slope_ahead)
