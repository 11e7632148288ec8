"""The images of Fashion-MNIST, and of what else lies in a file like it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset


def images(path: str = "fashion_mnist/fashion_mnist.npz", split: str = "train") -> TensorDataset:
    """Return images `(n, 1, height, width)` in [0, 1]; labels are left out.

    `path` is an `.npz` with `x_train`, `y_train`, `x_test`, `y_test`, here or under EBRL_DATA.
    Raises `FileNotFoundError` where there is none.
    """
    return TensorDataset(labelled(path, split)[0])


def pairs(path: str = "fashion_mnist/fashion_mnist.npz", split: str = "train") -> TensorDataset:
    """Return images as `images` does, each with its label as the condition."""
    return TensorDataset(*labelled(path, split))


def labelled(
    path: str = "fashion_mnist/fashion_mnist.npz", split: str = "train"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images `(n, 1, height, width)` in [0, 1] and their labels `(n,)`."""
    for found in (Path(path), Path(os.environ.get("EBRL_DATA", ".")) / path):
        if found.is_file():
            with np.load(found, allow_pickle=False) as arrays:
                x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
            return torch.from_numpy(x).float().div_(255).unsqueeze(1), torch.from_numpy(y).long()
    raise FileNotFoundError(
        f"there is no file {path}, here or under EBRL_DATA: expected an .npz with x_train, "
        "y_train, x_test and y_test, as Keras distributes Fashion-MNIST and MNIST"
    )
