"""`ebrl collect`, and what `ebrl train` makes of it: offline, and as the start of a replay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from ebrl.agents.demonstrations import Demonstrations, load
from ebrl.command import main


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


def test_collect_overwrites_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", str(run)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["collect", str(run), "--out", "data.txt"]) == 2
