"""Checkpoints of environments that do not reproduce themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from saved_agents import TINY
from stable_baselines3 import DQN

from ebrl.agents.checkpoints import Checkpoints, restore
from ebrl.agents.replayable import Replayable


class Entropy(gym.Env):
    """Observations that no seed governs."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        return np.frombuffer(os.urandom(1), np.uint8) / 255.0, {}

    def step(self, action: Any) -> tuple:
        return np.frombuffer(os.urandom(1), np.uint8) / 255.0, 1.0, False, False, {}


def entropy() -> DQN:
    return DQN("MlpPolicy", Replayable(Entropy()), **TINY, policy_kwargs={"net_arch": [8]})


def test_an_environment_that_does_not_reproduce_itself_starts_a_new_episode(
    tmp_path: Path,
) -> None:
    entropy().learn(52, callback=Checkpoints(tmp_path, 20))
    agent = entropy()
    with pytest.warns(UserWarning, match="environment 0 did not reproduce its episode: new"):
        restored = restore(agent, tmp_path)
    assert len(restored.notes) == 1
    assert agent.replay_buffer is not None
    assert agent.replay_buffer.dones[51] == agent.replay_buffer.timeouts[51] == 1  # cut, not ended
    agent.learn(8, reset_num_timesteps=False)
    assert agent.num_timesteps == 60
    assert agent.env is not None
    assert len(agent.env.get_attr("rewards")[0]) == 8  # the new episode


def test_an_environment_that_is_not_replayable_is_named(tmp_path: Path) -> None:
    def plain() -> DQN:
        return DQN("MlpPolicy", gym.make("CartPole-v1"), **TINY)

    with pytest.warns(UserWarning, match=r"environments \[0\] are not Replayable"):
        plain().learn(30, callback=Checkpoints(tmp_path, 20))
    with pytest.warns(UserWarning, match="environment 0 is not Replayable: new episodes"):
        restore(plain(), tmp_path)
