"""The images of Fashion-MNIST, and of other files with its layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

from ebrl.data_folder import find

CLASSES = (  # by their labels, 0 to 9
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle-boot"),
)
ADVICE = (
    "expected an .npz with x_train, y_train, x_test and y_test, as Keras distributes Fashion-MNIST "
    "and MNIST"
)


def images(path: str = "fashion_mnist/fashion_mnist.npz", split: str = "train") -> TensorDataset:
    """Return images `(n, 1, height, width)` in [0, 1], without their labels.

    Args:
        path: An `.npz` with `x_train`, `y_train`, `x_test`, `y_test`, here or under EBRL_DATA.
        split: `train` or `test`.

    Raises:
        FileNotFoundError: For a missing file.
    """
    return TensorDataset(labelled(path, split)[0])


def pairs(path: str = "fashion_mnist/fashion_mnist.npz", split: str = "train") -> TensorDataset:
    """Return images as `images` does, each with its label as the condition."""
    return TensorDataset(*labelled(path, split))


def labelled(
    path: str = "fashion_mnist/fashion_mnist.npz", split: str = "train"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images `(n, 1, height, width)` in [0, 1] and their labels `(n,)`.

    Raises:
        FileNotFoundError: For a missing file.
        ValueError: For a file with other arrays.
    """
    found = find(path, ADVICE)
    with np.load(found, allow_pickle=False) as arrays:
        if f"x_{split}" not in arrays or f"y_{split}" not in arrays:
            raise ValueError(
                f"{found}: expected arrays x_{split} and y_{split}, got {', '.join(arrays.files)}"
            )
        return _checked(arrays[f"x_{split}"], arrays[f"y_{split}"], found)


def _checked(x: np.ndarray, y: np.ndarray, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    fits = x.ndim == 3 and x.dtype == np.uint8
    if not fits or y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{path}: expected images (n, height, width) of 8 bits and a whole number for each, "
            f"got {x.dtype} of shape {x.shape} and {y.dtype} of shape {y.shape}"
        )
    images = torch.from_numpy(x).float().div_(255).unsqueeze(1)  # (n, 1, height, width)
    return images, torch.from_numpy(y.astype(np.int64))
