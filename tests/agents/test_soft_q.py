"""SoftQ against closed forms, the tabular soft optimum of Chain-v0, and CartPole."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from soft_q_agents import DISCOUNT, TABLE, chain_agent, some_batch, target_of, target_q
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

from ebrl.agents import SoftQ
from ebrl.agents.soft_agent import Due
from ebrl.agents.soft_q_policy import boltzmann
from ebrl.envs import ChainEnv

# ---- the Boltzmann distribution -----------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_boltzmann_is_the_textbook_formula(temperature):
    energies = torch.randn(64, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = boltzmann(energies, torch.tensor(temperature, dtype=torch.float64))
    weights = np.exp(-energies.numpy() / temperature)
    p = weights / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(found.soft_value, temperature * np.log(weights.sum(-1)), rtol=1e-12)
    np.testing.assert_allclose(found.log_probabilities.exp(), p, rtol=1e-12)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1), atol=1e-12)


def test_boltzmann_at_the_limits():
    energies = torch.tensor([[1000.0, 1001.0, 1003.0], [-7.0, -7.0, -7.0]])
    cold = boltzmann(energies, torch.tensor(1e-3))
    torch.testing.assert_close(cold.soft_value, torch.tensor([-1000.0, 7 + 1e-3 * math.log(3)]))
    torch.testing.assert_close(cold.entropy, torch.tensor([0.0, math.log(3)]))
    hot = boltzmann(energies, torch.tensor(1e6))
    torch.testing.assert_close(hot.log_probabilities.exp(), torch.full((2, 3), 1 / 3))
    # V - T log |A| tends to the mean of Q
    spread = hot.soft_value.double() - 1e6 * math.log(3)
    torch.testing.assert_close(spread, -energies.double().mean(-1), atol=0.25, rtol=0)


# ---- the backup ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_step", [None, [0.9, 0.81, 0.729, 0.9]])
def test_the_target_is_the_soft_backup_of_the_target_network(n_step):
    agent = chain_agent(0.3)
    with torch.no_grad():  # so that the online network would give another answer
        agent.critic.layers[0].bias.add_(5.0)
    q = target_q(agent)
    value = 0.3 * np.log(np.exp(q / 0.3).sum(-1))[[2, 3, 2]]
    discount = np.full(4, DISCOUNT) if n_step is None else np.array(n_step)
    expected = np.array([0.5, -1.0, 0.0, 2.0]) + discount * np.append(value, 0.0)
    batch = some_batch(None if n_step is None else torch.tensor(n_step).unsqueeze(1))
    np.testing.assert_allclose(target_of(agent, batch), expected, rtol=1e-5)


def test_a_vanishing_temperature_gives_the_backup_of_dqn():
    agent = chain_agent(1e-6)
    best = target_q(agent).max(-1)
    expected = [0.5 + DISCOUNT * best[2], -1.0 + DISCOUNT * best[3], DISCOUNT * best[2], 2.0]
    np.testing.assert_allclose(target_of(agent, some_batch()), expected, atol=1e-5)


@pytest.mark.parametrize("clip", [-0.15, -10.0])
def test_the_munchausen_term_by_hand(clip):
    agent = chain_agent(0.3, munchausen=0.9, munchausen_clip=clip)
    plain = target_of(chain_agent(0.3), some_batch())
    q = target_q(agent)
    log_policy = q - 0.3 * np.log(np.exp(q / 0.3).sum(-1, keepdims=True))  # 0.3 log pi
    taken = log_policy[[1, 2, 3, 4], [0, 1, 1, 0]]
    assert (taken < -0.15).any(), "the clip of the first case must be met"
    expected = plain + 0.9 * np.maximum(taken, clip)
    np.testing.assert_allclose(target_of(agent, some_batch()), expected, rtol=1e-5)


def test_several_critics_back_up_their_smallest_q_and_act_by_the_mean():
    agent = SoftQ(
        "MlpPolicy", ChainEnv(), ent_coef=0.3, policy_kwargs={**TABLE, "n_critics": 3}, seed=0
    )
    with torch.no_grad():
        q = -agent.policy.critic_target(torch.eye(8)).numpy()  # (members, states, actions)
        mean = -agent.critic(torch.eye(8)).numpy().mean(0)
    assert q.shape == (3, 8, 2)
    value = 0.3 * np.log(np.exp(q.min(0) / 0.3).sum(-1))
    expected = 0.5 + 0.99 * value[2]
    assert target_of(agent, some_batch())[0] == pytest.approx(expected, rel=1e-5)
    weights = np.exp(mean[4] / 0.3)
    state = np.eye(8, dtype=np.float32)[4]
    np.testing.assert_allclose(agent.energy(state), -mean[4], rtol=1e-5)
    np.testing.assert_allclose(
        agent.policy_probabilities(state), weights / weights.sum(), rtol=1e-5
    )


def test_an_update_is_a_gradient_step_on_half_the_squared_bellman_error():
    rate = 0.1
    agent = chain_agent(0.3)
    agent.critic.optimizer = torch.optim.SGD(agent.critic.parameters(), lr=rate)
    batch = some_batch()
    before = agent.critic.layers[0].weight.detach().clone()  # (1, states, actions)
    bias = agent.critic.layers[0].bias.detach().clone()
    target = target_of(agent, batch)
    metrics = agent._update(agent._transitions(batch), (), Due(policy=True, target=False))
    expected, loss = before.clone(), 0.0
    for i in range(4):
        state, action = int(batch.observations[i].argmax()), int(batch.actions[i])
        error = float(before[0, state, action] + bias[0, 0, action]) + target[i]
        expected[0, state, action] -= rate * error / 4
        loss += 0.5 * error**2 / 4
    torch.testing.assert_close(agent.critic.layers[0].weight.detach(), expected)
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(("tau", "interval"), [(0.25, 1), (1.0, 3)])
def test_the_target_network_follows_across_calls_of_train(tau, interval):
    agent = chain_agent(0.3, tau=tau, target_update_interval=interval, learning_starts=0)
    agent.set_logger(configure(None, []))
    for i in range(20):
        agent.replay_buffer.add(
            np.eye(8)[None, i % 7],
            np.eye(8)[None, i % 7 + 1],
            np.array([[i % 2]]),
            [1.0],
            [0],
            [{}],
        )
    online, expected = agent.critic.layers[0].weight, agent.critic_target.layers[0].weight.clone()
    for step in range(1, 8):
        agent.train(1, batch_size=8)
        if step % interval == 0:
            expected += tau * (online.detach() - expected)
        torch.testing.assert_close(agent.critic_target.layers[0].weight, expected)
    assert not torch.equal(online, agent.critic_target.layers[0].weight)


# ---- acting, energies, refusals -----------------------------------------------------------------


def test_actions_are_drawn_with_the_policy_s_probabilities():
    agent = SoftQ("MlpPolicy", ChainEnv(stay=True), ent_coef=0.05, seed=0)
    state, n = np.eye(8, dtype=np.float32)[3], 20_000
    p = agent.policy_probabilities(state)
    assert p.min() > 0.01
    assert p.max() - p.min() > 0.1  # not the uniform policy
    errors = np.sqrt(p * (1 - p) / n)
    drawn = agent.sample_actions(state, n)
    assert drawn.shape == (n,)
    acted = agent.predict(np.repeat(state[None], n, 0))[0]  # one draw an observation
    for actions in (drawn, acted):
        shares = np.bincount(actions, minlength=3) / n
        assert (np.abs(shares - p) <= 4 * errors).all()


def test_energies_of_chosen_actions_and_of_all():
    agent = SoftQ("MlpPolicy", ChainEnv(stay=True), ent_coef=0.5, seed=0)
    state = np.eye(8, dtype=np.float32)[2]
    energies = agent.energy(state)
    assert energies.shape == (3,)
    np.testing.assert_array_equal(agent.energy(state, np.array([2, 0, 2])), energies[[2, 0, 2]])
    assert agent.predict(state, deterministic=True)[0] == energies.argmin()
    for wrong in (np.array([3]), np.array([-1]), np.array([0.5])):
        with pytest.raises(ValueError, match="action indices from 0 to 2"):
            agent.energy(state, wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ent_coef": -0.1}, "expected ent_coef finite and at least 0, got -0.1"),
        ({"ent_coef": math.nan}, "ent_coef"),
        ({"ent_coef": "automatic"}, "got 'automatic'"),
        ({"initial_ent_coef": -1.0}, "expected initial_ent_coef finite and above 0"),
        ({"target_entropy": 1.0}, "a fraction of log |A|, got 1.0"),
        ({"target_entropy": 0.0}, "target_entropy"),
        ({"munchausen": 1.0}, "expected munchausen >= 0 and < 1, got 1.0"),
        ({"munchausen": -0.1}, "munchausen"),
        ({"munchausen_clip": 0.0}, "munchausen_clip < 0"),
        ({"target_update_interval": 0}, "target_update_interval >= 1"),
        ({"policy_kwargs": {"n_critics": 0}}, "n_critics >= 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        SoftQ("MlpPolicy", "CartPole-v1", **arguments)


def test_actions_that_do_not_start_at_zero_are_refused():
    env = ChainEnv()
    env.action_space = gym.spaces.Discrete(2, start=1)
    with pytest.raises(ValueError, match="expected actions numbered from 0"):
        SoftQ("MlpPolicy", env)


# ---- CartPole -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole_is_solved_by_50_000_steps(seed):
    agent = SoftQ("MlpPolicy", "CartPole-v1", seed=seed).learn(50_000)
    env = make_vec_env("CartPole-v1", seed=1_000)
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=20)
    assert mean >= 475
