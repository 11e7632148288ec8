"""SoftQ against closed forms, the tabular soft optimum of Chain-v0, and CartPole."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from ebrl.agents import SoftQ
from ebrl.agents.soft_agent import Due
from ebrl.agents.soft_q_policy import boltzmann
from ebrl.envs import ChainEnv, ChainModel, evaluate_chain, solve_chain

# on one-hot observations a linear layer is a table; the minimum of several would bias it
TABLE: dict[str, Any] = {"net_arch": [], "n_critics": 1}
DISCOUNT = 0.9


def chain_agent(temperature: float, **kwargs: Any) -> SoftQ:
    return SoftQ(
        "MlpPolicy",
        ChainEnv(),
        gamma=DISCOUNT,
        ent_coef=temperature,
        policy_kwargs=TABLE,
        seed=0,
        buffer_size=100,
        **kwargs,
    )


def some_batch(discounts: Tensor | None = None) -> ReplayBufferSamples:
    """Four transitions between states of the chain, the last of which terminates."""
    states = torch.eye(8)
    return ReplayBufferSamples(
        observations=states[[1, 2, 3, 4]],
        actions=torch.tensor([[0], [1], [1], [0]]),
        next_observations=states[[2, 3, 2, 5]],
        dones=torch.tensor([[0.0], [0.0], [0.0], [1.0]]),
        rewards=torch.tensor([[0.5], [-1.0], [0.0], [2.0]]),
        discounts=discounts,
    )


def target_q(agent: SoftQ) -> np.ndarray:
    """The target network's Q of every state and action, `(states, actions)`."""
    with torch.no_grad():
        return -agent.policy.critic_target(torch.eye(8)).amax(0).numpy().astype(np.float64)


def target_of(agent: SoftQ, batch: ReplayBufferSamples) -> np.ndarray:
    transitions = agent._transitions(batch)
    moments = transitions.observations, transitions.next_observations
    energies = (agent.critic_target(one) for one in moments)
    return agent._target(transitions, *energies, agent.policy.temperature)[0].numpy()


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


# ---- the fixed point on Chain-v0 ----------------------------------------------------------------


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
