"""Moves of a sampler at one level of a path of images, which correct the path's own error."""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.energies import Energy
from ebrl.sampling import Sampler
from ebrl.sampling.paths import Stage


def corrected(
    corrector: Sampler | None,
    energy: Energy,
    x: Tensor,
    step_size: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return images x moved by the corrector, and its mean acceptance, 0-dim; NaN without one."""
    if corrector is None:
        return x, x.new_tensor(torch.nan)
    stage = Stage(energy, corrector.steps, step_size, corrector.temperature)
    samples = corrector.anneal([stage], x, generator=generator)
    return samples.x, samples.info.acceptance.mean()
