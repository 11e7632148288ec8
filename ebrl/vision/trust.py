"""How far a classifier can be trusted: its calibration, and whether it knows what it never saw."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_specificity_at_sensitivity,
    multiclass_calibration_error,
)

from ebrl.energies.classifier import as_labels

ACCEPTED = 0.95  # of the things that belong, at the threshold of `false_positives`


class Reliability(NamedTuple):
    """What a classifier's probabilities were worth on labelled data."""

    accuracy: float
    calibration_error: float  # mean |accuracy - confidence| over the bins, by their shares
    log_loss: float  # nats; the mean of -log p(y|x)


class Detection(NamedTuple):
    """How well a score tells what belongs from what does not."""

    auroc: float  # the chance that something that belongs scores higher; half of it for ties
    false_positives: float  # the part of what does not belong that passes with 95 % of what does


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Judge logits `(n, classes)` by labels `(n,)`, of an integer type.

    The expected calibration error is that of Guo et al. 2017, in as many bins of equal width.
    Raises `ValueError` for shapes that do not fit, no rows, and labels that are no classes.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(logits):
        raise ValueError(
            "expected logits (n, classes) and a label for each, n > 0, got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    labels = as_labels(labels, logits)
    error = multiclass_calibration_error(logits.softmax(1), labels, logits.shape[1], bins)
    accuracy = (logits.argmax(1) == labels).float().mean()
    return Reliability(float(accuracy), float(error), float(F.cross_entropy(logits, labels)))


def detection(inside: Tensor, outside: Tensor) -> Detection:
    """Judge a score, high for what belongs, by scores of things that do and of things that do not.

    Of a classifier: `-energy(x)`, the log density up to a constant, or `confidence(logits)`. Raises
    `ValueError` for scores that are not `(n,)` and `(m,)`, none, or NaN.
    """
    if inside.ndim != 1 or outside.ndim != 1 or not len(inside) or not len(outside):
        raise ValueError(
            "expected scores (n,) and (m,), neither empty, got shapes "
            f"{tuple(inside.shape)} and {tuple(outside.shape)}"
        )
    scores = torch.cat([inside, outside])
    if scores.isnan().any():
        raise ValueError("expected scores that are numbers, got NaN")
    # Ranks, for torchmetrics takes numbers beyond [0, 1] for logits, whose sigmoid makes ties.
    ranks = scores.unique(return_inverse=True)[1].double() / len(scores)
    belongs = torch.cat([torch.ones_like(inside), torch.zeros_like(outside)]).long()
    specificity, _ = binary_specificity_at_sensitivity(ranks, belongs, ACCEPTED)
    return Detection(float(binary_auroc(ranks, belongs)), 1 - float(specificity))


def confidence(logits: Tensor) -> Tensor:
    """Return the largest of the probabilities, `(n,)` (Hendrycks and Gimpel 2017)."""
    return logits.softmax(-1).amax(-1)
