"""Numbers that are not finite: refused where they enter, and stopped where they arise."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_agents import NETS, SMALL, both, continuous
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from ebrl.agents import EnergyActorCritic, SoftQ
from ebrl.agents.checkpoints import Checkpoints, restore, save_checkpoint
from ebrl.agents.finite import check_finite_agent
from ebrl.agents.replayable import Replayable
from ebrl.storage import load
from ebrl.training import DivergedError


class Broken(gym.Wrapper):
    """Gives NaN: as an observation or a reward at step 30, or in a reset."""

    def __init__(self, env: gym.Env, where: str) -> None:
        super().__init__(env)
        self.where, self.steps = where, 0

    def reset(self, **arguments: Any) -> Any:
        observation, info = self.env.reset(**arguments)
        return observation * (np.nan if self.where == "reset" else 1.0), info

    def step(self, action: Any) -> Any:
        self.steps += 1
        observation, reward, *rest = self.env.step(action)
        if self.steps == 30 and self.where == "observation":
            observation = np.full_like(observation, np.nan)
        if self.steps == 30 and self.where == "reward":
            reward = float("nan")
        return observation, reward, *rest


@pytest.mark.parametrize("where", ["observation", "reward"])
@pytest.mark.parametrize(
    ("kind", "name"), [(EnergyActorCritic, "Pendulum-v1"), (SoftQ, "CartPole-v1")]
)
def test_nan_from_an_environment_stops_before_a_weight_changes(
    kind: Any, name: str, where: str
) -> None:
    agent = kind("MlpPolicy", Broken(gym.make(name), where), **SMALL, **NETS, seed=0)
    with pytest.raises(ValueError, match=f"finite {where}, got NaN .* {name} at step 30"):
        agent.learn(60)
    assert agent.replay_buffer.size() == 29
    assert all(parameter.isfinite().all() for parameter in agent.policy.parameters())


class Nameless(DummyVecEnv):
    """Environments without a spec, as those of some simulators, and a NaN in the third step."""

    count = 0

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name in ("spec", "unwrapped"):
            raise AttributeError(attr_name)
        return super().get_attr(attr_name, indices)

    def step_wait(self) -> Any:
        self.count += 1
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards * (np.nan if self.count == 3 else 1), dones, infos


def test_nan_from_environments_without_a_name_is_said() -> None:
    env = Nameless([lambda: gym.make("Pendulum-v1")])
    agent = EnergyActorCritic("MlpPolicy", env, **SMALL, **NETS)
    with pytest.raises(ValueError, match=r"finite reward, got NaN .* Nameless at step 3"):
        agent.learn(10)


@both
def test_nan_from_a_reset_stops_before_the_first_step(build: Any) -> None:
    agent = build()
    agent.set_env(Broken(agent.get_env().envs[0], "reset"))
    with pytest.raises(
        ValueError, match=r"finite observation, got NaN .* reset of the environment"
    ):
        agent.learn(60)
    assert agent.num_timesteps == 0


def test_an_energy_that_overflows_is_a_diverged_training() -> None:
    agent = continuous()
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.fill_(1e38)
    with pytest.raises(DivergedError, match=r"after step .* the training diverged"):
        agent.learn(60)


@both
def test_nan_cannot_be_acted_on(build: Any) -> None:
    agent = build()
    seen = np.full(agent.observation_space.shape, np.nan, np.float32)
    with pytest.raises(ValueError, match="expected a finite observation"):
        agent.predict(seen, deterministic=True)
    with pytest.raises(ValueError, match="expected a finite observation"):
        agent.sample_actions(seen, 4)


@both
def test_what_reset_returns_is_no_observation(build: Any) -> None:
    agent = build()
    with pytest.raises(ValueError, match="passed a tuple to the predict"):
        agent.predict(agent.env.envs[0].reset())


def test_weights_that_are_put_back_go_on_learning() -> None:
    agent = continuous(policy_delay=3).learn(60)
    good = copy.deepcopy(agent.get_parameters())
    while agent._n_updates % 3 != 2:
        agent.train(1, 8)
    nn.init.constant_(agent.proposal.head.bias, float("nan"))
    with pytest.raises(DivergedError):
        agent.train(1, 8)
    agent.set_parameters(good)
    agent.train(1, 8)


@pytest.mark.parametrize(
    ("kind", "name", "rate"),
    [(EnergyActorCritic, "Pendulum-v1", 1e6), (SoftQ, "CartPole-v1", 1e12)],
)
def test_a_diverged_training_stops_and_its_good_checkpoint_stays(
    kind: Any, name: str, rate: float, tmp_path: Path
) -> None:
    env = Replayable(gym.make(name))
    agent = kind("MlpPolicy", env, learning_rate=rate, **SMALL, **NETS, seed=0, train_freq=1)
    with pytest.raises(DivergedError, match="diverge"):
        agent.learn(400, callback=Checkpoints(tmp_path, every=1))
    for path in tmp_path.glob("*.zip"):
        for key, tensor in load(path).tensors.items():
            if "learnt/parameters/policy/" in key and "adaptation" not in key:
                assert tensor.isfinite().all(), key


def test_a_checkpoint_of_lost_weights_is_refused(tmp_path: Path) -> None:
    agent = SoftQ("MlpPolicy", Replayable(gym.make("CartPole-v1")), **SMALL, **NETS, seed=0)
    agent.learn(20, callback=Checkpoints(tmp_path, every=20))
    nn.init.constant_(agent.critic.layers[0].bias, float("nan"))
    with pytest.raises(DivergedError, match=r"diverged by step 20: `policy\..*bias` is not finite"):
        save_checkpoint(tmp_path / "checkpoint-000000000020.zip", agent)
    restore(agent, tmp_path)  # the good one


def test_a_checkpoint_of_lost_moments_is_refused(tmp_path: Path) -> None:
    agent = SoftQ("MlpPolicy", Replayable(gym.make("CartPole-v1")), **SMALL, **NETS, seed=0)
    agent.learn(60)
    next(iter(agent.critic.optimizer.state.values()))["exp_avg"].fill_(float("inf"))
    with pytest.raises(DivergedError, match=r"`critic\.optimizer\.state\.0\.exp_avg`"):
        save_checkpoint(tmp_path / "checkpoint.zip", agent)


def test_a_policy_may_hold_an_infinite_constant() -> None:
    agent = SoftQ("MlpPolicy", gym.make("CartPole-v1"), **SMALL, **NETS, seed=0)
    agent.policy.register_buffer("mask", torch.tensor([-torch.inf, 0.0]))
    check_finite_agent(agent)
    agent.policy.mask.fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"`policy\.mask` is not finite"):
        check_finite_agent(agent)
