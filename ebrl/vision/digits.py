"""The 8x8 digits that come with scikit-learn: 1,797 images of handwriting, no download."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch.utils.data import TensorDataset

TEST = 597  # images of the test split


def images(split: str = "train") -> TensorDataset:
    """Return images `(n, 1, 8, 8)` in [0, 1], without their labels."""
    return TensorDataset(labelled(split)[0])


def labelled(split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Return images `(n, 1, 8, 8)` in [0, 1] and labels `(n,)`: 1,200 for `train`, 597 for `test`.

    Raises:
        ValueError: For another split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"expected the split 'train' or 'test', got {split!r}")
    pixels, label = load_digits(return_X_y=True)
    # The data are sorted by writer: shuffled, both splits have all writers.
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    chosen = order[:TEST] if split == "test" else order[TEST:]
    x = torch.from_numpy(pixels).float().div_(16).view(-1, 1, 8, 8)
    return x[chosen], torch.from_numpy(label).long()[chosen]
