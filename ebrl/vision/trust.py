"""How far a classifier can be trusted: its calibration, and how well it detects foreign inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score, roc_curve  # type: ignore[import-untyped]
from torch import Tensor

from ebrl.energies.classifier import as_labels

ACCEPTED = 0.95  # share of in-distribution inputs accepted at the threshold of `false_positives`


class Reliability(NamedTuple):
    """The quality of a classifier's probabilities on labelled data."""

    accuracy: float
    calibration_error: float  # mean |accuracy - confidence| of the bins, weighted by their counts
    log_loss: float  # nats; the mean of -log p(y|x)


class Detection(NamedTuple):
    """How well a score separates in-distribution from out-of-distribution inputs."""

    auroc: float  # probability that an in-distribution input scores higher; ties count one half
    # Share of out-of-distribution inputs accepted along with 95 % of the others.
    false_positives: float


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Compute accuracy, expected calibration error and log loss.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)`, of an integer type.
        bins: Number of equally wide bins of confidence (Guo et al. 2017, equation 3).

    Raises:
        ValueError: For shapes that do not fit, no rows, or labels outside the classes.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(logits):
        raise ValueError(
            "expected logits (n, classes) and a label for each, n > 0, got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    labels = as_labels(labels, logits)
    correct = (logits.argmax(1) == labels).double()
    sure = confidence(logits).double()
    place = (sure * bins).ceil().long().sub(1).clamp(0, bins - 1)  # (n,), intervals (low, high]
    gaps = torch.zeros(bins, dtype=sure.dtype, device=sure.device)
    gaps.index_add_(0, place, correct - sure)
    log_loss = F.cross_entropy(logits, labels)
    return Reliability(
        float(correct.mean()), float(gaps.abs().sum() / len(logits)), float(log_loss)
    )


def detection(inside: Tensor, outside: Tensor) -> Detection:
    """Compute the area under the ROC curve, and the false positive rate at 95 % true positives.

    Args:
        inside: Scores `(n,)` of in-distribution inputs, such as `-energy(x)` or
            `confidence(logits)`; high means in-distribution.
        outside: Scores `(m,)` of out-of-distribution inputs.

    Raises:
        ValueError: For other shapes, no scores, or NaN.
    """
    if inside.ndim != 1 or outside.ndim != 1 or not len(inside) or not len(outside):
        raise ValueError(
            "expected scores (n,) and (m,), neither empty, got shapes "
            f"{tuple(inside.shape)} and {tuple(outside.shape)}"
        )
    scores = torch.cat([inside, outside]).detach().cpu().numpy()
    if (scores != scores).any():
        raise ValueError("expected scores that are numbers, got NaN")
    belongs = [1] * len(inside) + [0] * len(outside)
    false, true, _ = roc_curve(belongs, scores, drop_intermediate=False)
    return Detection(float(roc_auc_score(belongs, scores)), float(false[true >= ACCEPTED][0]))


def confidence(logits: Tensor) -> Tensor:
    """Return the largest class probability, `(n,)` (Hendrycks and Gimpel 2017)."""
    return logits.softmax(-1).amax(-1)
