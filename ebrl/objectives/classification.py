"""Classification: the label's law given x, and beside it the density of x itself.

A classifier's logits say two things (Grathwohl et al. 2020): their differences are
`log p(y|x)`, and their `log Σ_y exp` is `log p(x)` up to a constant. Cross-entropy sees the first
alone: it is the same for logits to which any function of x is added.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ebrl.classifier import ClassifierEnergy, expect_labels
from ebrl.energies import Energy
from ebrl.objectives.protocol import Loss


class CrossEntropy:
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
        label = expect_labels(condition, logits)
        accuracy = (logits.detach().argmax(-1) == label).to(x).mean()
        return Loss(F.cross_entropy(logits, label), {"accuracy": accuracy})


def _classifier(energy: Energy) -> ClassifierEnergy:
    if not isinstance(energy, ClassifierEnergy):
        raise TypeError(f"expected a ClassifierEnergy, got {type(energy).__name__}")
    return energy
