"""`ebrl collect`, and what `ebrl train` makes of it: offline, and as the start of a replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from ebrl.agents.demonstrations import Demonstrations, load
from ebrl.command import main

FAILS = 777  # the seed of the start from which `Sensors` fails at its second step


class Sensors(gym.Env):
    """Three steps an episode; an observation is a dictionary."""

    observation_space = spaces.Dict(
        {
            "place": spaces.Box(-1, 1, (2,)),
            "lamp": spaces.Discrete(3),
            "film": spaces.Box(0, 255, (36, 37, 3), np.uint8),
            "flags": spaces.MultiBinary(2),
        }
    )
    action_space = spaces.Box(-1, 1, (1,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.start = 0, seed
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict]:
        self.steps += 1
        if self.start == FAILS and self.steps == 2:
            raise RuntimeError("boom")
        return self._observation(), float(action[0]), self.steps == 3, False, {}

    def _observation(self) -> dict[str, Any]:
        return {
            "place": self.np_random.uniform(-1, 1, 2).astype(np.float32),
            "film": self.np_random.integers(0, 256, (36, 37, 3), np.uint8),
            "lamp": self.steps % 3,
            "flags": np.array([0, 1], np.int8),
        }


gym.register("Collect/Sensors-v0", entry_point=Sensors)


def config(folder: Path, agent: str = "ebrl.agents.EnergyActorCritic") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    arguments = {"policy": "MlpPolicy", "env": "Pendulum-v1", "policy_kwargs": {"net_arch": [8]}}
    content = {
        "agent": {"class_path": agent, "init_args": {**arguments, "batch_size": 8}},
        "total_timesteps": 20,
        "evaluate_every": 1_000,
        "evaluation_episodes": 1,
        "evaluation_steps": 3,
        "checkpoint_every": 5,
        "run": str(folder / "run"),
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    assert main(["train", str(config(folder)), "--evaluation_steps", "30"]) == 0
    assert main(["collect", str(folder / "run"), "--episodes", "2"]) == 0
    return folder / "run"


def test_a_file_holds_every_transition_in_order(run: Path) -> None:
    data = load(run / "episodes.npz")
    assert data.observations.shape == (60, 3)  # an episode ends after evaluation_steps
    assert data.actions.shape == (60, 1)
    assert np.flatnonzero(data.truncations).tolist() == [29, 59]
    assert not data.terminations.any()
    inside = np.ones(60, bool)
    inside[[29, 59]] = False
    following = np.flatnonzero(inside)
    assert np.array_equal(data.next_observations[following], data.observations[following + 1])


@pytest.mark.parametrize(
    "agent",
    ["ebrl.agents.ImplicitCloning", pytest.param("stable_baselines3.SAC", marks=pytest.mark.slow)],
)
def test_an_agent_trains_on_a_file_alone_and_resumes(agent: str, run: Path, tmp_path: Path) -> None:
    data = str(run / "episodes.npz")
    assert main(["train", str(config(tmp_path, agent)), "--offline", data]) == 0
    ours = tmp_path / "run"
    assert json.loads((ours / "evaluations.json").read_text())[-1]["timesteps"] == 20
    assert main(["resume", str(ours), "--total_timesteps", "22"]) == 0
    assert main(["evaluate", str(ours), "--episodes", "1"]) == 0


def test_minari_takes_the_episodes_and_a_replay_starts_with_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    arguments = ["collect", str(run), "--episodes", "2", "--minari", "swings/ours-v0"]
    assert main(arguments) == 0
    assert main(arguments) == 2  # it is there already
    assert "there is a dataset swings/ours-v0 already" in capsys.readouterr().err
    again, file = load("minari:swings/ours-v0"), load(run / "episodes.npz")
    for name in Demonstrations._fields:
        assert np.array_equal(getattr(again, name), getattr(file, name))
    assert main(["train", str(config(tmp_path)), "--prefill", "minari:swings/ours-v0"]) == 0


@pytest.fixture(scope="module")
def sensing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run with dictionary observations, in whose `run` one is."""
    folder = tmp_path_factory.mktemp("sensing")
    path = config(folder)
    content = yaml.safe_load(path.read_text())
    content["agent"]["init_args"] |= {"policy": "MultiInputPolicy", "env": "Collect/Sensors-v0"}
    path.write_text(yaml.safe_dump({**content, "normalize": "observations"}))
    assert main(["train", str(path)]) == 0
    return path


def test_dictionary_observations_are_kept_by_their_keys(
    sensing: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, out = str(sensing.parent / "run"), str(tmp_path / "seen.npz")
    assert main(["collect", run, "--episodes", "4", "--out", out]) == 0
    data = load(out)
    assert isinstance(data.observations, dict)
    assert isinstance(data.next_observations, dict)
    assert data.observations["place"].shape == (12, 2)
    assert data.observations["lamp"].tolist() == [0, 1, 2] * 4
    assert data.next_observations["lamp"].tolist() == [1, 2, 0] * 4
    assert main(["train", str(sensing), "--offline", out, "--run", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    arguments = ["--offline", out, "--run", str(tmp_path / "other")]
    assert main(["train", str(config(tmp_path)), *arguments]) == 2
    said = capsys.readouterr().err
    assert "expected observations with one array" in said
    assert "got the keys film, flags, lamp, place" in said
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    assert main(["collect", run, "--episodes", "4", "--minari", "sensors/ours-v0"]) == 0
    again = load("minari:sensors/ours-v0").arrays()
    assert again.keys() == data.arrays().keys()
    assert all(np.array_equal(again[name], array) for name, array in data.arrays().items())


def test_an_environment_that_fails_leaves_the_episodes_before(
    sensing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(sensing.parent / "run"), tmp_path / "seen.npz"
    options = ["--episodes", "4", "--seed", str(FAILS - 2)]
    assert main(["collect", run, *options, "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "Collect/Sensors-v0 raised RuntimeError at step 2 of an episode: boom" in said.err
    assert "6 steps of 2 episodes" in said.out
    assert len(load(out).rewards) == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--offline", "nowhere.npz"], "nowhere.npz: No such file"),
        (["--offline", "minari:no/such-v0"], "no Minari dataset 'no/such-v0' on this machine"),
        (
            ["--offline", "{data}", "--agent.env", "MountainCarContinuous-v0"],
            "the environment's space",
        ),
        (["--offline", "{data}", "--prefill", "{data}"], "expected one of them, got both"),
        (["--agent", "ebrl.agents.ImplicitCloning"], "ImplicitCloning clones demonstrations"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(
    options: list[str], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path)
    if "--agent" in options:
        path = config(tmp_path, options.pop())
        options = []
    given = [option.format(data=run / "episodes.npz") for option in options]
    assert main(["train", str(path), *given]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_episodes_are_written_over_a_file_only_if_asked_to(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["collect", str(run)]) == 2
    assert "is there already: --overwrite, or another --out" in capsys.readouterr().err
    command = ["collect", str(run), "--episodes", "1", "--out", str(tmp_path / "mine.npz")]
    (tmp_path / "mine.npz").write_text("mine")
    assert main(command) == 2
    assert (tmp_path / "mine.npz").read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert len(load(tmp_path / "mine.npz").rewards) > 0
    capsys.readouterr()
    assert main(["collect", str(run), "--out", "data.txt"]) == 2
