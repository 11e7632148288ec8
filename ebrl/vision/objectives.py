"""Learning to denoise: the noise of the training images, and denoising score matching."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ebrl.energies import Energy
from ebrl.kernels.draws import normal_like
from ebrl.objectives.protocol import Loss, Objective
from ebrl.objectives.score_matching import gradient_with_graph
from ebrl.vision.networks import GradientStepEnergy


class Noisy(NamedTuple):
    """Noisy images, and the standard deviation of their noise."""

    images: Tensor  # (n, channels, height, width)
    sigma: Tensor  # (n, 1, height, width), or (n, 1, 1, 1)


class Noise(Protocol):
    """A distribution of noise, and the weight of each level in the loss."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Noisy: ...

    def weight(self, sigma: Tensor) -> Tensor:
        """Return the weight of the squared error under noise sigma, of the same shape."""
        ...


class WhiteNoise:
    """Gaussian noise, independent at every pixel, with a random level for each image.

    Args:
        low: Lowest level, in the units of the images.
        high: Highest level.
        power: Levels are `low + (high - low) u^power` with u uniform in [0, 1]: at 1 uniform, above
            1 more often faint.

    Raises:
        ValueError: Unless 0 < low <= high and power > 0.
    """

    def __init__(self, low: float = 5 / 255, high: float = 55 / 255, power: float = 1.0):
        if not (0 < low <= high and power > 0):
            raise ValueError(
                f"expected 0 < low <= high and power > 0, got {low=}, {high=}, {power=}"
            )
        self.low, self.high, self.power = low, high, power

    def __call__(self, x: Tensor, generator: torch.Generator) -> Noisy:
        u = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)
        u = u.uniform_(generator=generator).pow_(self.power)
        sigma = self.low + (self.high - self.low) * u
        return Noisy(torch.addcmul(x, sigma, normal_like(x, generator)), sigma)

    def weight(self, sigma: Tensor) -> Tensor:
        """Return `1/σ`: the squared error grows about as σ, so that levels have equal weight."""
        return 1 / sigma


class CorrelatedNoise(WhiteNoise):
    """White noise that is blurred in some of the images, as by demosaicking and scaling.

    After the blur, the noise is scaled back to its level.

    Args:
        low: As in `WhiteNoise`.
        high: As in `WhiteNoise`.
        widest: Largest standard deviation of the Gaussian blur, in pixels; it is uniform from 0.
        share: Share of the images whose noise is blurred.
        power: As in `WhiteNoise`.

    Raises:
        ValueError: As `WhiteNoise`, for a share outside [0, 1], and unless 0 < widest <= 1.
    """

    def __init__(
        self,
        low: float = 5 / 255,
        high: float = 55 / 255,
        widest: float = 1.0,
        share: float = 0.5,
        power: float = 1.0,
    ):
        super().__init__(low, high, power)
        if not (0 < widest <= 1 and 0 <= share <= 1):
            raise ValueError(
                f"expected 0 < widest <= 1 and 0 <= share <= 1, got {widest=}, {share=}"
            )
        self.widest, self.share = widest, share

    def __call__(self, x: Tensor, generator: torch.Generator) -> Noisy:
        y, sigma = super().__call__(x, generator)
        width = torch.empty(2, len(x), dtype=x.dtype, device=x.device).uniform_(generator=generator)
        width = self.widest * width[0] * (width[1] < self.share)
        return Noisy(x + blurred(y - x, width), sigma)


def blurred(noise: Tensor, width: Tensor) -> Tensor:
    """Return white noise `(n, channels, height, width)`, blurred, with its variance unchanged.

    Args:
        noise: White noise.
        width: Standard deviations of the Gaussian kernels in pixels, `(n,)`, at most 1.
    """
    offsets = torch.arange(-3, 4, dtype=noise.dtype, device=noise.device)
    line = (offsets / width.clamp_min(1e-3).unsqueeze(1)).square().div(-2).exp()
    line = line / line.square().sum(1, keepdim=True).sqrt()  # (n, 7), of norm 1
    planes = noise.transpose(0, 1)  # (channels, n, height, width): a kernel for each image
    for _ in range(2):  # along one axis, then along the other
        joined = F.pad(planes, (3, 3, 0, 0), mode="circular")
        planes = F.conv2d(joined, line[:, None, None], groups=len(noise)).mT
    return planes.transpose(0, 1)


class LogNormalNoise:
    """Gaussian noise with a log-normal level for each image (Karras et al. 2022, table 1).

    Args:
        mean: Mean of the log of the level.
        deviation: Standard deviation of the log of the level.
        data_deviation: Standard deviation of the images, which sets the weight of each level.

    Raises:
        ValueError: For deviations that are not positive.
    """

    def __init__(self, mean: float = -1.7, deviation: float = 1.2, data_deviation: float = 0.35):
        if not (deviation > 0 and data_deviation > 0):
            raise ValueError(f"expected deviations > 0, got {deviation=}, {data_deviation=}")
        self.mean, self.deviation, self.data_deviation = mean, deviation, data_deviation

    def __call__(self, x: Tensor, generator: torch.Generator) -> Noisy:
        level = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)
        sigma = level.log_normal_(self.mean, self.deviation, generator=generator)
        return Noisy(torch.addcmul(x, sigma, normal_like(x, generator)), sigma)

    def weight(self, sigma: Tensor) -> Tensor:
        """Return the weight of the squared error, of sigma's shape."""
        return 1 / sigma.square() + 1 / self.data_deviation**2


class Denoising(nn.Module, Objective):
    """Denoising score matching: half the weighted squared error of `y - σ² ∇E(y, σ)`.

    Source: Vincent 2011, section 4.3.

    Args:
        noise: Distribution of the noise, and the weight of each level.
        plain: Number of first steps that train the denoiser inside a gradient-step energy instead:
            without second derivatives, in a third of the time.

    Raises:
        TypeError: For a condition, and for plain steps of an energy that holds no denoiser.
    """

    taken: Tensor

    def __init__(
        self,
        noise: Noise | None = None,
        plain: int = 0,
    ):
        super().__init__()
        self.noise, self.plain = noise or WhiteNoise(), plain
        self.register_buffer("taken", torch.tensor(0))

    def _apply(self, *arguments: Any) -> Denoising:
        """Move all but the count of steps, which the host reads."""
        taken = self.taken
        super()._apply(*arguments)
        self.taken = taken
        return self

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        if condition is not None:
            raise TypeError("denoising conditions on the noise alone: expected no condition")
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
        return Loss(0.5 * (self.noise.weight(sigma) * error).mean(), {"psnr": psnr})


def _denoiser(energy: Energy) -> GradientStepEnergy:
    if not isinstance(energy, GradientStepEnergy):
        raise TypeError(
            f"expected a GradientStepEnergy for plain steps, got {type(energy).__name__}: pass "
            "plain=0 to train through the gradient from the start"
        )
    return energy
