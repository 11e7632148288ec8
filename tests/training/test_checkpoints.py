"""Weights of a training run, as `ebrl sample` takes them from its checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from ebrl.networks import MLPEnergy
from ebrl.storage import StorageError
from ebrl.training import load_average, write_checkpoint


@pytest.mark.parametrize(
    "wrong",
    [
        torch.ones(8, 2, dtype=torch.int64),
        torch.ones(3),
        torch.ones(8, 2).double(),
        torch.full((8, 2), torch.nan),
        3.0,
    ],
)
def test_weights_that_do_not_fit_are_refused_as_a_whole(wrong: Any, tmp_path: Path) -> None:
    energy = MLPEnergy(2, (8,))
    before = copy.deepcopy(energy.state_dict())
    weights = {name: tensor + 1 for name, tensor in before.items()} | {"layers.0.weight": wrong}
    write_checkpoint(tmp_path, 5, {"step": 5, "energy": weights})
    with pytest.raises(StorageError, match=r"do not fit the energy: energy/layers\.0\.weight"):
        load_average(energy, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in energy.state_dict().items())
