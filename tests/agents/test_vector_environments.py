"""Gymnasium's vector environments behind Stable-Baselines3's conventions, in every mode."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import NormalizeObservation
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from ebrl.agents.vector_environments import FromVectorEnv, split_infos

LONGEST = 5


class Count(gym.Env[Any, int]):
    """Observes (episode, step); action 1 ends it; after `LONGEST` steps it is cut off."""

    observation_space = spaces.Box(0, 1_000, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.episode, self.steps = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self.seen(), {"first": self.episode}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.steps += 1
        ended, cut = bool(action), self.steps == LONGEST
        return self.seen(), float(self.steps), ended, cut, {"at": self.steps}

    def seen(self) -> Any:
        return np.array([self.episode, self.steps], np.float32)


class Named(Count):
    """The same, with a dictionary of observations."""

    observation_space = spaces.Dict({"count": Count.observation_space})

    def seen(self) -> Any:
        return {"count": super().seen()}


ACTIONS = (np.random.default_rng(0).random((40, 3)) < 0.2).astype(int)


def played(env: Any) -> list[Any]:
    """Every step's outcome, without the clock."""
    outcome: list[Any] = [env.reset()]
    for actions in ACTIONS:
        seen, rewards, dones, infos = env.step(actions)
        for info in infos:
            if "episode" in info:
                del info["episode"]["t"]
        outcome.append((seen, rewards, dones, infos))
    return outcome


@pytest.mark.parametrize("kind", [Count, Named])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_every_mode_gives_what_a_dummy_vec_env_gives(mode: AutoresetMode, kind: Any) -> None:
    vector = SyncVectorEnv([kind] * 3, autoreset_mode=mode)
    ours = played(FromVectorEnv(vector))
    theirs = played(DummyVecEnv([lambda: Monitor(kind())] * 3))
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_equal(mine, expected)


def test_truncation_is_not_termination() -> None:
    env = FromVectorEnv(SyncVectorEnv([Count] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    env.reset()
    for _ in range(LONGEST - 1):
        env.step(np.array([0, 0]))
    _, _, dones, infos = env.step(np.array([0, 1]))  # the second ends as it is cut off
    assert dones.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False]
    assert env.reset_infos == [{"first": 2}, {"first": 2}]


class Late(VectorEnv):
    """A vector environment of its own, that resets in the step after an end and knows no mask."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self) -> None:
        self.inside = SyncVectorEnv([Count] * 2)
        self.num_envs = 2
        for name in ("observation_space", "action_space"):
            setattr(self, name, getattr(self.inside, name))
            setattr(self, f"single_{name}", getattr(self.inside, f"single_{name}"))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        assert options is None
        return self.inside.reset(seed=seed)

    def step(self, actions: Any) -> Any:
        return self.inside.step(actions)


def test_a_late_reset_is_one_more_row_that_leads_nowhere() -> None:
    with pytest.warns(UserWarning, match="one row more"):
        env = FromVectorEnv(Late())
    env.reset()
    seen, rewards, dones, infos = env.step(np.array([1, 0]))
    assert dones.tolist() == [True, False]
    assert infos[0]["terminal_observation"].tolist() == [1, 1]
    assert infos[0]["episode"]["r"] == 1.0
    seen, rewards, dones, infos = env.step(np.array([0, 0]))
    assert seen.tolist() == [[2, 0], [1, 2]]
    assert rewards.tolist() == [0, 2]
    assert dones.tolist() == [True, False]
    assert infos[0]["terminal_observation"].tolist() == [1, 1]
    assert "episode" not in infos[0]
    _, rewards, dones, infos = env.step(np.array([1, 0]))
    assert rewards.tolist() == [1, 3]
    assert infos[0]["episode"] == {"r": 1.0, "l": 1, "t": infos[0]["episode"]["t"]}


def test_evaluations_count_episodes_and_not_resets() -> None:
    with pytest.warns(UserWarning, match="counts it twice"):
        env = FromVectorEnv(gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point"))
    agent = DQN("MlpPolicy", "CartPole-v1", seed=0)
    returns, lengths = evaluate_policy(agent, env, 6, return_episode_rewards=True)
    assert returns == lengths  # a reward of 1 a step, and no episode without one
    assert min(lengths) > 1


def test_a_vector_that_does_not_say_when_it_resets_is_refused() -> None:
    silent = Late()
    silent.metadata = {}
    with pytest.raises(ValueError, match="Late with an autoreset_mode, got none"):
        FromVectorEnv(silent)


def test_a_wrapper_that_cannot_reset_in_part_leaves_resets_to_the_environments() -> None:
    made = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    with pytest.warns(UserWarning, match="SyncVectorEnv resets in the step after an end"):
        env = FromVectorEnv(NormalizeObservation(made))
    agent = DQN("MlpPolicy", env, learning_starts=10, train_freq=2, seed=0).learn(100)
    assert len(agent.ep_info_buffer) >= 2


def test_options_are_those_of_all_environments() -> None:
    env = FromVectorEnv(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    env.set_options([{"low": -0.01, "high": 0.01}, {"low": -0.04, "high": 0.04}])
    with pytest.raises(ValueError, match="the same options for all environments"):
        env.reset()
    env.set_options({"low": -0.01, "high": 0.01})
    assert np.abs(env.reset()).max() <= 0.01


def test_an_agent_learns_in_what_make_vec_returns() -> None:
    env = FromVectorEnv(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    agent = DQN("MlpPolicy", env, learning_starts=10, train_freq=2, seed=0)
    agent.learn(60)
    assert agent.num_timesteps == 60
    assert len(agent.ep_info_buffer) >= 1
    assert env.get_attr("gravity") == [9.8, 9.8]


def test_infos_are_those_of_each_environment() -> None:
    infos = {"a": np.array([1, 2]), "_a": np.array([True, False]), "b": {"c": np.array([3, 4])}}
    each = split_infos(infos, 2)
    assert each == [{"a": 1, "b": {"c": 3}}, {"b": {"c": 4}}]
    assert split_infos(each, 2) == each  # as Gymnasium's DictInfoToList gives them
