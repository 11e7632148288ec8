"""The `ebrl` command from end to end: train, resume, evaluate, plot, and what a run leaves."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ebrl import storage
from ebrl.command import VERBS, main
from ebrl.command.configs.agent_config import read
from ebrl.command.environments.building import evaluation_environments
from ebrl.command.environments.evaluation import play
from ebrl.command.pictures.agent_pictures import draw_landscapes
from ebrl.command.runs.folder import Run, existing, read_evaluations, write_evaluations
from ebrl.command.training.agent_training import build, rebuild

PNG = b"\x89PNG\r\n\x1a\n"


class Aim(gym.Env):
    """Reward -|action - observation|², twenty steps an episode; one or two action dimensions."""

    def __init__(self, dimensions: int = 1) -> None:
        self.observation_space = spaces.Box(-1, 1, (dimensions,))
        self.action_space = spaces.Box(-1, 1, (dimensions,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._target(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = -float(np.square(action - self.target).sum())
        return self._target(), reward, False, False, {}

    def _target(self) -> np.ndarray:
        self.target = self.np_random.uniform(-1, 1, self.action_space.shape).astype(np.float32)
        return self.target


gym.register("CommandTest/Aim-v0", entry_point=Aim, max_episode_steps=20)


def config(folder: Path, agent: str = "ebrl.agents.EnergyActorCritic", **changes: Any) -> Path:
    """A config of a tiny run in `folder`; `changes` are top-level keys."""
    arguments = {
        "policy": "MlpPolicy",
        "env": "CommandTest/Aim-v0",
        "learning_starts": 40,
        "buffer_size": 1_000,
        "batch_size": 32,
        "policy_kwargs": {"net_arch": [16]},
    }
    content = {
        "agent": {"class_path": agent, "init_args": arguments},
        "total_timesteps": 240,
        "evaluate_every": 100,
        "evaluation_episodes": 3,
        "checkpoint_every": 100,
        "run": str(folder / "run"),
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def measured(run: Path) -> list[dict[str, Any]]:
    """The evaluations of a run without what a clock measured."""
    evaluations = json.loads((run / "evaluations.json").read_text())
    return [
        {key: value for key, value in entry.items() if not key.endswith("seconds")}
        for entry in evaluations
    ]


def assert_same_end(run: Path, other: Path) -> None:
    """Weights, optimisers, replay and random streams are equal to the bit."""
    stored, expected = (storage.load(max(r.glob("checkpoints/*.zip"))) for r in (run, other))
    assert stored.facts["num_timesteps"] == expected.facts["num_timesteps"]
    assert stored.tensors.keys() == expected.tensors.keys()
    different = [
        name
        for name, tensor in stored.tensors.items()
        if not torch.equal(tensor, expected.tensors[name])
    ]
    assert not different


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the energy agent."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", str(config(folder))]) == 0
    return folder / "run"


def test_a_run_is_a_folder_with_everything_in_it(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if not path.name.startswith(("events", "."))}
    evaluations = {f"evaluations.{end}" for end in ("json", "npz", "csv")}
    assert names == {"config.yaml", "checkpoints", "model.zip", "plot.png"} | evaluations
    assert (trained / "plot.png").read_bytes().startswith(PNG)
    steps = [path.stem for path in sorted((trained / "checkpoints").iterdir())]
    assert [int(stem.rpartition("-")[2]) for stem in steps] == [200, 240]


def test_evaluations_hold_every_episode_and_its_start(trained: Path) -> None:
    evaluations = json.loads((trained / "evaluations.json").read_text())
    assert [entry["timesteps"] for entry in evaluations] == [100, 200, 240]
    for entry in evaluations:
        assert entry["seeds"] == [10_000, 10_001, 10_002]
        assert entry["lengths"] == [20, 20, 20]
        assert entry["mean"] == pytest.approx(np.mean(entry["returns"]))
        assert entry["std"] == pytest.approx(np.std(entry["returns"]))
    assert 0 < evaluations[0]["cpu_seconds"] < evaluations[-1]["cpu_seconds"]
    assert 0 < evaluations[0]["wall_seconds"] < evaluations[-1]["wall_seconds"]


def test_tensorboard_has_returns_speed_and_what_the_agent_logs(trained: Path) -> None:
    events = EventAccumulator(str(trained))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"evaluation/return_mean", "time/steps_per_second", "train/ent_coef"} <= scalars
    assert [point.step for point in events.Scalars("evaluation/return_mean")] == [100, 200, 240]


def test_the_resolved_config_gives_the_same_configuration_back(trained: Path) -> None:
    configuration = read(trained / "config.yaml")
    assert configuration.settings.name == "tiny"
    assert configuration.agent_arguments["gamma"] == 0.99  # written out, though it is a default
    assert yaml.safe_load(configuration.text) == yaml.safe_load(
        (trained / "config.yaml").read_text()
    )


def test_the_saved_model_is_the_agent_of_the_last_checkpoint(trained: Path) -> None:
    agent, configuration = rebuild(existing(trained))
    saved = configuration.agent_class.load(trained / "model.zip", device="cpu")
    observation = np.array([0.3], dtype=np.float32)
    assert agent.num_timesteps == 240
    assert np.array_equal(
        agent.predict(observation, deterministic=True)[0],
        saved.predict(observation, deterministic=True)[0],
    )


def test_evaluate_prints_and_writes_and_depends_on_nothing_but_the_seed(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(trained), "--episodes", "13", "--seed", "7"]
    assert main(arguments) == 0
    first = json.loads((trained / "evaluation-240.json").read_text())
    assert main(arguments) == 0
    assert json.loads((trained / "evaluation-240.json").read_text()) == first
    assert first["seeds"] == list(range(7, 20))
    assert f"return {first['mean']:.2f} ± {first['std']:.2f}" in capsys.readouterr().out
    assert main([*arguments[:2], "--episodes", "4", "--seed", "7"]) == 0
    assert (
        json.loads((trained / "evaluation-240.json").read_text())["returns"]
        == (first["returns"][:4])
    )


def test_plot_draws_again(trained: Path) -> None:
    (trained / "plot.png").unlink()
    assert main(["plot", str(trained)]) == 0
    assert (trained / "plot.png").read_bytes().startswith(PNG)
    assert not list(trained.glob(".plot*"))


def test_evaluations_leave_no_trace_in_the_training(trained: Path, tmp_path: Path) -> None:
    assert main(["train", str(config(tmp_path, evaluate_every=17, evaluation_episodes=11))]) == 0
    assert_same_end(tmp_path / "run", trained)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(trained: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert main(["train", str(config(tmp_path))]) == 0
    (run.checkpoints / "checkpoint-000000000240.zip").unlink()  # as if killed after step 200
    run.model.unlink()
    assert main(["resume", str(run.folder)]) == 0
    assert run.model.exists()
    assert_same_end(run.folder, trained)
    assert measured(run.folder) == measured(trained)


def test_a_run_killed_in_its_last_evaluation_repeats_it(trained: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert main(["train", str(config(tmp_path))]) == 0
    run.model.unlink()
    write_evaluations(run, read_evaluations(run)[:-1])
    assert main(["resume", str(run.folder)]) == 0
    assert measured(run.folder) == measured(trained)


def test_a_killed_process_resumes_to_the_same_result(tmp_path: Path) -> None:
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
        config(tmp_path / name, total_timesteps=500)
        path = tmp_path / name / "tiny.yaml"
        path.write_text(path.read_text().replace("CommandTest/Aim-v0", "Pendulum-v1"))
    assert main(["train", str(tmp_path / "whole" / "tiny.yaml")]) == 0
    run = tmp_path / "killed" / "run"
    command = [sys.executable, "-m", "ebrl.command"]
    process = subprocess.Popen([*command, "train", str(tmp_path / "killed" / "tiny.yaml")])
    while process.poll() is None and not list(run.glob("checkpoints/checkpoint-*.zip")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert main(["resume", str(run)]) == 0
    assert_same_end(run, tmp_path / "whole" / "run")
    assert measured(run) == measured(tmp_path / "whole" / "run")


def test_resuming_a_finished_run_changes_nothing(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = measured(trained)
    assert main(["resume", str(trained)]) == 0
    assert measured(trained) == before
    assert "has all its 240 steps" in capsys.readouterr().out


def test_a_baseline_runs_by_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, agent="stable_baselines3.SAC", normalize="both", n_envs=2)
    assert main(["train", str(path)]) == 0
    assert "SAC has no energy to draw" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "2"]) == 0
    agent, _ = rebuild(existing(tmp_path / "run"))
    assert agent.n_envs == 2
    normalization = agent.get_vec_normalize_env()
    assert normalization is not None
    assert normalization.obs_rms.count == pytest.approx(242, abs=0.1)  # resets count, too


def test_play_counts_whole_episodes_from_the_given_starts(tmp_path: Path) -> None:
    class Still:
        """Always acts 0, so that the return is minus the sum of the squared targets."""

        def get_vec_normalize_env(self) -> None:
            return None

        def predict(self, observation: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
            assert deterministic
            return np.zeros_like(observation), None

    environments = evaluation_environments(read(config(tmp_path)), 2)
    episodes = play(Still(), environments, first_seed=5, episodes=3, longest=99)  # type: ignore[arg-type]
    for seed, total in zip(episodes.seeds, episodes.returns, strict=True):
        environment = gym.make("CommandTest/Aim-v0")
        target, _ = environment.reset(seed=seed)
        expected = 0.0
        for _ in range(20):
            expected -= float(np.square(target).sum())
            target, *_ = environment.step(np.zeros(1, dtype=np.float32))
        assert total == pytest.approx(expected)
    assert episodes.lengths == [20, 20, 20]
    assert isinstance(environments, DummyVecEnv)


def test_landscapes_show_what_the_agent_says(tmp_path: Path) -> None:
    """In two dimensions the panel is a filled contour of `agent.energy` with the samples on it."""
    from matplotlib.figure import Figure

    path = config(tmp_path, env_kwargs={"dimensions": 2})
    configuration = read(path)
    agent = build(configuration)
    figure = Figure()
    draw_landscapes(figure, configuration, agent)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [
        f"step {step} of an episode" for step in (0, 1, 10)
    ]
    for axes in panels:
        assert axes.get_xlabel() == "action[0]"
        assert axes.get_xlim() == (-1, 1)
        samples = axes.lines[0].get_xydata()
        assert samples.shape == (2048, 2)
        assert np.abs(samples).max() <= 1


def test_help_teaches_without_loading_the_agents() -> None:
    """Help must be quick: it is what a newcomer types first."""
    code = (
        "import sys; from ebrl.command import main; assert main(['--help']) == 0; "
        "heavy = {'stable_baselines3', 'gymnasium', 'matplotlib', 'jsonargparse'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in VERBS:
        assert f"ebrl {verb} " in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([verb, "--help"])
    except SystemExit as exit:
        code = exit.code
    assert code == 0
    assert f"ebrl {verb} " in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["train", "fit", "sample"])
def test_help_names_types_in_words(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main([verb, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "a whole number from 0 to 2^32 - 1" in shown
    assert not re.search(r"known subclasses|type: (Seed|Count|PositiveInt|Literal\[)", shown)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ebrl {version('ebrl')}\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_return_speed_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["train", str(config(tmp_path))]) == 0
    bars = [part for part in terminal.getvalue().split("\r") if "steps/s" in part]
    pattern = r" *\d+%\|.*\| \d+/240 steps, return -?\d+(\.\d+)?, +[\d.]+ steps/s, [\d:]+ left"
    assert any(re.match(pattern, bar) for bar in bars), bars


def test_no_bar_where_there_is_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a log there is a line for each evaluation and nothing that moves."""
    assert main(["train", str(config(tmp_path))]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert "\r" not in said.out
    assert said.out.count("episodes)") == 3
