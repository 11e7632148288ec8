"""What goes wrong on the way: one line that says it, an exit code, and nothing lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from ebrl import storage
from ebrl.command import main

FAULT: dict[str, Any] = {}  # what goes wrong, at which step since it was set


class Faulty(gym.Env):
    """A harmless environment, until the step that `FAULT` names."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward = self._observation(), float(action[0])
        if FAULT and FAULT["in"] == 0:
            fault = FAULT.pop("what")
            FAULT.clear()
            if isinstance(fault, signal.Signals):
                signal.raise_signal(fault)
            elif fault == "reward":
                reward = float("nan")
            else:
                observation = np.full_like(observation, fault)
        elif FAULT:
            FAULT["in"] -= 1
        return observation, reward, False, False, {}

    def _observation(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


gym.register("Failures/Faulty-v0", entry_point=Faulty, max_episode_steps=15)


def config(folder: Path) -> Path:
    """A config of a tiny run in `folder/run`: checkpoints every 40 steps, evaluated at 120, 200."""
    arguments = {
        "policy": "MlpPolicy",
        "env": "Failures/Faulty-v0",
        "learning_starts": 30,
        "buffer_size": 500,
        "batch_size": 16,
        "policy_kwargs": {"net_arch": [16]},
    }
    content = {
        "agent": {"class_path": "ebrl.agents.EnergyActorCritic", "init_args": arguments},
        "total_timesteps": 200,
        "evaluate_every": 120,
        "evaluation_episodes": 2,
        "checkpoint_every": 40,
        "run": str(folder / "run"),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def steps_kept(run: Path) -> list[int]:
    """The steps of the checkpoints, after reading each of them whole."""
    paths = sorted((run / "checkpoints").glob("checkpoint-*.zip"))
    return [storage.load(path).facts["num_timesteps"] for path in paths]


def assert_same_end(run: Path, other: Path) -> None:
    stored, expected = (storage.load(max(r.glob("checkpoints/*.zip"))) for r in (run, other))
    assert stored.tensors.keys() == expected.tensors.keys()
    for name, tensor in stored.tensors.items():
        assert tensor.equal(expected.tensors[name]), name
    returns = [
        [entry["returns"] for entry in json.loads((r / "evaluations.json").read_text())]
        for r in (run, other)
    ]
    assert returns[0] == returns[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to. Tests change copies of it."""
    FAULT.clear()
    folder = tmp_path_factory.mktemp("whole")
    assert main(["train", str(config(folder))]) == 0
    return folder / "run"


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A finished run of its own for a test, in `tmp_path/run`."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _no_fault() -> None:
    FAULT.clear()


@pytest.mark.parametrize("what", ["reward", np.nan, np.inf])
def test_a_value_that_is_not_finite_stops_before_the_replay(
    what: str | float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FAULT.update(what=what, **{"in": 97})
    with np.errstate(all="ignore"):
        assert main(["train", str(config(tmp_path))]) == 1
    message = capsys.readouterr().err
    assert "Failures/Faulty-v0" in message
    assert ("reward" if what == "reward" else "observation") in message
    assert "step" in message
    run = tmp_path / "run"
    assert f"ebrl resume {run}" in message
    assert steps_kept(run)[-1] == 97  # the state before the step that failed
    for tensor in storage.load(max(run.glob("checkpoints/*.zip"))).tensors.values():
        assert not tensor.is_floating_point() or tensor.isfinite().all()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_saves_and_resumes_to_the_same_end(
    number: signal.Signals,
    code: int,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run = tmp_path / "run"
    FAULT.update(what=number, **{"in": 97})
    assert main(["train", str(config(tmp_path))]) == code
    message = capsys.readouterr().err
    assert "saving" in message
    assert f"ebrl resume {run}" in message
    stopped_at = steps_kept(run)[-1]
    assert 80 < stopped_at < 100
    assert f"from step {stopped_at}" in message
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert main(["resume", str(run)]) == 0
    assert_same_end(run, whole)


def test_a_full_disk_loses_nothing_that_was_written(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fsync, written = os.fsync, []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(["train", str(config(tmp_path))]) == 1
    message = capsys.readouterr().err
    run = tmp_path / "run"
    assert "no room left" in message
    assert f"ebrl resume {run}" in message
    assert steps_kept(run)
    assert not [path for path in run.rglob(".*") if path.name != ".lock"], "no litter"
    assert main(["resume", str(run)]) == 0
    assert_same_end(run, whole)


def test_a_write_that_really_fails_half_way_leaves_the_checkpoints_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit on the size of a file stops the writer in the middle of a checkpoint."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    run = tmp_path / "run"
    FAULT.update(what=signal.SIGINT, **{"in": 50})
    assert main(["train", str(config(tmp_path))]) == 130
    size = max(path.stat().st_size for path in run.glob("checkpoints/*.zip"))
    kept = steps_kept(run)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        assert main(["resume", str(run)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no room left" in capsys.readouterr().err
    assert steps_kept(run) == kept
    assert main(["resume", str(run)]) == 0


def test_two_runs_do_not_share_a_folder(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["train", str(config(tmp_path)), "--seed", "1"]) == 2
    message = capsys.readouterr().err
    assert "already holds a run" in message
    assert f"ebrl resume {run}" in message
    assert "--run OTHER" in message
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert main(["train", str(config(tmp_path))]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_run_that_is_being_trained_is_not_trained_twice(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(finished / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["resume", str(finished)]) == 2
    assert "being trained by another process" in capsys.readouterr().err


# ---- checkpoints and files that are not what they should be ----------------------------------


def test_a_corrupt_newest_checkpoint_falls_back_and_says_so(
    whole: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished
    newest = max(run.glob("checkpoints/*.zip"))
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    assert main(["resume", str(run)]) == 0
    output = capsys.readouterr()
    assert newest.name in output.err
    assert "going on from step 160 of 200" in output.out
    assert_same_end(run, whole)


class Trap:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("kind", ["noise", "pickle", "zip of a pickle"])
def test_only_foreign_checkpoints_stop_the_run_and_run_no_code(
    kind: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, mark = finished, tmp_path / "mark"
    for path in run.glob("checkpoints/*.zip"):
        if kind == "zip of a pickle":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("data", pickle.dumps(Trap(mark)))
        else:
            path.write_bytes(b"\x00noise" if kind == "noise" else pickle.dumps(Trap(mark)))
    for verb in ("resume", "evaluate", "plot"):
        assert main([verb, str(run)]) == 1
        message = capsys.readouterr().err
        assert "no checkpoint" in message
        assert "checkpoint-" in message
    assert not mark.exists()


def test_the_checkpoint_of_another_agent_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resolved = finished / "config.yaml"
    resolved.write_text(resolved.read_text().replace("- 16", "- 8"))
    assert main(["resume", str(finished)]) == 1
    assert "configured differently" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_says_how_to_get_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FAULT.update(what="reward", **{"in": 0})
    assert main(["train", str(config(tmp_path))]) == 1
    run = tmp_path / "run"
    assert "from the start" in capsys.readouterr().err
    assert main(["evaluate", str(run)]) == 1
    assert f"no checkpoint yet. Train it: ebrl resume {run}" in capsys.readouterr().err
    assert main(["plot", str(run)]) == 1
    assert "has not been evaluated yet" in capsys.readouterr().err
    assert main(["resume", str(run)]) == 0


def test_damaged_evaluations_are_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "evaluations.json").write_text('[{"timesteps"')
    assert main(["plot", str(finished)]) == 2
    said = capsys.readouterr().err
    assert "evaluations.json is damaged" in said
    assert f"Remove it: ebrl resume {finished}" in said
    (finished / "evaluations.json").unlink()
    assert main(["resume", str(finished)]) == 0
    assert main(["plot", str(finished)]) == 0
