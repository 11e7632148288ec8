"""A classifier of images, which is an energy of them, too, and whose features compare images.

energy = ClassifierEnergy(ImageClassifier())
energy(x)                                # -log Σ_y exp logit_y(x)
energy.classifier.features(x)            # (n, 64)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebrl.vision.networks import MIDDLE


class ImageClassifier(nn.Module):
    """A small convolutional network from images `(n, channels, size, size)` in [0, 1] to logits.

    One 3x3 convolution a width, each followed by a halving of the resolution; then a linear layer
    to the features, and one to the logits `(n, classes)`. Everything is smooth (SiLU, average
    pooling), because samplers and score matching follow its gradients.

    Args:
        channels: Channels of the images.
        size: Pixels a side of the images.
        classes: Number of classes.
        widths: Channels of the convolutions.
        features: Number of features.

    Raises:
        ValueError: For images with other channels or another size, and for sizes that are not
            positive.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        widths: Sequence[int] = (32, 64, 64),
        features: int = 64,
    ):
        super().__init__()
        if min(channels, size, classes, features, *widths) < 1:
            raise ValueError(
                "expected channels, size, classes, features and every width to be positive, got "
                f"{channels=}, {size=}, {classes=}, {features=}, {widths=}"
            )
        self.event = (channels, size, size)
        self.layers = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise([channels, *widths])
        )
        places = (-(-size // 2 ** len(widths))) ** 2  # a side is halved and rounded up
        self.compress = nn.Linear(widths[-1] * places, features)
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the inputs of the last, linear layer, `(n, features)`."""
        if x.ndim != 4 or x.shape[1:] != self.event:
            raise ValueError(
                f"expected images of shape (n, {', '.join(map(str, self.event))}), got "
                f"{tuple(x.shape)}"
            )
        # Convolutions on the CPU read channels-last memory without a copy.
        h = (2 * (x - MIDDLE)).contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            h = F.avg_pool2d(F.silu(layer(h)), 2, ceil_mode=True)
        return F.silu(self.compress(h.flatten(1))).to(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).to(x)
