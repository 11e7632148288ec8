"""What ends a training before its end, from outside and from its environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from ebrl import storage
from ebrl.command import main
from ebrl.command.training.endings import stop_on_signals

RAISED: dict[str, Any] = {}  # what the environment does, and at which step


class Raising(gym.Env):
    """An environment that does what `RAISED` says at the step that it names."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if RAISED:
            RAISED["in"] -= 1
            if RAISED["in"] == 0:
                what = RAISED.pop("what")
                RAISED.clear()
                if isinstance(what, signal.Signals):
                    signal.raise_signal(what)
                else:
                    raise what
        return np.zeros(2, np.float32), float(action[0]), False, False, {}


gym.register("Endings/Raising-v0", entry_point=Raising, max_episode_steps=15)
gym.register("Endings/Endless-v0", entry_point=Raising)


def config(folder: Path, env: str = "Endings/Raising-v0", **changes: Any) -> Path:
    arguments = {
        "policy": "MlpPolicy",
        "env": env,
        "learning_starts": 10,
        "buffer_size": 200,
        "batch_size": 8,
        "policy_kwargs": {"net_arch": [8]},
    }
    content = {
        "agent": {"class_path": "stable_baselines3.SAC", "init_args": arguments},
        "total_timesteps": 60,
        "evaluation_episodes": 1,
        "run": str(folder / "run"),
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(autouse=True)
def _nothing_raised() -> None:
    RAISED.clear()


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), OSError(5, "boom"), BrokenPipeError(), SystemExit(3)]
)
def test_whatever_an_environment_raises_is_reported_and_saved(
    error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RAISED.update({"what": error, "in": 33})
    assert main(["train", str(config(tmp_path))]) == 1
    said, run = capsys.readouterr().err, tmp_path / "run"
    assert f"Endings/Raising-v0 raised {type(error).__name__} at step 3 of an episode" in said
    assert said.count("\n") == 1
    assert str(run / "error.txt") in said
    assert "in step" in (run / "error.txt").read_text()
    (checkpoint,) = run.glob("checkpoints/*.zip")
    assert storage.load(checkpoint).facts["num_timesteps"] == 32
    assert main(["resume", str(run)]) == 0
    assert "going on from step 32 of 60" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_a_hangup_saves_unless_it_is_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RAISED.update({"what": signal.SIGHUP, "in": 33})
    assert main(["train", str(config(tmp_path))]) == 128 + signal.SIGHUP
    assert "saving" in capsys.readouterr().err
    assert list((tmp_path / "run").glob("checkpoints/*.zip"))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        RAISED.update({"what": signal.SIGHUP, "in": 5})
        assert main(["resume", str(tmp_path / "run")]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_in_the_middle_of_an_evaluation_stops_it(tmp_path: Path) -> None:
    """The training has 60 steps; the signal comes 30 steps into an evaluation of 1,000."""
    path = config(tmp_path, env="Endings/Endless-v0", evaluation_steps=1_000)
    RAISED.update({"what": signal.SIGINT, "in": 60 + 300})
    assert main(["train", str(path)]) == 130
    assert json.loads((tmp_path / "run" / "evaluations.json").read_text()) == []
    assert main(["resume", str(tmp_path / "run"), "--trust"]) == 0
    (entry,) = json.loads((tmp_path / "run" / "evaluations.json").read_text())
    assert entry["lengths"] == [1_000]


def test_an_evaluation_without_an_end_is_cut_off_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, env="Endings/Endless-v0", evaluation_steps=25)
    assert main(["train", str(path)]) == 0
    assert "did not end within 25 steps" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "2"]) == 0
    assert "2 of 2 episodes" in capsys.readouterr().err


def test_a_finished_run_is_lengthened_as_if_it_had_been_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("short", "long"):
        (tmp_path / name).mkdir()
    assert main(["train", str(config(tmp_path / "long", total_timesteps=90))]) == 0
    assert main(["train", str(config(tmp_path / "short"))]) == 0
    run = tmp_path / "short" / "run"
    assert main(["resume", str(run), "--total_timesteps", "90"]) == 0
    ends = [max((tmp_path / n / "run").glob("checkpoints/*.zip")) for n in ("short", "long")]
    one, other = (storage.load(path).tensors for path in ends)
    assert one.keys() == other.keys()
    assert all(tensor.equal(other[name]) for name, tensor in one.items())
    assert yaml.safe_load((run / "config.yaml").read_text())["total_timesteps"] == 90
    capsys.readouterr()
    assert main(["resume", str(run), "--total_timesteps", "50"]) == 2
    assert "90 steps already" in capsys.readouterr().err
    assert main(["resume", str(run), "--steps", "50"]) == 2
    assert "--total_timesteps" in capsys.readouterr().err


def test_the_best_agent_and_the_statistics_are_kept(tmp_path: Path) -> None:
    path = config(tmp_path, best=True, normalize="observations", evaluate_every=20)
    assert main(["train", str(path)]) == 0
    run = tmp_path / "run"
    assert (run / "best_model.zip").exists()
    moments = json.loads((run / "normalization.json").read_text())["moments"]["observation"]
    assert moments["mean"] == pytest.approx([0, 0])
    with np.load(run / "evaluations.npz") as archive:
        assert archive["timesteps"].tolist() == [20, 40, 60]
        assert archive["results"].shape == (3, 1)
    assert (run / "evaluations.csv").read_text().startswith("timesteps,mean,std,cpu_seconds")


@pytest.mark.parametrize("how", ["closed", "ascii", "nobody reads", "full"])
def test_a_training_outlives_its_output(how: str, tmp_path: Path) -> None:
    path = config(tmp_path, env="Pendulum-v1", evaluate_every=20)
    command = [sys.executable, "-m", "ebrl.command", "train", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if how == "closed":
        command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
        code = subprocess.run(command, env=environment).returncode
    elif how == "ascii":
        environment |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
        environment.pop("HOME", None)
        done = subprocess.run(command, env=environment, capture_output=True)
        code = done.returncode
        assert b"return" in done.stdout
    elif how == "nobody reads":
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.close()
        code = process.returncode
    else:
        with open("/dev/full", "w") as full:
            code = subprocess.run(command, env=environment, stdout=full).returncode
    assert (tmp_path / "run" / "model.zip").exists()
    assert code in (0, 1, 141)


def test_a_start_that_found_no_room_leaves_no_dead_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(["train", str(config(tmp_path))]) == 1
    assert "no room left" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()
    (tmp_path / "run" / ".config.yaml.123.tmp").touch()  # of a process that was killed then
    assert main(["train", str(config(tmp_path))]) == 0
    assert not list((tmp_path / "run").glob(".config*"))


def test_an_interrupt_that_a_destructor_drops_comes_again() -> None:
    class Noisy:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def stop() -> None:
        raise KeyboardInterrupt

    def work() -> None:
        with stop_on_signals(stop) as received:
            Noisy()
            reached.extend(received)  # nothing was raised
            time.sleep(5)

    reached: list[int] = []
    hook, began = sys.unraisablehook, time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [signal.SIGINT]
    assert time.monotonic() - began < 4
    assert sys.unraisablehook is hook
