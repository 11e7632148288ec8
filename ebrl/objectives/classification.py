"""Classification: the label's law given x, and beside it the density of x itself.

A classifier's logits say two things (Grathwohl et al. 2020): their differences are
`log p(y|x)`, and their `log Σ_y exp` is `log p(x)` up to a constant. Cross-entropy sees the first
alone: it is the same for logits to which any function of x is added. A classifier's energy says
how likely x is only where an objective made it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebrl.energies import ClassifierEnergy, Energy, FunctionEnergy
from ebrl.energies.classifier import as_labels
from ebrl.objectives.protocol import Loss, Objective


class CrossEntropy(Objective):
    """`-log p(y|x)` in nats, of the softmax of `-E(x, ·)`; the condition is the label `(batch,)`.

    Raises `TypeError` for an energy that is no classifier's and where labels are missing,
    `ValueError` for labels that are no classes.
    """

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        logits = _classifier(energy).logits(x)  # (batch, classes)
        if condition is None:
            raise TypeError("cross-entropy needs a label for each x: pass it as the condition")
        if condition.shape != x.shape[:1]:
            raise ValueError(
                f"expected a label for each of {len(x)} rows, got shape {tuple(condition.shape)}"
            )
        label = as_labels(condition, logits)
        accuracy = (logits.detach().argmax(-1) == label).to(x).mean()
        return Loss(F.cross_entropy(logits, label), {"accuracy": accuracy})


class JointClassification(nn.Module, Objective):
    """`-log p(y|x)` plus `weight` times what `density` says of `E(x) = -log Σ_y exp logit_y(x)`.

    `density` is any objective for data without labels: contrastive divergence makes it JEM
    (Grathwohl et al. 2020, equation 4, whose weight is 1), denoising score matching is cheaper and
    has no chains that could fail, for an energy of the data blurred by its sigma. The condition is
    the label `(batch,)`. Raises `ValueError` for a weight that is not positive, and what
    `CrossEntropy` raises.
    """

    def __init__(self, density: Objective, weight: float = 1.0):
        super().__init__()
        if not 0 < weight < math.inf:
            raise ValueError(f"expected a weight > 0, got {weight}")
        self.density, self.weight = density, weight
        self.law = CrossEntropy()

    def forward(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        law, metrics = self.law(energy, x, condition, generator=generator)
        marginal = FunctionEnergy(energy, energy.event_ndim)  # it takes no condition
        density, more = self.density(marginal, x, generator=generator)
        parts = {"cross_entropy": law.detach(), "density_loss": density.detach()}
        return Loss(law + self.weight * density, {**parts, **metrics, **more})


def _classifier(energy: Energy) -> ClassifierEnergy:
    if not isinstance(energy, ClassifierEnergy):
        raise TypeError(f"expected a ClassifierEnergy, got {type(energy).__name__}")
    return energy
