"""What a config may say, and what the configs of the repository say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ebrl.command.configs.agent_config import read
from ebrl.command.configs.schema import EXTRAS
from ebrl.command.errors import UsageError
from ebrl.command.training.agent_training import build

CONFIGS = Path(__file__).parents[3] / "configs"


def config(folder: Path, **changes: Any) -> Path:
    """A small config in `folder`; `changes` are top-level keys."""
    arguments = {"policy": "MlpPolicy", "env": "Pendulum-v1", "batch_size": 32}
    agent = {"class_path": "ebrl.agents.EnergyActorCritic", "init_args": arguments}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"agent": agent, "total_timesteps": 100, **changes}))
    return path


@pytest.mark.parametrize("option", ["agent.learning_rate", "agent.init_args.learning_rate"])
def test_options_override_the_config(tmp_path: Path, option: str) -> None:
    configuration = read(config(tmp_path), [f"--{option}", "1e-2", "--seed", "5"])
    assert configuration.agent_arguments["learning_rate"] == 1e-2
    assert configuration.agent_arguments["batch_size"] == 32
    assert configuration.settings.seed == 5


@pytest.mark.parametrize("options", [["--best"], ["--best", "--seed", "5"], ["--best", "true"]])
def test_a_switch_needs_no_value(tmp_path: Path, options: list[str]) -> None:
    assert read(config(tmp_path), options).settings.best
    assert not read(config(tmp_path, best=True), ["--best", "false"]).settings.best


def test_the_agent_can_be_switched(tmp_path: Path) -> None:
    configuration = read(config(tmp_path), ["--agent", "stable_baselines3.SAC"])
    assert configuration.agent_class.__name__ == "SAC"
    assert configuration.agent_arguments["batch_size"] == 32


def test_the_default_folder_names_task_agent_and_seed(tmp_path: Path) -> None:
    path = config(tmp_path)
    assert read(path, ["--seed", "3"]).run == "runs/tiny/EnergyActorCritic-3"
    assert read(path, ["--agent", "stable_baselines3.SAC"]).run == "runs/tiny/SAC-0"


def test_a_config_can_hold_schedules_noise_and_classes(tmp_path: Path) -> None:
    schedule = "stable_baselines3.common.utils.LinearSchedule"
    noise = "stable_baselines3.common.noise.OrnsteinUhlenbeckActionNoise"
    path = tmp_path / "objects.yaml"
    path.write_text(
        "agent:\n  class_path: stable_baselines3.SAC\n  init_args:\n"
        "    policy: stable_baselines3.sac.MlpPolicy\n    env: Pendulum-v1\n"
        f"    learning_rate: {{class_path: {schedule}, init_args: "
        "{start: 1.0e-3, end: 0.0, end_fraction: 1.0}}\n"
        f"    action_noise: {{class_path: {noise}, init_args: {{mean: [0.0], sigma: [0.5]}}}}\n"
        "    policy_kwargs: {activation_fn: torch.nn.Tanh, net_arch: [16]}\n"
        "total_timesteps: 10\n"
    )
    agent = build(read(path))
    assert agent.lr_schedule(0.5) == pytest.approx(5e-4)
    assert any(isinstance(module, torch.nn.Tanh) for module in agent.policy.modules())
    assert agent.action_noise is not None
    (tmp_path / "again.yaml").write_text(read(path).text)
    assert read(tmp_path / "again.yaml").text == read(path).text


TASKS = sorted(CONFIGS.glob("*.yaml"))
TWINS = sorted((CONFIGS / "baselines").rglob("*.yaml"))


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.name)
def test_every_task_has_a_baseline(path: Path) -> None:
    assert path.name in {twin.name for twin in TWINS}
    assert read(path).settings.name == path.stem


@pytest.mark.parametrize("path", TWINS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_baseline_is_of_a_task(path: Path) -> None:
    baseline, task = read(path), read(CONFIGS / path.name)
    assert baseline.environment == task.environment
    assert baseline.settings.total_timesteps == task.settings.total_timesteps
    assert baseline.settings.evaluate_every == task.settings.evaluate_every
    assert baseline.agent_class is not task.agent_class


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRAS, "no_package", "contrib")
    agent = {"class_path": "no_package.TQC", "init_args": {"policy": "MlpPolicy"}}
    with pytest.raises(UsageError, match=r"TQC needs no_package: pip install 'ebrl\[contrib\]'"):
        read(config(tmp_path, agent=agent), trust=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"agent": {"class_path": 3}}, r"agent.class_path: expected the dotted path.*got 3"),
        (
            {"agent": {"class_path": "ebrl.agents.SoftQ", "init_args": 7}},
            r"agent.init_args: expected a mapping of arguments, got 7",
        ),
        ({"n_envs": 10**9}, "n_envs: expected a whole number from 1 to 65536"),
    ],
)
def test_a_value_of_another_kind_is_named(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        read(config(tmp_path, **change))
