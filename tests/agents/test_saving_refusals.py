"""What no file of an agent holds, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from saved_agents import (
    TINY,
    OwnExtractor,
    SavedDQN,
    SavedSAC,
    assert_same,
    cartpole,
    pendulum,
    schedule,
)
from stable_baselines3 import SAC
from stable_baselines3.dqn.policies import MlpPolicy

from ebrl import storage
from ebrl.agents.arguments import from_space, to_space
from ebrl.agents.checkpoints import save_checkpoint
from ebrl.storage import StorageError

# ---- what a file cannot hold -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", schedule),
        ("policy_kwargs", {"features_extractor_class": OwnExtractor}),
    ],
)
def test_objects_are_given_again(name: str, value: Any, tmp_path: Path) -> None:
    model = pendulum(**{name: value})
    with pytest.warns(UserWarning, match=f"a file cannot hold {name}; give it to load again"):
        model.save(tmp_path / "a")
    with pytest.raises(StorageError, match=rf"cannot hold {name}=.*SavedSAC.load\(.*{name}=\.\.\."):
        SavedSAC.load(tmp_path / "a")
    assert_same(
        SavedSAC.load(tmp_path / "a", **{name: value}).get_parameters(), model.get_parameters()
    )


def test_a_policy_class_of_ones_own_is_given_again(tmp_path: Path) -> None:
    class OwnPolicy(MlpPolicy):
        pass

    with pytest.warns(UserWarning, match="a file cannot hold policy; give it to load again"):
        SavedDQN(OwnPolicy, "CartPole-v1", **TINY).save(tmp_path / "a")
    with pytest.raises(StorageError, match=r"cannot hold policy=.*policy=\.\.\."):
        SavedDQN.load(tmp_path / "a")
    assert type(SavedDQN.load(tmp_path / "a", policy=OwnPolicy).policy) is OwnPolicy


def test_a_policy_that_was_left_out_is_given_again(tmp_path: Path) -> None:
    agent = cartpole()
    agent.save(tmp_path / "a", exclude=["policy"])
    with pytest.raises(StorageError, match=r'SavedDQN\.load\(\.\.\., policy="MlpPolicy"\)'):
        SavedDQN.load(tmp_path / "a")
    loaded = SavedDQN.load(tmp_path / "a", policy="MlpPolicy")
    for mine, other in zip(loaded.policy.parameters(), agent.policy.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    "name", [["torch.nn", "init"], ["os", "system"], ["torch.nn", "modules.Tanh"], "Tanh"]
)
def test_a_name_that_is_no_known_class_is_refused(name: Any, tmp_path: Path) -> None:
    pendulum().save(tmp_path / "a.zip")
    tensors, facts = storage.load(tmp_path / "a.zip")
    text = json.dumps(facts)
    marked = json.dumps(storage.flatten({"class": ["torch.nn", "Tanh"]})[1])
    assert marked in text
    other = text.replace(marked, json.dumps(storage.flatten({"class": name})[1]))
    storage.save(tmp_path / "b.zip", tensors, json.loads(other))
    with pytest.raises(StorageError, match="expected a class of"):
        SavedSAC.load(tmp_path / "b")


# ---- files and environments that do not fit --------------------------------------------------


def test_a_pickle_of_stable_baselines_is_refused(tmp_path: Path) -> None:
    SAC("MlpPolicy", "Pendulum-v1", **TINY).save(tmp_path / "theirs.zip")
    with pytest.raises(StorageError, match="got a pickle of Stable-Baselines3"):
        SavedSAC.load(tmp_path / "theirs")


def test_another_algorithm_is_refused(tmp_path: Path) -> None:
    cartpole().save(tmp_path / "a")
    with pytest.raises(StorageError, match=r"expected SavedSAC, got SavedDQN; use SavedDQN\.load"):
        SavedSAC.load(tmp_path / "a")


def test_a_training_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.zip", cartpole().learn(20))
    with pytest.raises(StorageError, match="expected a saved agent, got a checkpoint"):
        SavedDQN.load(tmp_path / "a")


def test_other_spaces_are_refused(tmp_path: Path) -> None:
    cartpole().save(tmp_path / "a")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        SavedDQN.load(tmp_path / "a", env=gym.make("Acrobot-v1"))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    cartpole().save(tmp_path / "a")
    with pytest.raises(StorageError, match=r"expected a tensor of shape \(9, 4\)"):
        SavedDQN.load(tmp_path / "a", policy_kwargs={"net_arch": [9]})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.zip"):
        SavedDQN.load(tmp_path / "none")


# ---- spaces ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
        spaces.Box(0, 255, (4, 4, 3), np.uint8),
        spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 0.1], np.float32)),
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 3]),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict({"x": spaces.Box(0, 1, (1,))})}),
    ],
)
def test_spaces_come_back(space: spaces.Space) -> None:
    tensors, facts = storage.flatten(from_space(space))
    again = to_space(storage.unflatten(tensors, json.loads(json.dumps(facts))))
    assert again == space
    assert again.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(again) == list(space)


def test_other_kinds_of_space_are_refused() -> None:
    with pytest.raises(TypeError, match="got Text, which a file cannot hold"):
        from_space(spaces.Text(3))
