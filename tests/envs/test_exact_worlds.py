"""EnergyActorCritic learns a bandit with unequal modes: energy, soft value, entropy and policy."""

from __future__ import annotations

from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from ebrl.agents import EnergyActorCritic
from ebrl.envs import (
    BanditSolution,
    bandit_histogram,
    mode_index,
    solve_bandit,
    total_variation,
    total_variation_floor,
)

TEMPERATURE, DRAWS, CELLS, POINTS = 0.2, 20_000, 50, 40
CONTEXT = np.ones(1, dtype=np.float32)


class Learnt(NamedTuple):
    energy: NDArray[np.float64]  # (CELLS * POINTS,), on the midpoints of [-1, 1]
    actions: NDArray[np.float32]  # (DRAWS, 1)
    exact: BanditSolution

    def probabilities(self) -> NDArray[np.float64]:
        """The Boltzmann density of the learnt energy in each cell."""
        weights = np.exp(-(self.energy - self.energy.min()) / TEMPERATURE)
        return weights.reshape(CELLS, POINTS).sum(1) / weights.sum()

    def value(self) -> float:
        return TEMPERATURE * float(np.log(2 * np.exp(-self.energy / TEMPERATURE).mean()))

    def entropy(self) -> float:
        weights = np.exp(-self.energy / TEMPERATURE)
        return (self.value() + float((weights * self.energy).sum() / weights.sum())) / TEMPERATURE


@pytest.fixture(scope="module")
def learnt() -> Learnt:
    env = make_vec_env(
        lambda: gym.make("ebrl.envs:Bandit-v0", shape="two_modes", dimension=1), n_envs=16, seed=0
    )
    model = EnergyActorCritic(
        "MlpPolicy",
        env,
        learning_rate=LinearSchedule(1e-2, 0.0, 1.0),
        buffer_size=6_000,
        learning_starts=1_500,  # uniform actions: the critic must know where no policy goes
        batch_size=64,
        gradient_steps=6,
        candidates=1,  # of the next observation's value, which an episode of one step never uses
        components=4,
        acting_candidates=32,
        ent_coef=TEMPERATURE,
        normalization=None,
        policy_delay=1,
        adam_beta1=0.9,
        policy_kwargs={
            "net_arch": [64, 64],
            "activation_fn": nn.SiLU,
            "log_deviation_bounds": (-1.6, 2.0),  # wide: a proposal must reach every mode
        },
        seed=0,
        device="cpu",
    )
    model.learn(6_000, log_interval=10**9)  # an episode is one step: logs would cost more
    midpoints = (2 * np.arange(CELLS * POINTS) + 1) / (CELLS * POINTS) - 1
    energy = model.energy(CONTEXT, midpoints.astype(np.float32)[:, None])
    actions = [model.sample_actions(CONTEXT, 1_000) for _ in range(DRAWS // 1_000)]
    return Learnt(
        energy.astype(np.float64),
        np.concatenate(actions),
        solve_bandit("two_modes", 1, TEMPERATURE, cells=CELLS),
    )


def test_the_critic_s_density_is_the_exact_policy(learnt):
    assert total_variation(learnt.probabilities(), learnt.exact.probabilities) <= 0.03
    assert learnt.value() == pytest.approx(learnt.exact.value, abs=0.01)
    assert learnt.entropy() == pytest.approx(learnt.exact.entropy, abs=0.05)


def test_sampled_actions_are_draws_of_the_critic_s_density(learnt):
    probabilities = learnt.probabilities()
    drawn = bandit_histogram(learnt.exact, learnt.actions)
    floor = total_variation_floor(probabilities, DRAWS)
    assert total_variation(drawn, probabilities) <= floor + 0.01


def test_sampled_actions_are_near_a_perfect_sampler_s(learnt):
    exact, drawn = learnt.exact, bandit_histogram(learnt.exact, learnt.actions)
    floor = total_variation_floor(exact.probabilities, DRAWS)
    assert total_variation(drawn, exact.probabilities) <= floor + 0.05
    left = (mode_index("two_modes", learnt.actions) == 0).mean()
    assert left == pytest.approx(exact.mode_weights[0], abs=0.05)
