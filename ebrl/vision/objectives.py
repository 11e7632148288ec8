"""Learning to denoise: the noise that images are given, and the loss of what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebrl.energies import Energy
from ebrl.kernels.protocol import normal_like
from ebrl.objectives.protocol import Loss
from ebrl.objectives.score_matching import gradient_with_graph
from ebrl.vision.networks import GradientStepEnergy


class Noisy(NamedTuple):
    """Images with noise, and the deviation of the noise that a model is told."""

    images: Tensor  # (n, channels, height, width)
    sigma: Tensor  # (n, 1, height, width), or (n, 1, 1, 1)


class WhiteNoise:
    """Gaussian noise, independent at every pixel, of a level for each image, uniform in a range.

    Raises `ValueError` unless 0 < low <= high. Levels are in the units of the images.
    """

    def __init__(self, low: float = 5 / 255, high: float = 55 / 255):
        if not 0 < low <= high:
            raise ValueError(f"expected 0 < low <= high, got {low=}, {high=}")
        self.low, self.high = low, high

    def __call__(self, x: Tensor, generator: torch.Generator) -> Noisy:
        level = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)
        sigma = level.uniform_(self.low, self.high, generator=generator)
        return Noisy(torch.addcmul(x, sigma, normal_like(x, generator)), sigma)


class Denoising(nn.Module):
    """Half the squared error of `y - σ² ∇E(y, σ)`, over sigma: denoising score matching.

    (Vincent 2011, section 4.3, weighted by σ: the error grows about as σ does, and every level
    counts alike.) For its first `plain` steps it trains the denoiser inside a gradient-step energy
    instead, which takes no double backward and a third of the time. Raises `TypeError` for `plain`
    steps of an energy that holds no denoiser.
    """

    taken: Tensor

    def __init__(
        self,
        noise: Callable[[Tensor, torch.Generator], Noisy] | None = None,
        plain: int = 0,
    ):
        super().__init__()
        self.noise, self.plain = noise or WhiteNoise(), plain
        self.register_buffer("taken", torch.tensor(0))  # stays on the host, to be read there

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        y, sigma = self.noise(x, generator)
        if self.taken < self.plain:
            denoised = _denoiser(energy).plain(y, sigma)
        else:
            at_noise = energy.given(sigma.expand(len(x), 1, *x.shape[2:]))
            y, gradient = gradient_with_graph(at_noise, y)
            denoised = y.detach() - sigma.square() * gradient
        self.taken += 1
        error = (denoised - x).square()
        psnr = -10 * error.detach().mean((1, 2, 3)).log10().mean()
        return Loss(0.5 * (error / sigma).mean(), {"psnr": psnr})


def _denoiser(energy: Energy) -> GradientStepEnergy:
    if not isinstance(energy, GradientStepEnergy):
        raise TypeError(
            f"expected a GradientStepEnergy for plain steps, got {type(energy).__name__}: pass "
            "plain=0 to train through the gradient from the start"
        )
    return energy
