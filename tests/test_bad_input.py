"""What is refused before anything is written: one line that says it, and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from ebrl.command import main


class Unbounded(PendulumEnv):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


gym.register("BadInput/Unbounded-v0", entry_point=Unbounded)

AGENT = "ebrl.agents.EnergyActorCritic"


def config(folder: Path, environment: str = "Pendulum-v1", agent: str = AGENT) -> Path:
    content = {
        "agent": {
            "class_path": agent,
            "init_args": {
                "policy": "MlpPolicy",
                "env": environment,
                "learning_starts": 30,
                "buffer_size": 500,
                "batch_size": 16,
                "policy_kwargs": {"net_arch": [16]},
            },
        },
        "total_timesteps": 200,
        "evaluate_every": 120,
        "evaluation_episodes": 2,
        "checkpoint_every": 40,
        "run": str(folder / "run"),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def edited(folder: Path, old: str, new: str) -> Path:
    path = config(folder)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def binary(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_bytes(bytes(range(256)))
    return path


REFUSED: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    # name: (arguments of `ebrl train`, what the message must say)
    "no config file": (
        lambda folder: [str(folder / "nowhere.yaml")],
        ["no config file", "nowhere.yaml"],
    ),
    "YAML that is none": (
        lambda folder: [str(edited(folder, "MlpPolicy", "[}"))],
        ["tiny.yaml", "not YAML", "line"],
    ),
    "unknown key of the run": (
        lambda folder: [str(edited(folder, "total_timesteps", "total_timestep"))],
        ["unknown key `total_timestep`", "`total_timesteps`"],
    ),
    "unknown key of the agent": (
        lambda folder: [str(edited(folder, "batch_size", "bach_size"))],
        ["tiny.yaml: agent.bach_size: ", "no such argument", "`batch_size`"],
    ),
    "unknown option": (
        lambda folder: [str(config(folder)), "--sed", "1"],
        ["ebrl: unknown option `--sed`", "`seed`"],
    ),
    "unknown option of the agent": (
        lambda folder: [str(config(folder)), "--agent.candidate", "1"],
        ["ebrl: --agent.candidate: ", "no such argument", "`candidates`"],
    ),
    "the agent's seed": (
        lambda folder: [str(config(folder)), "--agent.seed", "1"],
        ["--agent.seed: this belongs to the run", "--seed"],
    ),
    "the agent's log": (
        lambda folder: [str(config(folder)), "--agent.tensorboard_log", "tb"],
        ["--agent.tensorboard_log: this belongs to the run, which sets it: leave it out"],
    ),
    "wrong type": (
        lambda folder: [str(config(folder)), "--agent.batch_size", "many"],
        ["ebrl: --agent.batch_size: expected", "int", "many"],
    ),
    "wrong type of the run's": (
        lambda folder: [str(config(folder)), "--seed", "x"],
        ["ebrl: --seed: expected a whole number", "'x'"],
    ),
    "wrong type in the file": (
        lambda folder: [str(edited(folder, "total_timesteps: 200", "total_timesteps: x"))],
        ["tiny.yaml: total_timesteps: expected a whole number", "'x'"],
    ),
    "wrong type of a union": (
        lambda folder: [str(config(folder)), "--agent.learning_rate", "fast"],
        ["agent.learning_rate", "float", "fast"],
    ),
    "no steps": (
        lambda folder: [str(config(folder)), "--total_timesteps", "0"],
        ["total_timesteps", "whole number > 0", "got 0"],
    ),
    "missing key": (
        lambda folder: [str(edited(folder, "total_timesteps: 200", ""))],
        ["missing", "total_timesteps"],
    ),
    "unknown agent": (
        lambda folder: [str(config(folder, agent="ebrl.agents.EnergyActorCritik"))],
        ["no class `ebrl.agents.EnergyActorCritik`", "`EnergyActorCritic`"],
    ),
    "agent that cannot resume": (
        lambda folder: [str(config(folder, agent="stable_baselines3.PPO"))],
        ["stable_baselines3.PPO", "OffPolicyAlgorithm"],
    ),
    "agent without a replay, by its short name": (
        lambda folder: [str(config(folder)), "--agent", "PPO"],
        ["--agent: there is no agent PPO here", "learns from a replay", "EnergyActorCritic", "TD3"],
    ),
    "unknown policy": (
        lambda folder: [str(edited(folder, "MlpPolicy", "MlpPolcy"))],
        ["MlpPolcy"],
    ),
    "unknown environment": (
        lambda folder: [str(config(folder, "Pendulm-v1"))],
        ["unknown environment Pendulm-v1", "`Pendulum-v1`"],
    ),
    "unknown version": (
        lambda folder: [str(config(folder, "Pendulum-v7"))],
        ["unknown environment Pendulum-v7", "`Pendulum-v1`"],
    ),
    "unknown module": (
        lambda folder: [str(config(folder, "no_such_module:Pendulum-v1"))],
        ["no_such_module", "install"],
    ),
    "unknown argument of the environment": (
        lambda folder: [str(config(folder)), "--env_kwargs", "{gravitation: 9}"],
        ["env_kwargs", "gravitation"],
    ),
    "EnergyActorCritic on discrete actions": (
        lambda folder: [str(config(folder, "CartPole-v1"))],
        ["EnergyActorCritic", "CartPole-v1", "Discrete(2)", "SoftQ"],
    ),
    "SoftQ on continuous actions": (
        lambda folder: [str(config(folder, agent="ebrl.agents.SoftQ"))],
        ["SoftQ", "Pendulum-v1", "Box", "EnergyActorCritic"],
    ),
    "SAC on discrete actions": (
        lambda folder: [str(config(folder, "CartPole-v1", agent="stable_baselines3.SAC"))],
        ["SAC", "CartPole-v1", "Discrete(2)", "SoftQ"],
    ),
    "an argument of the agent among its policy's": (
        lambda folder: [str(config(folder)), "--agent.policy_kwargs", "{moves: 0}"],
        ["policy_kwargs", "moves=0"],
    ),
    "action space without bounds": (
        lambda folder: [str(config(folder, "BadInput/Unbounded-v0"))],
        ["BadInput/Unbounded-v0", "not finite", "`low` and `high`"],
    ),
    "episodes to train after, in two environments": (
        lambda folder: [
            str(config(folder)),
            *("--n_envs", "2", "--agent.train_freq", "[1, episode]"),
        ],
        ["train_freq", "n_envs"],
    ),
    "a config that is no text": (
        lambda folder: [str(binary(folder))],
        ["tiny.yaml", "cannot be read"],
    ),
    "a config that is a list": (
        lambda folder: [str(edited(folder, "agent:", "- agent:"))],
        ["tiny.yaml", "not YAML"],
    ),
    "options before the config": (
        lambda folder: ["--seed", "1", str(config(folder))],
        ["the config comes first"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_with_its_cure_and_leaves_nothing(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, said = REFUSED[case]
    assert main(["train", *arguments(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("ebrl: ")
    assert message.count("\n") == 1, "one line"
    for part in said:
        assert part in message
    assert {path.name for path in tmp_path.iterdir()} <= {"tiny.yaml"}


@pytest.mark.parametrize(
    ("environment", "module", "extra"),
    [("Hopper-v5", "mujoco", "mujoco"), ("LunarLanderContinuous-v3", "Box2D", "box2d")],
)
def test_a_missing_extra_is_named(
    environment: str,
    module: str,
    extra: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [n for n in sys.modules if n.startswith(f"gymnasium.envs.{extra}")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["train", str(config(tmp_path, environment))]) == 2
    assert f'pip install "ebrl[{extra}]"' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], ["unknown verb `trian`", "`train`"]),
        (["resume"], ["run", "--help"]),
        (["resume", "nowhere"], ["nowhere is not the folder of a run"]),
        (["plot", "nowhere"], ["nowhere is not the folder of a run"]),
        (["evaluate", "nowhere", "--episode", "3"], ["--episode", "`--episodes`"]),
        (["evaluate", "nowhere", "--episodes", "0"], ["--episodes", "a whole number from 1"]),
        (["evaluate", "nowhere", "--episodes", "many"], ["--episodes", "many"]),
    ],
)
def test_a_wrong_command_is_refused(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    for part in said:
        assert part in message
