"""Convolutional energies of images `(*batch, channels, height, width)` of any size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ebrl.energies import Energy


class ConvEnergy(Energy):
    """A plain convolutional network: one 3x3 convolution for each width, halving the image between.

    The output is summed over all positions, so that one network serves images of every size. There
    is no batch normalisation, which would couple the images. The weights are in the layout channels
    last, which is fastest. `ebrl.vision` has the networks for noisy images.

    Args:
        widths: Output channels of each convolution.
        activation: A class such as `nn.SiLU`, smooth for samplers and score matching.

    Raises:
        ValueError: For sizes that are not positive.
    """

    event_ndim = 3

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 128),
        *,
        activation: type[nn.Module] = nn.SiLU,
    ):
        super().__init__()
        if channels < 1 or not widths or min(widths) < 1:
            raise ValueError(
                f"expected channels and every width to be positive, got {channels=}, {widths=}"
            )
        self.channels, self.activation = channels, activation()
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=1 if layer == 0 else 2, padding=1)
            for layer, (inputs, outputs) in enumerate(pairwise([channels, *widths]))
        )
        self.head = nn.Conv2d(widths[-1], 1, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[-3] != self.channels:
            raise ValueError(
                f"expected x of shape (*batch, {self.channels}, height, width), "
                f"got {tuple(x.shape)}"
            )
        h = x.reshape(-1, *x.shape[-3:])  # (n, channels, height, width)
        for layer in self.layers:
            h = self.activation(layer(h))
        return self.head(h).sum((1, 2, 3)).view(x.shape[:-3])
