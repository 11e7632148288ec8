"""Classification: the distribution of the label given x, and beside it the density of x itself.

A classifier's logits say two things (Grathwohl et al. 2020): their differences are `log p(y|x)`,
and their `log Σ_y exp` is `log p(x)` up to a constant. Cross-entropy trains only the first: it does
not change when a function of x is added to all logits. The classifier's energy says how likely x is
only where an objective for the density has trained it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ebrl.energies import ClassifierEnergy, Energy, FunctionEnergy
from ebrl.energies.classifier import as_labels
from ebrl.objectives.protocol import Loss, Objective
from ebrl.ranges import check_positive


class CrossEntropy(nn.Module, Objective):
    """`-log p(y|x)` in nats, of the softmax of `-E(x, ·)`; the condition is the label `(batch,)`.

    Raises:
        TypeError: If the energy is not a `ClassifierEnergy`, or the labels are missing.
        ValueError: If a label is not one of the classes.
    """

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        if not isinstance(energy, ClassifierEnergy):
            raise TypeError(f"expected a ClassifierEnergy, got {type(energy).__name__}")
        if condition is None:
            raise TypeError("cross-entropy needs a label for each x: pass it as the condition")
        if condition.shape != x.shape[:1]:
            raise ValueError(
                f"expected a label for each of {len(x)} rows, got shape {tuple(condition.shape)}"
            )
        logits = energy.logits(x)  # (batch, classes)
        label = as_labels(condition, logits)
        accuracy = (logits.detach().argmax(-1) == label).to(x).mean()
        return Loss(F.cross_entropy(logits, label), {"accuracy": accuracy})


class JointClassification(nn.Module, Objective):
    """`-log p(y|x)` plus `weight` times the loss of `-log Σ_y exp logit_y(x)` under `density`.

    Args:
        density: Any objective for data without labels. Contrastive divergence makes it JEM
            (Grathwohl et al. 2020, equation 4, with weight 1). Denoising score matching costs less
            and has no chains that could fail; its energy is that of the data blurred by its sigma.

    Errors are those of `CrossEntropy`.
    """

    def __init__(self, density: Objective, weight: float = 1.0):
        super().__init__()
        check_positive(weight=weight)
        self.density, self.weight = density, weight
        self.classification = CrossEntropy()

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        label, metrics = self.classification(energy, x, condition, generator=generator)
        marginal = FunctionEnergy(energy, energy.event_ndim)  # takes no condition
        density, density_metrics = self.density(marginal, x, generator=generator)
        parts = {"cross_entropy": label.detach(), "density_loss": density.detach()}
        return Loss(label + self.weight * density, {**parts, **metrics, **density_metrics})
