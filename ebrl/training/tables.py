"""Tables of data in files, and a data set to begin with."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

X, CONDITION = "x", "condition"  # what an .npz may hold


class TableError(ValueError):
    """A file that is not a table of numbers to fit an energy to."""


def load_table(path: str | Path) -> TensorDataset:
    """Read rows `x: (n, *event)`, and `condition: (n, *features)` if there is one.

    A vector `(n,)` is a table of one column. Nothing in a file is executed.

    Args:
        path: `.npy` holds one array, `.npz` arrays named x and condition (or a single one of any
            name), `.csv` numbers separated by commas, with or without a line of names at the top.

    Returns:
        A dataset of torch's default dtype. A condition of integers `(n,)` stays one: class labels.

    Raises:
        FileNotFoundError: If there is no such file.
        TableError: If the file cannot be read as such, is empty or ragged, or holds anything but
            finite numbers; the message has the place of the first that is not finite.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no data file {path}")
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise TableError(f"{path}: expected a file of {', '.join(readers)}, got {path.suffix!r}")
    try:
        arrays = readers[path.suffix.lower()](path)
    except TableError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TableError(f"{path} cannot be read: {error}") from error
    tensors = [_as_rows(path, name, array) for name, array in arrays.items()]
    if len({len(tensor) for tensor in tensors}) > 1:
        raise TableError(
            f"{path}: expected a condition for each x, got {len(tensors[1])} for {len(tensors[0])}"
        )
    return TensorDataset(*tensors)


def check_finite(x: Tensor, name: str = "data") -> None:
    """Raise `ValueError` at the first NaN or infinity in `x: (n, *event)`, with its place."""
    bad = ~x.isfinite()
    if not bad.any():
        return
    row, *column = bad.nonzero()[0].tolist()
    where = f"row {row}" + (f", column {', '.join(map(str, column))}" if column else "")
    value = x[bad][0].item()
    raise ValueError(
        f"{name}: expected finite numbers, got {value} in {where} (both counted from 0), "
        f"{int(bad.sum())} in all; drop these rows or fill them"
    )


def two_moons(n: int = 10_000, noise: float = 0.1, seed: int = 0) -> TensorDataset:
    """Return `n` points of two interleaving half circles, as scikit-learn's `make_moons`.

    The half circles have radius 1 and the centres (0, 0) and (1, ½), the second upside down;
    `noise` is the deviation of the Gaussian noise added to each coordinate.
    """
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(n, generator=generator)
    upper = torch.stack([angle.cos(), angle.sin()], -1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], -1)
    x = torch.where(torch.rand(n, 1, generator=generator) < 0.5, upper, lower)
    return TensorDataset(x + noise * torch.randn(n, 2, generator=generator))


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    return {X: np.load(path, allow_pickle=False)}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        names = sorted(archive.files)
        if len(names) == 1:
            return {X: archive[names[0]]}
        if names != sorted([X, CONDITION]):
            raise TableError(f"{path}: expected arrays {X!r} and {CONDITION!r}, got {names}")
        return {X: archive[X], CONDITION: archive[CONDITION]}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
        named = not any(_is_number(cell) for cell in first.split(","))
        if not named:
            file.seek(0)
        lines = {i: line for i, line in enumerate(file, 2 if named else 1) if line.strip()}
    if not lines:
        raise TableError(f"{path}: expected rows of numbers, got none")
    try:
        return {X: np.loadtxt([*lines.values()], delimiter=",", ndmin=2)}
    except ValueError as error:
        raise TableError(f"{path}{_first_fault(lines) or f' cannot be read: {error}'}") from error


def _first_fault(lines: dict[int, str]) -> str:
    """Return the place of the first cell that is no number, or row of another length."""
    width = len(next(iter(lines.values())).split(","))
    for number, line in lines.items():
        cells = line.strip().split(",")
        if len(cells) != width:
            return f", line {number}: expected {width} columns, got {len(cells)}"
        for column, cell in enumerate(cells, 1):
            if not _is_number(cell):
                return f", line {number}: expected a number in column {column}, got {cell!r}"
    return ""


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _as_rows(path: Path, name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise TableError(f"{path}: expected numbers in {name}, got dtype {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise TableError(f"{path}: expected rows in {name}, got shape {array.shape}")
    if name == CONDITION and array.ndim == 1 and array.dtype.kind in "iu":
        return torch.as_tensor(array.astype(np.int64))
    rows = torch.as_tensor(array.astype(np.float64)).to(torch.get_default_dtype())
    rows = rows.unsqueeze(-1) if rows.ndim == 1 else rows
    try:
        check_finite(rows, f"{path}, {name}")
    except ValueError as error:
        raise TableError(str(error)) from error
    return rows
