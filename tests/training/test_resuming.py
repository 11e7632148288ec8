"""Trainings that were killed go on bit for bit."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from moons_problems import SPACE, Dropping, energy, learned_generator, moons, pcd, same
from problems import generator
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from ebrl import Chains, DualAveraging, Energy, Sampler, networks, objectives
from ebrl.kernels import MALA
from ebrl.objectives import ContrastiveDivergence, Objective
from ebrl.storage import StorageError
from ebrl.training import (
    RunningClip,
    Training,
    checkpoints_in,
    fit,
)
from ebrl.training.loop import Metrics


def conditional() -> tuple[Energy, Dataset, Objective]:
    torch.manual_seed(0)
    model = networks.MLPEnergy(2, (16,), condition_dimension=1)
    labels = torch.randint(2, (300, 1), generator=generator()).float()
    sampler = Sampler(MALA(), SPACE, steps=2, adaptation=DualAveraging())
    return (
        model,
        TensorDataset(moons(300), labels),
        ContrastiveDivergence(sampler, Chains(100, SPACE)),
    )


CASES: dict[str, Callable[[], tuple[Energy, Tensor | Dataset, Objective]]] = {
    "pcd": lambda: (energy(), moons(300), pcd()),
    "conditional": conditional,
    "generator": lambda: (energy(), moons(300), learned_generator()),
    "nce": lambda: (
        energy(), moons(300), objectives.NCE(objectives.NormalNoise.around(moons(300)), 2)
    ),
    "dropout": lambda: (Dropping(), moons(300), pcd()),
}  # fmt: skip


def run(case: str, steps: int, folder: Path | None, **options: object) -> Training:
    model, data, objective = CASES[case]()
    return fit(
        model,
        data,
        objective,
        steps=steps,
        generator=generator(5),
        batch_size=64,
        folder=folder,
        checkpoint_every=5,
        log_every=5,
        ema_decay=0.9,
        clip=RunningClip(1.5),
        **options,  # type: ignore[arg-type]
    )


def in_a_fork(work: Callable[[], object]) -> int:
    """Return the wait status of a new process."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_goes_on_bit_for_bit(case: str, tmp_path: Path) -> None:
    whole = run(case, 23, None).state()

    def kill(training: Training, metrics: Metrics) -> None:
        if training.step == 13:
            os.kill(os.getpid(), signal.SIGKILL)

    status = in_a_fork(lambda: run(case, 23, tmp_path, callbacks=[kill]))
    assert os.WIFSIGNALED(status)
    resumed = run(case, 23, tmp_path, resume=True)
    assert same(resumed.state(), whole)
    assert [path.name[-6:-4] for path in checkpoints_in(tmp_path / "checkpoints")] == ["23", "20"]


def test_a_resumed_training_has_the_settings_it_is_given(tmp_path: Path) -> None:
    def settings(learning_rate: float, weight_decay: float, **options: object) -> list[float]:
        model = energy()
        optimizer = torch.optim.AdamW(
            model.parameters(), learning_rate, (0.5, 0.9), weight_decay=weight_decay
        )
        fit(
            model, moons(300), pcd(), batch_size=64, generator=generator(), folder=tmp_path,
            optimizer=optimizer, schedule=lambda done: 0.5, **options,  # type: ignore[arg-type]
        )  # fmt: skip
        (group,) = optimizer.param_groups
        assert {int(state["step"]) for state in optimizer.state.values()} == {options["steps"]}
        return [group[name] for name in ("lr", "initial_lr", "weight_decay")]

    assert settings(1e-2, 0.1, steps=5) == [0.5e-2, 1e-2, 0.1]
    assert settings(1e-3, 0.2, steps=10, resume=True) == [0.5e-3, 1e-3, 0.2]
    # Without a further step the factor of the schedule is that of the last one.
    assert settings(1e-3, 0.2, steps=10, resume=True) == [0.5e-3, 1e-3, 0.2]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = run("pcd", 12, tmp_path).state()
    newest = checkpoints_in(tmp_path / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged"):
        resumed = run("pcd", 12, tmp_path, resume=True)
    assert same(resumed.state(), whole)


def test_a_folder_is_not_taken_over_by_accident_nor_by_another_training(tmp_path: Path) -> None:
    run("pcd", 5, tmp_path)
    with pytest.raises(ValueError, match="resume=True"):
        run("pcd", 5, tmp_path)
    with pytest.raises(StorageError, match="configured differently"):
        run("dropout", 10, tmp_path, resume=True)
    with pytest.raises(StorageError, match="300 rows"):
        fit(
            energy(), moons(200), pcd(), steps=10, batch_size=64, generator=generator(),
            folder=tmp_path, resume=True, ema_decay=0.9, clip=RunningClip(1.5),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(1)), "exp_avg"),
        (lambda state: state["order"].update(position=-1), "order/position"),
        (lambda state: state["order"]["permutation"].fill_(300), "rows from 0 to 299"),
        (lambda state: state.update(generator=torch.zeros(9, dtype=torch.uint8)), "generator"),
        (lambda state: state.update(step="x"), "step"),
        (lambda state: state.update(alarm=(1.0,)), "alarm"),
        (lambda state: state.pop("energy"), "state: expected"),
        (lambda state: state["energy"].update(other=torch.ones(2)), "state/energy"),
    ],
)
def test_a_state_of_other_forms_is_refused_and_changes_nothing(
    change: Any, match: str, tmp_path: Path
) -> None:
    training = run("pcd", 5, tmp_path)
    before = copy.deepcopy(training.state())
    state = copy.deepcopy(before)
    change(state)
    with pytest.raises(StorageError, match=match):
        training.load_state(state)
    assert same(training.state(), before)
