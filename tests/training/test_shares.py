"""One process and two train the same energy; what cannot be shared out is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data_parallel import OBJECTIVES, moons, train
from problems import generator
from torch import Tensor, nn
from torch.utils.data import Dataset

from ebrl import networks, objectives
from ebrl.storage import StorageError
from ebrl.training import fit, newest_checkpoint

PROGRAM = Path(__file__).parents[1] / "data_parallel.py"


def in_two_processes(folder: Path, steps: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    both = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(PROGRAM), str(folder), str(steps)]
    ranks = [subprocess.Popen(command, env={**both, "RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of 50 steps of each training in two processes, 25 steps between two."""
    folder = tmp_path_factory.mktemp("two")
    in_two_processes(folder, 50)
    return folder


def weights_of(state: dict[str, object]) -> dict[str, Tensor]:
    parts = ("energy", "averaged")
    return {f"{part}.{name}": w for part in parts for name, w in state[part].items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("task", OBJECTIVES)
def test_two_processes_train_what_one_does(task: str, half_way: Path) -> None:
    _, together = newest_checkpoint(half_way / task / "checkpoints")
    alone = train(task, None, 50, shares=2).state()
    for name, weight in weights_of(alone).items():
        torch.testing.assert_close(weights_of(together)[name], weight, rtol=0, atol=1e-5)
    # Chains may branch where rounding turns an acceptance; those that began alike are the test.
    for mine, theirs in zip(alone["shares"], together["shares"], strict=True):
        assert torch.equal(mine["generator"], theirs["generator"])


def test_shares_draw_different_noise_and_move_chains_of_their_own(half_way: Path) -> None:
    _, state = newest_checkpoint(half_way / "contrastive" / "checkpoints")
    one, other = state["shares"]
    assert not torch.equal(one["generator"], other["generator"])
    assert not torch.equal(
        one["objective"]["chains.positions"], other["objective"]["chains.positions"]
    )


def test_one_process_goes_on_with_what_two_began(half_way: Path, tmp_path: Path) -> None:
    begun = newest_checkpoint(half_way / "denoising" / "checkpoints")[1]
    resumed = train("denoising", half_way / "denoising", 60, shares=2).state()
    alone = train("denoising", tmp_path, 60, shares=2).state()
    assert begun["step"] == 50
    assert resumed["step"] == 60
    for name, weight in weights_of(alone).items():
        torch.testing.assert_close(weights_of(resumed)[name], weight, rtol=0, atol=1e-5)


def test_another_number_of_shares_cannot_go_on(tmp_path: Path) -> None:
    train("contrast", tmp_path, 2, shares=2)
    with pytest.raises(StorageError, match="configured differently"):
        train("contrast", tmp_path, 4, shares=4)
    with pytest.raises(StorageError, match="configured differently"):
        train("contrast", tmp_path, 4, shares=1)


def test_the_gradient_of_shares_is_that_of_the_batch() -> None:
    # Exact score matching draws nothing, and a batch of all rows needs no order.
    ends = []
    for shares in (1, 4):
        torch.manual_seed(0)
        energy = networks.MLPEnergy(2, (16,))
        objective = objectives.ExactScoreMatching()
        fit(
            energy, moons()[:64], objective, steps=3, generator=generator(), batch_size=64,
            shares=shares,
        )  # fmt: skip
        ends.append(nn.utils.parameters_to_vector(energy.parameters()))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def test_what_cannot_be_shared_out_is_refused() -> None:
    energy, data = networks.MLPEnergy(2, (8,)), moons()
    alone = objectives.LearnedGenerator(nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match="an optimiser of its own"):
        fit(energy, data, alone, steps=1, generator=generator(), shares=2)
    with pytest.raises(ValueError, match="batch_size that 3 shares divide, got 256"):
        fit(
            energy, data, objectives.SlicedScoreMatching(), steps=1, generator=generator(), shares=3
        )


# ---- workers ---------------------------------------------------------------------------------


class Rows(Dataset):
    """Makes its items, as a folder of images does."""

    def __init__(self) -> None:
        self.x = moons()[:70]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Tensor:
        return self.x[row]


def test_workers_change_nothing_but_who_makes_the_rows(tmp_path: Path) -> None:
    ends = []
    for workers in (0, 2):
        torch.manual_seed(0)
        energy, stream = networks.MLPEnergy(2, (8,)), generator()
        folder = tmp_path / str(workers)
        for steps in (3, 11):  # resumed within an epoch of 4 batches, and over the next ones
            fit(
                energy, Rows(), objectives.DenoisingScoreMatching(0.3), steps=steps,
                generator=stream, batch_size=16, shares=2, workers=workers, folder=folder,
                resume=True,
            )  # fmt: skip
        ends.append(nn.utils.parameters_to_vector(energy.parameters()))
    assert torch.equal(*ends)


def test_data_in_memory_need_no_workers() -> None:
    with pytest.raises(ValueError, match="tensors are in memory"):
        fit(
            networks.MLPEnergy(2, (8,)), moons(), objectives.SlicedScoreMatching(), steps=1,
            generator=generator(), workers=2,
        )  # fmt: skip
