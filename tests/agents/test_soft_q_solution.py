"""Soft Q-learning reaches the exact soft solution of a chain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from soft_q_agents import DISCOUNT, TABLE, chain_agent, target_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from ebrl.agents import SoftQ
from ebrl.agents.soft_q_policy import boltzmann
from ebrl.envs import ChainEnv, ChainModel, evaluate_chain, solve_chain


def every_transition(model: ChainModel) -> tuple[ReplayBufferSamples, np.ndarray, np.ndarray]:
    """All (state, action, next state or end), their probabilities and which pair they belong to."""
    rows, probabilities, pairs = [], [], []
    states, actions = model.reward.shape
    for state in np.flatnonzero(model.acting):
        for action in range(actions):
            going_on = model.transition[state, action]
            outcomes = [*enumerate(going_on), (0, 1 - going_on.sum())]
            for j, (following, probability) in enumerate(outcomes):
                if probability > 0:
                    rows.append((state, action, following, float(j == states)))
                    probabilities.append(probability)
                    pairs.append((state, action))
    state, action, following, done = (np.array(column) for column in zip(*rows, strict=True))
    batch = ReplayBufferSamples(
        observations=torch.eye(states)[state],
        actions=torch.as_tensor(action).unsqueeze(1),
        next_observations=torch.eye(states)[following],
        dones=torch.as_tensor(done, dtype=torch.float32).unsqueeze(1),
        rewards=torch.as_tensor(model.reward[state, action], dtype=torch.float32).unsqueeze(1),
    )
    return batch, np.array(probabilities), np.array(pairs)


def iterate_to_the_fixed_point(agent: SoftQ, model: ChainModel) -> None:
    """Put the expected target into the table until it stays."""
    batch, probabilities, pairs = every_transition(model)
    for network in (agent.critic, agent.critic_target):
        for parameter in network.parameters():
            parameter.data.zero_()
    table = agent.critic_target.layers[0].weight.data[0]  # (states, actions), energies
    for _ in range(400):
        q = np.zeros(model.reward.shape)
        np.add.at(q, tuple(pairs.T), probabilities * target_of(agent, batch))
        table.copy_(torch.as_tensor(-q))
    agent.policy.critic.load_state_dict(agent.policy.critic_target.state_dict())


def policy_table(agent: SoftQ) -> np.ndarray:
    states = np.eye(8, dtype=np.float32)
    return np.stack([agent.policy_probabilities(state) for state in states])


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0])
def test_the_fixed_point_is_the_exact_soft_solution(temperature):
    model = ChainEnv().model()
    agent, exact = chain_agent(temperature), solve_chain(model, DISCOUNT, temperature)
    iterate_to_the_fixed_point(agent, model)
    states = np.eye(8, dtype=np.float32)[model.acting]
    q = -np.stack([agent.energy(state) for state in states])
    np.testing.assert_allclose(q, exact.q[model.acting], atol=1e-5)  # float32 sums
    np.testing.assert_allclose(
        policy_table(agent)[model.acting], exact.policy[model.acting], atol=1e-4
    )


@pytest.mark.parametrize("munchausen", [0.5, 0.9])
def test_munchausen_s_fixed_point_has_a_lower_temperature(munchausen):
    model, tau = ChainEnv().model(), 0.5
    agent = chain_agent(tau, munchausen=munchausen, munchausen_clip=-1e6)
    iterate_to_the_fixed_point(agent, model)
    exact = solve_chain(model, DISCOUNT, (1 - munchausen) * tau)
    np.testing.assert_allclose(
        policy_table(agent)[model.acting], exact.policy[model.acting], atol=1e-4
    )
    hotter = solve_chain(model, DISCOUNT, tau)
    assert np.abs(hotter.policy - exact.policy)[model.acting].max() > 0.1  # the test can tell


# ---- learnt by acting ---------------------------------------------------------------------------


def learn_chain(seed: int = 0, steps: int = 12_000, **kwargs: Any) -> SoftQ:
    """Act in eight chains; the learning rate goes to 0, so that the table averages."""
    arguments: dict[str, Any] = {
        "learning_rate": lambda left: 0.05 * left,
        "buffer_size": 12_000,
        "learning_starts": 400,
        "batch_size": 256,
        "tau": 0.1,
        "gamma": DISCOUNT,
        "train_freq": 1,
        "ent_coef": 0.3,
        "policy_kwargs": TABLE,
        "seed": seed,
    }
    env = make_vec_env(ChainEnv, n_envs=8, seed=seed)
    return SoftQ("MlpPolicy", env, **{**arguments, **kwargs}).learn(steps)


def learnt_errors(agent: SoftQ, temperature: float) -> tuple[float, float, float, float]:
    """Largest errors over the states of policy, entropy, soft value, and what the policy loses."""
    model = ChainEnv().model()
    exact = solve_chain(model, DISCOUNT, temperature)
    learnt = policy_table(agent)
    states = torch.eye(8)
    value = boltzmann(agent.policy.energies(states), agent.policy.temperature).soft_value.numpy()
    entropy = -(learnt * np.log(learnt)).sum(-1)
    loss = exact.value - evaluate_chain(model, learnt, DISCOUNT, temperature).value
    gaps = (learnt - exact.policy, entropy - exact.entropy, value - exact.value, loss)
    policy, entropies, values, losses = (float(np.abs(gap[model.acting]).max()) for gap in gaps)
    return policy, entropies, values, losses


# Over 6 seeds at 12,000 transitions the largest error over the states was, on average and at most,
# .024 and .029 (policy), .019 and .025 (entropy), .032 and .054 (value), .0009 and .0015 (loss):
# the noise of the chain's own transitions. The bounds are twice the worst.


@pytest.mark.parametrize(
    "critics",
    [
        {},
        pytest.param(
            {"normalization": "batch", "target": "none", "scale_rewards": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["averaged", "normalised"],
)
def test_training_by_acting_approaches_the_exact_solution(critics):
    policy, entropy, value, loss = learnt_errors(learn_chain(**critics), 0.3)
    assert policy <= 0.06
    assert entropy <= 0.05
    assert value <= 0.11
    assert loss <= 0.003


def test_munchausen_trained_by_acting_approaches_its_own_solution():
    # Entropies at half the temperature are smaller and as uncertain: .050 and .074 over 6 seeds.
    policy, entropy, _, loss = learnt_errors(learn_chain(munchausen=0.5, munchausen_clip=-50), 0.15)
    assert policy <= 0.06
    assert entropy <= 0.15
    assert loss <= 0.003


# ---- the temperature ----------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "initial"), [(0.3, 3.0), (0.6, 0.01)])
def test_an_automatic_temperature_reaches_the_target_entropy(target, initial):
    agent = learn_chain(ent_coef="auto", initial_ent_coef=initial, target_entropy=target)
    replay = agent.replay_buffer.sample(20_000).observations
    probabilities = agent.policy.probabilities(replay)
    entropy = torch.special.entr(probabilities).sum(-1).mean().item()
    assert entropy == pytest.approx(target * math.log(2), abs=0.03)
    assert agent.policy.temperature.item() == pytest.approx(agent.log_ent_coef.exp().item())
    assert agent.policy.temperature.item() != pytest.approx(initial, rel=0.5)


def test_a_fixed_temperature_stays():
    agent = learn_chain(ent_coef=0.7, steps=600)
    assert agent._n_updates > 0
    assert agent.policy.temperature.item() == pytest.approx(0.7)
    assert agent.ent_coef_optimizer is None
