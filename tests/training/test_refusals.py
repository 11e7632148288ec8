"""What a training refuses before work."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from moons_problems import Scripted, energy, moons, pcd
from problems import generator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ebrl import Chains, Energy, FunctionEnergy, Sampler, networks, objectives
from ebrl.energies import RBM
from ebrl.kernels import MALA
from ebrl.objectives import ContrastiveDivergence
from ebrl.spaces import Unbounded
from ebrl.training import (
    TableError,
    fit,
    load_table,
)


def test_what_does_not_fit_together_is_refused_before_work() -> None:
    def attempt(data: object, model: Energy | None = None, **options: object) -> None:
        fit(
            model or energy(), data, Scripted([]), steps=1, generator=generator(), **options  # type: ignore[arg-type]
        )  # fmt: skip

    bad = moons()
    bad[7, 1] = math.nan
    with pytest.raises(ValueError, match=r"nan in row 7, column 1"):
        attempt(bad)
    with pytest.raises(ValueError, match="batch_size"):
        attempt(moons(100))
    with pytest.raises(ValueError, match=r"float64.*data\.to\(torch\.float32\)"):
        attempt(moons().double())
    for integers in (moons().int(), moons().long()):
        for model in (energy(), networks.MLPEnergy(2, (4,), condition_dimension=1), RBM(2, 3)):
            with pytest.raises(ValueError, match=r"float32, got torch.int.*\.to\(torch\.float32\)"):
                attempt(integers, model)
    with pytest.raises(ValueError, match="axes"):
        attempt(moons().unsqueeze(-1))
    with pytest.raises(ValueError, match=r"\(\*batch, 2\)"):
        attempt(torch.zeros(300, 3))
    with pytest.raises(ValueError, match="weights to train"):
        attempt(moons(), FunctionEnergy(lambda x: x.sum(-1)))
    with pytest.raises(TypeError, match="takes no condition"):
        attempt(TensorDataset(moons(), moons()))
    with pytest.raises(ValueError, match="x and a condition, got 3 parts"):
        attempt(TensorDataset(moons(), moons(), moons()))
    with pytest.raises(TypeError, match="conditional"):
        fit(
            networks.MLPEnergy(2, (4,), condition_dimension=1), moons(), pcd(), steps=1,
            generator=generator(),
        )  # fmt: skip
    with pytest.raises(ValueError, match="one number"):
        attempt(moons(), FunctionEnergy(nn.Linear(2, 1)))
    with pytest.raises(ValueError, match="ema_decay"):
        attempt(moons(), ema_decay=1.0)
    with pytest.raises(FileNotFoundError, match="no data file"):
        attempt("nowhere.csv")
    shapeless = ContrastiveDivergence(Sampler(MALA(), steps=1), Chains(1_000, Unbounded()))
    with pytest.raises(ValueError, match=r"Unbounded\(2\)"):
        fit(energy(), moons(), shapeless, steps=1, generator=generator())


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    x, condition = np.random.default_rng(0).normal(size=(5, 2)), np.arange(5)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", x=x, condition=condition)
    np.savez(tmp_path / "c.npz", points=x)
    np.savetxt(tmp_path / "d.csv", x, delimiter=",")
    np.savetxt(tmp_path / "e.csv", x, delimiter=",", header="east,north", comments="")
    expected = torch.as_tensor(x).float()
    for path in sorted(tmp_path.iterdir()):
        table = load_table(path)
        torch.testing.assert_close(table.tensors[0], expected)
        assert table.tensors[0].dtype == torch.float32
    labels = load_table(tmp_path / "b.npz").tensors[1]  # integers of one axis are labels
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2, 3, 4]
    np.savez(tmp_path / "b.npz", x=x, condition=condition.astype(float))
    assert load_table(tmp_path / "b.npz").tensors[1].tolist() == [[0], [1], [2], [3], [4]]
    np.save(tmp_path / "a.npy", np.arange(4))
    assert load_table(tmp_path / "a.npy").tensors[0].shape == (4, 1)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "1,2\n3,4,5\n", "line 2: expected 2 columns, got 3"),
        ("a.csv", "x,y\n1,2\n3,left\n", "left"),
        ("a.csv", "1,\n3,4\n", "line 1: expected a number in column 2, got ''"),
        ("a.csv", "x,y\n1,2\n\n3,b\n", "line 4: expected a number in column 2, got 'b'"),
        ("a.csv", "1,2\n3,nan\n", "nan in row 1, column 1"),
        ("a.csv", "1,inf\n3,4\n", "inf in row 0, column 1"),
        ("a.csv", "x,y\n", "rows"),
        ("a.csv", "", "rows"),
        ("a.npy", "not an array", "cannot be read"),
        ("a.npz", "not an archive", "cannot be read"),
        ("a.txt", "1 2", "npy"),
    ],
)
def test_files_that_are_no_tables_are_refused(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TableError, match=said):
        load_table(tmp_path / name)


def test_arrays_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "empty.npy", np.zeros((0, 2)))
    np.savez(tmp_path / "other.npz", y=np.zeros(3), z=np.zeros(3))
    np.savez(tmp_path / "uneven.npz", x=np.zeros(3), condition=np.zeros(4))
    (tmp_path / "folder.csv").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(TableError):
            load_table(path)


def test_a_loader_in_place_of_its_dataset_is_refused() -> None:
    loader = DataLoader(moons(64), batch_size=16)
    with pytest.raises(TypeError, match="got a DataLoader: the training makes batches itself"):
        fit(energy(), loader, pcd(), steps=1, generator=generator())


def test_resuming_without_a_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a folder for resume=True"):
        fit(energy(), moons(300), pcd(), steps=1, generator=generator(), resume=True)


def test_an_int_seed_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a torch.Generator, got int"):
        fit(energy(), moons(), objectives.EnergyDiscrepancy(), steps=1, generator=0)
