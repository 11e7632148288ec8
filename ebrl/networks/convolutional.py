"""Trainable energies of images `(*batch, channels, height, width)`, of any size and batch axes.

Both end in a sum over places, so that one network serves every size of image. Activations are
smooth, for the sake of gradients that samplers and score matching can follow, and nothing
normalises over the batch, whose members must not see each other. Weights are stored channels last,
the order in which convolutions are fastest.

Noise-conditional networks take `given(sigma)`, a noise level for each image, `(*leading batch,)`,
aligned from the left: the energy of images already blurred by noise of that deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product

import torch
from torch import Tensor, nn

from ebrl.energies import Energy
from ebrl.networks.slopes import Slope, known_slope, run
from ebrl.networks.workspace import Workspace


class ImageEnergy(Energy):
    """What the image energies share: batch axes, the number of channels, the noise level.

    Under noise σ the network N sees `x / r` with `r² = σ² + data_deviation²` and log σ, and the
    energy is `(r / σ) N`, so that inputs and gradients of N stay of order 1 at every level, as the
    score, of order 1/σ, does not. Raises `ValueError` for sizes and deviations that are not
    positive.
    """

    event_ndim = 3

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        *,
        noise_conditional: bool,
        data_deviation: float,
    ):
        super().__init__()
        if channels < 1 or not widths or min(widths) < 1 or not data_deviation > 0:
            raise ValueError(
                "expected channels, every width and data_deviation to be positive, got "
                f"{channels=}, {widths=}, {data_deviation=}"
            )
        self.channels, self.data_deviation = channels, data_deviation
        self.features = NoiseFeatures(widths[0]) if noise_conditional else None
        self.head = nn.Conv2d(widths[-1], 1, 1)

    def hidden(self, x: Tensor, features: Tensor | None) -> Tensor:
        """Return what the head reads, `(n, widths[-1], …)`, from `x: (n, channels, …)`."""
        raise NotImplementedError(f"{type(self).__name__} defines no hidden(x, features)")

    @property
    def takes_condition(self) -> bool:
        return self.features is not None

    def given(self, condition: Tensor) -> Energy:
        if not self.takes_condition:
            return super().given(condition)
        return NoisyImageEnergy(self, condition)

    def forward(self, x: Tensor) -> Tensor:
        if self.takes_condition:
            raise TypeError("this energy is conditional: call energy.given(sigma) first")
        return self.at(x, None)

    def images(self, x: Tensor) -> Tensor:
        """Return x with one batch axis, or raise `ValueError` for what are no such images."""
        if x.ndim < 3 or x.shape[-3] != self.channels:
            raise ValueError(
                f"expected x of shape (*batch, {self.channels}, height, width), "
                f"got {tuple(x.shape)}"
            )
        return x.reshape(-1, *x.shape[-3:])

    def at(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        """Return the energy `(*batch,)` of x under noise `sigma: (*batch,)`, or under none."""
        images = self.images(x)
        if sigma is None or self.features is None:
            return self.head(self.hidden(images, None)).sum((1, 2, 3)).view(x.shape[:-3])
        sigma = sigma.reshape(-1)
        radius = (sigma.square() + self.data_deviation**2).sqrt()
        hidden = self.hidden(images / radius.view(-1, 1, 1, 1), self.features(sigma.log()))
        return (radius / sigma * self.head(hidden).sum((1, 2, 3))).view(x.shape[:-3])


class NoisyImageEnergy(Energy):
    """An image energy at noise level `sigma`, `(*leading batch,)` or `(*batch, 1)`."""

    event_ndim = 3

    def __init__(self, network: ImageEnergy, sigma: Tensor):
        super().__init__()
        self.network, self.sigma = network, sigma

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[:-3]
        sigma = self.sigma.squeeze(-1) if self.sigma.shape == (*batch, 1) else self.sigma
        if sigma.numel() != 1 and batch[: sigma.ndim] != sigma.shape:
            raise ValueError(
                "expected a noise level for each of the leading batch axes of x, got sigma of "
                f"shape {tuple(sigma.shape)} for x of shape {tuple(x.shape)}"
            )
        aligned = () if sigma.numel() == 1 else (*sigma.shape, *(1,) * (len(batch) - sigma.ndim))
        return self.network.at(x, sigma.to(x).reshape(aligned).expand(batch))


class ConvEnergy(ImageEnergy):
    """A plain convolutional network: one 3x3 convolution a width, halving the image between them.

    Raises `ValueError` as `ImageEnergy` does.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 128),
        *,
        noise_conditional: bool = False,
        data_deviation: float = 0.5,
        activation: type[nn.Module] = nn.SiLU,
    ):
        super().__init__(
            channels, widths, noise_conditional=noise_conditional, data_deviation=data_deviation
        )
        self.activation = activation()
        sizes = pairwise([channels, *widths])
        self.layers = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=1 if layer == 0 else 2, padding=1)
            for layer, (i, o) in enumerate(sizes)
        )
        self.modulations = modulations(widths, widths[0] if noise_conditional else 0)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.workspace = Workspace()

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and gradient, without a noise level by hand where the slope is known."""
        slope = known_slope(self.activation, x.device)
        if torch.compiler.is_compiling() or self.takes_condition or slope is None:
            return super().value_and_gradient(x)
        with torch.no_grad():
            value, gradient = self._value_and_gradient(self.images(x), slope)
        return value.view(x.shape[:-3]), gradient.view(x.shape)

    def _value_and_gradient(self, x: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
        """Return energies `(n,)` and gradients, the shape of `x: (n, channels, height, width)`."""
        outputs, kept = [x], []
        for k, layer in enumerate(self.layers):
            sums = layer(outputs[-1])  # (n, width, …), the activations from the next line on
            spare = sums if slope.of_output else self.workspace.like(sums, k)
            run(slope.activate(sums, spare))
            kept.append(spare)
            outputs.append(sums)
        value = self.head(outputs[-1]).sum((1, 2, 3))
        back = slope.through(self.head.weight, kept[-1], kept[-1])()
        for k in range(len(kept) - 1, 0, -1):
            back = _input_gradient(self.layers[k], outputs[k], back)
            back = slope.through(back, kept[k - 1], back)()
        return value, _image_gradient(self.layers[0], back)

    def hidden(self, x: Tensor, features: Tensor | None) -> Tensor:
        for layer, modulation in zip(self.layers, self.modulations, strict=True):
            x = self.activation(modulate(layer(x), modulation, features))
        return x


def _image_gradient(layer: nn.Module, back: Tensor) -> Tensor:
    """Return the gradient `(n, channels, height, width)` at the first convolution's input.

    By a product and one shifted sum for each of the kernel's taps, for a convolution of stride 1
    that keeps the size: of few channels, as images have, the library's backward is several times as
    slow. `back` is `(n, width, height, width)`.
    """
    assert isinstance(layer, nn.Conv2d)
    weight = layer.weight  # (width, channels, 3, 3)
    n, width, *size = back.shape
    rows = back.permute(0, 2, 3, 1).reshape(-1, width)  # a view of what is channels last
    taps = torch.mm(weight.permute(1, 2, 3, 0).reshape(-1, width), rows.mT)
    taps = taps.view(*weight.shape[1:], n, *size)
    padded = taps.new_zeros(weight.shape[1], n, size[0] + 2, size[1] + 2)
    for i, j in product(range(3), repeat=2):
        padded[:, :, i : i + size[0], j : j + size[1]] += taps[:, i, j]
    return padded[:, :, 1:-1, 1:-1].transpose(0, 1)


def _input_gradient(layer: nn.Module, x: Tensor, back: Tensor) -> Tensor:
    """Return the gradient at a convolution's input x from that at its output."""
    assert isinstance(layer, nn.Conv2d)
    how = (layer.stride, layer.padding, layer.dilation, False, [0, 0], layer.groups)
    wanted = [True, False, False]
    return torch.ops.aten.convolution_backward(back, x, layer.weight, None, *how, wanted)[0]


class ResNetEnergy(ImageEnergy):
    """A residual network: `blocks` blocks a width, halving the image between widths.

    Branches start a tenth of their size, which stands in for the normalisation that there is none
    of. Raises `ValueError` as `ImageEnergy` does, and for fewer than one block.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (64, 128, 256),
        blocks: int = 2,
        *,
        noise_conditional: bool = False,
        data_deviation: float = 0.5,
        activation: type[nn.Module] = nn.SiLU,
    ):
        super().__init__(
            channels, widths, noise_conditional=noise_conditional, data_deviation=data_deviation
        )
        if blocks < 1:
            raise ValueError(f"expected at least one block a width, got {blocks=}")
        features = widths[0] if noise_conditional else 0
        self.activation = activation()
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.halvings = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairwise(widths)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width, features, activation) for _ in range(blocks))
            for width in widths
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def hidden(self, x: Tensor, features: Tensor | None) -> Tensor:
        x = self.stem(x)
        for halving, stage in zip([nn.Identity(), *self.halvings], self.stages, strict=True):
            x = halving(x)
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, features)
        return self.activation(x)


class ResidualBlock(nn.Module):
    """`x + conv(act(modulated conv(act(x))))`."""

    def __init__(self, width: int, features: int, activation: type[nn.Module]):
        super().__init__()
        self.activation = activation()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        (self.modulation,) = modulations([width], features)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor, features: Tensor | None) -> Tensor:
        h = modulate(self.first(self.activation(x)), self.modulation, features)
        return x + self.second(self.activation(h))


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


def modulations(widths: Sequence[int], features: int) -> nn.ModuleList:
    """Return for each width what makes scale and shift of the features; nothing without any."""
    return nn.ModuleList(
        nn.Linear(features, 2 * width) if features else nn.Identity() for width in widths
    )


def modulate(x: Tensor, modulation: nn.Module, features: Tensor | None) -> Tensor:
    """Scale and shift the channels by what the features say (Perez et al. 2018)."""
    if features is None:
        return x
    scale, shift = modulation(features).unsqueeze(-1).unsqueeze(-1).chunk(2, 1)
    return torch.addcmul(shift, x, 1 + scale)
