"""How a set of images resembles another, in the features of a classifier that knows both.

    compare(made, real, vision.pretrained("fashion-classifier").classifier)

A distance alone does not tell what is wrong: precision and density say how much of what was made
could be real, recall and coverage how much of what is real was made. White noise can have high
precision; it has no recall. All depend on how many images are compared: say how many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

NEIGHBOURS = 5  # of Naeem et al. 2020
ROWS = 1_000  # images at once


class Features(Protocol):
    """A classifier, and the features that its logits are made of."""

    def features(self, x: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Neighbourhoods(NamedTuple):
    """How two sets of points overlap, by balls that reach to each point's k-th neighbour."""

    precision: float  # share of made points inside the ball of a real one
    recall: float  # share of real points inside the ball of a made one
    density: float  # mean number of real balls around a made point, over neighbours; may exceed 1
    coverage: float  # share of real points whose ball holds a made one


class Resemblance(NamedTuple):
    """What `compare` measures."""

    frechet: float  # Fréchet distance of the features, 0 for equal sets
    neighbourhoods: Neighbourhoods
    shares: tuple[float, ...]  # of the classes, as the classifier sees what was made


def compare(made: Tensor, real: Tensor, classifier: Features) -> Resemblance:
    """Compare images `(n, channels, height, width)` in [0, 1] in the classifier's features.

    Raises:
        ValueError: For sets too small to have neighbourhoods, and features that are not finite.
    """
    ours, theirs = (in_batches(classifier.features, images) for images in (made, real))
    overlap = neighbourhoods(ours, theirs)
    logits = in_batches(classifier, made)  # (n, classes)
    shares = logits.argmax(1).bincount(minlength=logits.shape[1]) / len(made)
    return Resemblance(frechet_distance(ours, theirs), overlap, tuple(shares.tolist()))


def frechet_distance(made: Tensor, real: Tensor) -> float:
    """Return `|m - m'|² + tr(C + C' - 2 √(C C'))` of two sets of features `(n, dimension)`.

    This is the squared Fréchet distance between Gaussians with the sets' moments (Heusel et al.
    2017); in the features of Inception it is called FID. Its bias falls as 1/n.

    Raises:
        ValueError: For fewer than two points, and features that are not finite.
    """
    if min(len(made), len(real)) < 2:
        raise ValueError(f"expected at least 2 points of each, got {len(made)} and {len(real)}")
    if not (made.isfinite().all() and real.isfinite().all()):
        raise ValueError("expected finite features, got some that are not: look at the images")
    made, real = made.double(), real.double()
    shift = (made.mean(0) - real.mean(0)).square().sum()
    covariances = made.T.cov(), real.T.cov()
    # The product of two positive semi-definite matrices has real eigenvalues, none negative.
    roots = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp_min(0).sqrt()
    return float(shift + covariances[0].trace() + covariances[1].trace() - 2 * roots.sum())


def neighbourhoods(made: Tensor, real: Tensor) -> Neighbourhoods:
    """Compare features `(n, dimension)` by balls that reach to each point's k-th nearest neighbour.

    Precision and recall of Kynkäänniemi et al. 2019, equation 1; density and coverage of Naeem et
    al. 2020, equations 5 and 6.

    Raises:
        ValueError: For sets of at most `NEIGHBOURS` points.
    """
    if min(len(made), len(real)) <= NEIGHBOURS:
        raise ValueError(
            f"expected more than {NEIGHBOURS} points of each, for as many neighbours, got "
            f"{len(made)} and {len(real)}"
        )
    made, real = made.double(), real.double()
    reach_real, reach_made = reach(real), reach(made)
    inside = made.new_zeros(len(made))
    covered, recalled = [], []
    for some, limit in zip(real.split(ROWS), reach_real.split(ROWS), strict=True):
        distance = torch.cdist(some, made)  # (rows, made)
        within = distance <= limit.unsqueeze(1)
        inside += within.sum(0)
        covered.append(within.any(1))
        recalled.append((distance <= reach_made).any(1))
    return Neighbourhoods(
        precision=float((inside > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(inside.mean() / NEIGHBOURS),
        coverage=float(torch.cat(covered).double().mean()),
    )


def reach(points: Tensor) -> Tensor:
    """Return the distance from each point of `(n, dimension)` to its k-th nearest neighbour."""
    k = NEIGHBOURS + 1  # each point is its own nearest
    distances = (torch.cdist(some, points) for some in points.split(ROWS))
    return torch.cat([each.kthvalue(k, 1).values for each in distances])


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the function of all images, evaluated in batches."""
    return torch.cat([function(some) for some in images.split(ROWS)])
