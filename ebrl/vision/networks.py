"""Noise-conditional energies of images `(*batch, channels, height, width)`, of any size.

`energy.given(sigma)` is the energy of images that carry Gaussian noise of standard deviation sigma:
`p_σ(y) ∝ exp(-E(y, σ))`. Tweedie's formula makes `y - σ² ∇E(y, σ)` the denoised image (Robbins
1956). Images lie in [0, 1] and sigma is in their units. Sigma is a number for each image, aligned
from the left, or a map `(*batch, 1, height, width)` with a number for each pixel.

The heads share one network. `GradientStepEnergy` trains more reliably and can start from a plain
denoiser; `SumEnergy` sums the outputs of the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebrl.energies import Energy, align_left, over_event

FOLD = 2  # pixel unshuffle: a quarter of the positions, four times the channels
MIDDLE = 0.5  # of the brightness of images in [0, 1]
ANY_LEVEL = (0.0, math.inf)


class UNet(nn.Module):
    """A U-Net of residual blocks on folded images.

    It maps `(n, channels + 1, height, width)` to `(n, out, height, width)`; the extra channel is
    the log of the noise level. Activations are smooth, because training needs second derivatives,
    and there is no normalisation: branches start at a tenth of their usual scale instead.

    Args:
        channels: Channels of the image, without the noise level.
        out: Channels of the output.
        widths: Channels at each scale; each scale halves the resolution.
        blocks: Residual blocks at each scale, on the way down and on the way up.
        features: Size of the embedding of the mean log noise level that modulates every block; 0
            for none.

    Raises:
        ValueError: For sizes that are not positive.
    """

    def __init__(
        self, channels: int, out: int, widths: Sequence[int], blocks: int, features: int = 0
    ):
        super().__init__()
        if min(channels, out, blocks, *widths) < 1:
            raise ValueError(
                "expected channels, out, blocks and every width to be positive, got "
                f"{channels=}, {out=}, {blocks=}, {widths=}"
            )
        self.multiple = FOLD * 2 ** (len(widths) - 1)
        self.stem = nn.Conv2d(FOLD**2 * (channels + 1), widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(i, o, 2, stride=2) for i, o in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(o, i, 2, stride=2) for i, o in pairwise(widths))
        self.features = NoiseFeatures(features) if features else None
        self.descent = nn.ModuleList(ResidualBlocks(width, blocks, features) for width in widths)
        self.ascent = nn.ModuleList(
            ResidualBlocks(width, blocks, features) for width in widths[:-1]
        )
        self.head = nn.Conv2d(widths[0], FOLD**2 * out, 3, padding=1)
        with torch.no_grad():
            self.head.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        level = None if self.features is None else self.features(x[:, -1].mean((1, 2)))
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        x = self.stem(F.pixel_unshuffle(x, FOLD))
        passed = []
        for blocks, down in zip(self.descent, [*self.down, None], strict=True):
            x = blocks(x, level)
            if down is not None:
                passed.append(x)
                x = down(x)
        for blocks, up, skip in zip(self.ascent[::-1], self.up[::-1], passed[::-1], strict=True):
            x = blocks(skip + up(x), level)
        return F.pixel_shuffle(self.head(x), FOLD)[..., :height, :width]


class ResidualBlocks(nn.ModuleList):
    """Residual blocks of one width, one after another."""

    def __init__(self, width: int, blocks: int, features: int):
        super().__init__(ResidualBlock(width, features) for _ in range(blocks))

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        for block in self:
            x = block(x, level)
        return x


class ResidualBlock(nn.Module):
    """`x + conv(silu(h))`, with h = conv(x) scaled and shifted by the noise (Perez et al. 2018)."""

    def __init__(self, width: int, features: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(features, 2 * width) if features else None
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        h = self.first(x)
        if self.modulation is not None:
            scale, shift = self.modulation(level)[..., None, None].chunk(2, 1)
            h = torch.addcmul(shift, h, 1 + scale)
        return x + self.second(F.silu(h))


class NoiseFeatures(nn.Module):
    """Features `(n, width)` of log noise levels `(n,)`: a small network on sines and cosines."""

    frequencies: Tensor

    def __init__(self, width: int, waves: int = 8):
        super().__init__()
        # From one wave over all levels in use to one over a factor of four.
        self.register_buffer("frequencies", math.pi * torch.logspace(-3.5, 0, waves, base=2))
        self.network = nn.Sequential(
            nn.Linear(2 * waves, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, log_sigma: Tensor) -> Tensor:
        angle = log_sigma.unsqueeze(-1) * self.frequencies
        return self.network(torch.cat([angle.sin(), angle.cos()], -1))


class NoisyImageEnergy(Energy):
    """Base of the heads: a U-Net, the scaling of its inputs, and the noise levels it knows.

    Outside of `levels` the energy is continued from the nearest level that the network knows.
    Below, the denoiser of the lowest level stays (its energy grows as 1/σ²). Beyond, the image's
    contrast is lowered until its noise is that of the highest level.

    Args:
        channels: Channels of the images.
        widths: As in `UNet`.
        blocks: As in `UNet`.
        features: As in `UNet`.
        deviation: Standard deviation of the images' brightness.
        levels: Lowest and highest noise level that the weights were trained for.

    Raises:
        ValueError: For images with other channels, a sigma that fits no image, or levels that are
            no interval.
    """

    event_ndim = 3
    takes_condition = True

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 96),
        blocks: int = 2,
        features: int = 0,
        deviation: float = 0.25,
        levels: tuple[float, float] = ANY_LEVEL,
    ):
        super().__init__()
        if not 0 <= levels[0] < levels[1]:
            raise ValueError(f"expected levels (low, high) with 0 <= low < high, got {levels}")
        self.channels, self.deviation, self.levels = channels, deviation, levels
        self.network = UNet(channels, channels, widths, blocks, features)

    def given(self, condition: Tensor) -> Energy:
        return AtNoise(self, condition)

    def in_bfloat16(self) -> NoisyImageEnergy:
        """Return a copy whose network computes in bfloat16: faster, off by hundredths of a dB."""
        copy = deepcopy(self)
        copy.network.bfloat16()
        return copy

    def forward(self, x: Tensor) -> Tensor:
        raise TypeError("this energy is conditional: call energy.given(sigma) first")

    def terms(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Return the terms of the energy, `(n, channels, h, w)`, whose sum is the image's energy.

        Args:
            images: `(n, channels, h, w)`.
            sigma: Noise level of each pixel, `(n, 1, h, w)`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no terms(images, sigma)")

    def outputs_at(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Return the network's output for images and noise, both scaled to order 1."""
        radius = (sigma.square() + self.deviation**2).sqrt()
        noise = (sigma / self.deviation).log().expand(-1, -1, *images.shape[2:])
        x = torch.cat([(images - MIDDLE) / radius, noise], 1)
        # Convolutions on the CPU read channels-last memory without a copy.
        x = x.to(self.network.head.weight.dtype, memory_format=torch.channels_last)
        return self.network(x).to(images)


class GradientStepEnergy(NoisyImageEnergy):
    """`|(y - N(y)) / σ|² / 2` with a denoiser `N(y) = y - σ U(y, σ)` (Hurault et al. 2022, eq. 4).

    The denoised image is N's, corrected by N's Jacobian: `N + J_Nᵀ (y - N)`.
    """

    def terms(self, images: Tensor, sigma: Tensor) -> Tensor:
        return 0.5 * self.outputs_at(images, sigma).square()

    def plain(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Return `N(y)`, the output of the inner denoiser, which needs no gradient."""
        return images - sigma * self.outputs_at(images, sigma)


class DiffusionEnergy(GradientStepEnergy):
    """The gradient-step energy of a denoiser for all noise levels, from none to pure noise.

    `N(y) = c + s²/(s² + σ²) (y - c) + s σ/√(s² + σ²) U` with the images' deviation s: the target of
    U stays of order 1 at every level (Karras et al. 2022, section 5).
    """

    def terms(self, images: Tensor, sigma: Tensor) -> Tensor:
        return 0.5 * ((images - self.plain(images, sigma)) / sigma).square()

    def plain(self, images: Tensor, sigma: Tensor) -> Tensor:
        squared = sigma.square() + self.deviation**2
        skipped = self.deviation**2 / squared * (images - MIDDLE)
        learnt = self.deviation * sigma / squared.sqrt() * self.outputs_at(images, sigma)
        return MIDDLE + skipped + learnt


class SumEnergy(NoisyImageEnergy):
    """`Σ (r / σ) U(y / r, σ)` over pixels, with `r² = σ² + deviation²`."""

    def terms(self, images: Tensor, sigma: Tensor) -> Tensor:
        radius = (sigma.square() + self.deviation**2).sqrt()
        return radius / sigma * self.outputs_at(images, sigma)


class AtNoise(Energy):
    """An image energy at noise sigma: `(*leading batch,)` or a map `(*batch, 1, height, width)`."""

    event_ndim = 3

    def __init__(self, energy: NoisyImageEnergy, sigma: Tensor):
        super().__init__()
        self.energy, self.sigma = energy, sigma

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[-3] != self.energy.channels:
            raise ValueError(
                f"expected images of shape (*batch, {self.energy.channels}, height, width), got "
                f"{tuple(x.shape)}"
            )
        images, sigma = x.reshape(-1, *x.shape[-3:]), self._map(x)
        known = sigma.clamp(*self.energy.levels)
        ratio = known / sigma  # above 1 below the known levels, below 1 beyond them
        lowered = MIDDLE + ratio.clamp(max=1) * (images - MIDDLE)
        terms = ratio.clamp(min=1).square() * self.energy.terms(lowered, known)
        return terms.sum((1, 2, 3)).view(x.shape[:-3])

    def _map(self, x: Tensor) -> Tensor:
        """Return the noise level of every pixel, `(n, 1, height, width)`."""
        shape = (*x.shape[:-3], 1, *x.shape[-2:])
        sigma = torch.as_tensor(self.sigma).to(x)
        try:
            return over_images(sigma, x).expand(shape).reshape(-1, *shape[-3:])
        except RuntimeError as error:
            raise ValueError(
                "expected a sigma for each of the leading batch axes, or a map (*batch, 1, height, "
                f"width), got sigma of shape {tuple(sigma.shape)} for images {tuple(x.shape)}"
            ) from error


def over_images(sigma: Tensor, x: Tensor) -> Tensor:
    """Return noise levels in a shape that broadcasts against images x.

    Args:
        sigma: `(*leading batch,)`, or a map `(*batch, 1, height, width)`, which stays as it is.
        x: `(*batch, channels, height, width)`.
    """
    if sigma.ndim >= 3 and sigma.shape[-2:] == x.shape[-2:]:
        return sigma
    aligned = over_event(align_left(sigma, x.ndim - 3), 3)
    return torch.as_tensor(aligned)
