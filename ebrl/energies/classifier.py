"""A classifier is an energy (Grathwohl et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebrl.energies.energy import Energy


class ClassifierEnergy(Energy):
    """`E(x) = -log Σ_y exp logit_y(x)`; `given(label)` is `E(x, y) = -logit_y(x)`.

    The classifier maps `(n, *event)` to logits `(n, classes)`. The softmax of -E(x, ·) is still its
    class probabilities. `event_ndim` is 3 for images, 1 for vectors.
    """

    takes_condition = True

    def __init__(self, classifier: nn.Module, event_ndim: int = 3):
        super().__init__()
        self.classifier, self.event_ndim = classifier, event_ndim

    def logits(self, x: Tensor) -> Tensor:
        """Return `(*batch, classes)`; `ValueError` where the classifier gives other shapes."""
        batch = x.shape[: x.ndim - self.event_ndim]
        rows = x.reshape(-1, *x.shape[len(batch) :])
        logits = self.classifier(rows)
        if logits.ndim != 2 or len(logits) != len(rows):
            raise ValueError(
                f"expected the classifier to give logits of shape ({len(rows)}, classes), "
                f"got {tuple(logits.shape)}"
            )
        return logits.view(*batch, logits.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return -self.logits(x).logsumexp(-1)

    def given(self, condition: Tensor) -> Energy:
        """Return the energy of x given the label, integers `(*leading batch,)`."""
        return LabelledEnergy(self, as_integers(condition))


class LabelledEnergy(Energy):
    """`-logit_y(x)` for labels `y: (*leading batch,)`."""

    label: Tensor

    def __init__(self, energy: ClassifierEnergy, label: Tensor):
        super().__init__()
        self.energy, self.event_ndim = energy, energy.event_ndim
        self.register_buffer("label", label, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.energy.logits(x)
        batch = logits.shape[:-1]
        if batch[: self.label.ndim] != self.label.shape:
            raise ValueError(
                "expected a label for each of the leading batch axes of x, got labels of shape "
                f"{tuple(self.label.shape)} for x of shape {tuple(x.shape)}"
            )
        label = as_labels(self.label, logits)
        label = label.reshape(*label.shape, *(1,) * (logits.ndim - label.ndim))
        return -logits.gather(-1, label.expand(*batch, 1)).squeeze(-1)


def as_labels(label: Tensor, logits: Tensor) -> Tensor:
    """Return labels as `int64`; `ValueError` unless each is a class of `logits: (*batch, classes)`.

    On a GPU no value is read, and the lookup itself fails for a label that is no class.
    """
    label, classes = as_integers(label), logits.shape[-1]
    if label.device.type == "cpu" and label.numel() and not torch.compiler.is_compiling():
        low, high = map(int, label.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"expected labels from 0 to {classes - 1}, got {low} to {high}")
    return label


def as_integers(label: Tensor) -> Tensor:
    """Return labels as `int64`; `ValueError` for numbers that are not of an integer type."""
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise ValueError(f"expected labels of an integer type, got {label.dtype}")
    return label.long()
