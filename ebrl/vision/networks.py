"""Noise-conditional energies of images `(*batch, channels, height, width)`, of any size.

`energy.given(sigma)` is the energy of images already blurred by Gaussian noise of deviation sigma:
`p_σ(y) ∝ exp(-E(y, σ))`, so that `y - σ² ∇E(y, σ)` is the denoised image (Robbins 1956, Tweedie's
formula). Images lie in [0, 1] and sigma is in their units: a number for each image, aligned from
the left, or a map `(*batch, 1, height, width)` where each pixel has its own.

The two heads read one network. `GradientStepEnergy` trains more reliably and can start from a plain
denoiser; `SumEnergy` is the sum of a network's outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebrl.energies import Energy, align_left, over_event

FOLD = 2  # the network works on images folded so: a quarter of the places, four times the channels
MIDDLE = 0.5  # of the brightness of images in [0, 1]


class UNet(nn.Module):
    """A U-Net of residual blocks on folded images, from `(n, channels + 1, h, w)` to `(n, out, …)`.

    The extra channel is the log of the noise; with `features` its mean over the image modulates
    every block besides. Activations are smooth, for the sake of second derivatives, and nothing
    normalises: branches start a tenth of their size instead. Raises `ValueError` for sizes that are
    not positive.
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
    """What the heads share: shapes, sizes, the scale of what the network sees.

    `deviation` is that of the images' brightness. Raises `ValueError` for images of other channels
    and for a sigma that fits no image.
    """

    event_ndim = 3

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 96),
        blocks: int = 2,
        features: int = 0,
        deviation: float = 0.25,
    ):
        super().__init__()
        self.channels, self.deviation = channels, deviation
        self.network = UNet(channels, channels, widths, blocks, features)

    @property
    def takes_condition(self) -> bool:
        return True

    def given(self, condition: Tensor) -> Energy:
        return AtNoise(self, condition)

    def forward(self, x: Tensor) -> Tensor:
        raise TypeError("this energy is conditional: call energy.given(sigma) first")

    def at(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Return the energies `(n,)` of `(n, channels, h, w)` under noise `(n, 1, h, w)`."""
        raise NotImplementedError(f"{type(self).__name__} defines no at(images, sigma)")

    def outputs_at(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network says of images and noise, both scaled to order 1."""
        radius = (sigma.square() + self.deviation**2).sqrt()
        noise = (sigma / self.deviation).log().expand(-1, -1, *images.shape[2:])
        x = torch.cat([(images - MIDDLE) / radius, noise], 1)
        # Channels last is what the processor's matrix units read without a copy.
        x = x.to(self.network.head.weight.dtype, memory_format=torch.channels_last)
        return self.network(x).to(images)


class GradientStepEnergy(NoisyImageEnergy):
    """`|(y - N(y)) / σ|² / 2` with a denoiser `N(y) = y - σ U(y, σ)` (Hurault et al. 2022, eq. 4).

    The denoised image is N's, corrected by N's Jacobian: `N + J_Nᵀ (y - N)`.
    """

    def at(self, images: Tensor, sigma: Tensor) -> Tensor:
        return 0.5 * self.outputs_at(images, sigma).square().sum((1, 2, 3))

    def plain(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Return `N(y)`, the network's own denoised image: no gradient is needed."""
        return images - sigma * self.outputs_at(images, sigma)


class DiffusionEnergy(GradientStepEnergy):
    """The gradient-step energy of a denoiser for every level of noise, from none to all.

    `N(y) = c + s²/(s² + σ²) (y - c) + s σ/√(s² + σ²) U`: what U is to say stays of order 1 where σ
    is far larger or smaller than the images' deviation s (Karras et al. 2022, section 5).
    """

    def at(self, images: Tensor, sigma: Tensor) -> Tensor:
        return 0.5 * ((images - self.plain(images, sigma)) / sigma).square().sum((1, 2, 3))

    def plain(self, images: Tensor, sigma: Tensor) -> Tensor:
        squared = sigma.square() + self.deviation**2
        kept = self.deviation**2 / squared * (images - MIDDLE)
        said = self.deviation * sigma / squared.sqrt() * self.outputs_at(images, sigma)
        return MIDDLE + kept + said


class SumEnergy(NoisyImageEnergy):
    """`Σ (r / σ) U(y / r, σ)` over pixels, with `r² = σ² + deviation²`."""

    def at(self, images: Tensor, sigma: Tensor) -> Tensor:
        radius = (sigma.square() + self.deviation**2).sqrt()
        return (radius / sigma * self.outputs_at(images, sigma)).sum((1, 2, 3))


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
        images = x.reshape(-1, *x.shape[-3:])
        return self.energy.at(images, self._map(x)).view(x.shape[:-3])

    def _map(self, x: Tensor) -> Tensor:
        """Return the noise of every pixel, `(n, 1, height, width)`."""
        shape = (*x.shape[:-3], 1, *x.shape[-2:])
        sigma = torch.as_tensor(self.sigma).to(x)
        is_map = sigma.ndim >= 3 and sigma.shape[-2:] == x.shape[-2:]
        try:
            aligned = sigma if is_map else over_event(align_left(sigma, x.ndim - 3), 3)
            return aligned.expand(shape).reshape(-1, *shape[-3:])  # type: ignore[union-attr]
        except RuntimeError as error:
            raise ValueError(
                "expected a sigma for each of the leading batch axes, or a map (*batch, 1, height, "
                f"width), got sigma of shape {tuple(sigma.shape)} for images {tuple(x.shape)}"
            ) from error
