"""Chain-v0 and its oracle: residual, hand-computed cases, limits, optimality, rollouts."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest

from ebrl.envs import ChainEnv, evaluate_chain, policy_entropy, sample_chain, solve_chain

CHAINS = [
    {},
    {"stay": True, "slip": 0.3, "start": 1},
    {"states": 5, "slip": 0.0, "stop": 0.1, "near_reward": -1.0},
]


def soft_backup(model, value, discount, temperature):
    """The soft-Bellman operator state by state, written apart from the oracle's."""
    result = np.zeros_like(value)
    for s in np.flatnonzero(model.acting):
        q = [
            model.reward[s, a] + discount * float(model.transition[s, a] @ value)
            for a in range(model.reward.shape[1])
        ]
        result[s] = temperature * np.logaddexp.reduce(np.array(q) / temperature)
    return result


@pytest.mark.parametrize("kwargs", CHAINS)
@pytest.mark.parametrize("discount", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_the_soft_bellman_residual_is_below_1e_6(kwargs, discount, temperature):
    model = ChainEnv(**kwargs).model()
    solution = solve_chain(model, discount, temperature)
    gap = soft_backup(model, solution.value, discount, temperature) - solution.value
    assert np.abs(gap).max() < 1e-6
    assert np.abs(gap).max() == pytest.approx(solution.residual, abs=1e-12)
    greedy = temperature * np.log(solution.policy[model.acting])
    advantage = (solution.q - solution.value[:, None])[model.acting]
    np.testing.assert_allclose(greedy, advantage, atol=1e-8)
    np.testing.assert_allclose(solution.policy.sum(-1), 1.0, atol=1e-12)


def test_three_states_have_a_hand_computed_answer():
    # One acting state, whose two actions reach an end: Q is the reward, mixed by the slip.
    env = ChainEnv(states=3, slip=0.2, near_reward=0.5, far_reward=2.0)
    solution = solve_chain(env.model(), 0.9, 0.5)
    q = np.array([0.9 * 0.5 + 0.1 * 2.0, 0.9 * 2.0 + 0.1 * 0.5])
    p = 1 / (1 + math.exp((q[0] - q[1]) / 0.5))
    np.testing.assert_allclose(solution.q[1], q, atol=1e-12)
    assert solution.policy[1, 1] == pytest.approx(p, abs=1e-12)
    assert solution.value[1] == pytest.approx(0.5 * math.log(np.exp(q / 0.5).sum()), abs=1e-12)
    assert solution.entropy[1] == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))
    assert solution.start_value == pytest.approx(solution.value[1], abs=1e-12)


def test_without_rewards_the_value_is_that_of_entropy_alone():
    # Only `stay` and no slip: from the middle of 3 states nothing distinguishes the ends, and
    # V = alpha log(2 + exp(gamma V / alpha)), a fixed point solved here by bisection.
    env = ChainEnv(states=3, slip=0.0, stop=0.0, near_reward=0.0, far_reward=0.0, stay=True)
    discount, temperature = 0.8, 0.7
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        backed_up = temperature * math.log(2 + math.exp(discount * middle / temperature))
        low, high = (middle, high) if backed_up > middle else (low, middle)
    solution = solve_chain(env.model(), discount, temperature)
    assert solution.value[1] == pytest.approx(low, abs=1e-9)
    assert solution.expected_return[1] == pytest.approx(0.0, abs=1e-12)


def test_a_vanishing_temperature_gives_the_hard_optimum():
    model = ChainEnv().model()
    hard = np.zeros(8)
    for _ in range(2000):
        q = model.reward + 0.95 * model.transition @ hard
        hard = np.where(model.acting, q.max(-1), 0.0)
    solution = solve_chain(model, 0.95, 1e-4)
    # The entropy bonus is at most temperature * log 2 / (1 - discount).
    bonus = 1e-4 * math.log(2) / 0.05
    assert (solution.value >= hard - 1e-9).all()
    assert (solution.value <= hard + bonus).all()
    np.testing.assert_array_equal(solution.policy.argmax(-1)[1:-1], q.argmax(-1)[1:-1])
    assert solution.policy.max(-1)[1:-1].min() > 1 - 1e-12


def test_a_high_temperature_leaves_entropy_as_the_only_aim():
    # It is a discounted one: far from the ends there is more of it to come, so the policy is not
    # uniform; it is that of the same chain without rewards, and V / temperature is its value.
    hot = solve_chain(ChainEnv().model(), 0.9, 1e6, tolerance=1e-6)
    bare = solve_chain(ChainEnv(near_reward=0.0, far_reward=0.0).model(), 0.9, 1.0)
    np.testing.assert_allclose(hot.policy, bare.policy, atol=1e-5)
    np.testing.assert_allclose(hot.value / 1e6, bare.value, atol=1e-5)
    myopic = solve_chain(ChainEnv().model(), 0.0, 1e6)
    np.testing.assert_allclose(myopic.policy, 0.5, atol=1e-5)


def test_total_slip_makes_every_action_the_same():
    solution = solve_chain(ChainEnv(slip=1.0, stay=True).model(), 0.9, 0.1)
    np.testing.assert_allclose(solution.policy, 1 / 3, atol=1e-12)


@pytest.mark.parametrize("kwargs", CHAINS)
def test_no_other_policy_earns_more(kwargs):
    model, discount, temperature = ChainEnv(**kwargs).model(), 0.95, 0.2
    solution = solve_chain(model, discount, temperature)
    own = evaluate_chain(model, solution.policy, discount, temperature)
    np.testing.assert_allclose(own.value, solution.value, atol=1e-8)
    np.testing.assert_allclose(own.expected_return, solution.expected_return, atol=1e-12)
    generator = np.random.default_rng(0)
    for _ in range(50):
        other = generator.dirichlet(np.ones(model.reward.shape[1]), len(model.acting))
        worse = evaluate_chain(model, other, discount, temperature).value
        assert (worse <= solution.value + 1e-8).all()
        assert worse[model.acting].max() < solution.value.max()


def test_evaluation_of_a_deterministic_policy_is_a_geometric_sum():
    # Always right, no slip and no stop: the far reward arrives after `6 - s` further steps.
    env = ChainEnv(slip=0.0, stop=0.0)
    right = np.tile([0.0, 1.0], (8, 1))
    earned = evaluate_chain(env.model(), right, 0.9, 0.5)
    expected = 2.0 * 0.9 ** np.arange(5, -1, -1)
    np.testing.assert_allclose(earned.expected_return[1:-1], expected, atol=1e-12)
    np.testing.assert_allclose(earned.value, earned.expected_return, atol=1e-12)  # no entropy


@pytest.mark.parametrize("kwargs", CHAINS)
def test_rollouts_of_the_exact_policy_earn_the_exact_soft_value(kwargs):
    discount, temperature, episodes = 0.95, 0.15, 3000
    env = gymnasium.make("ebrl.envs:Chain-v0", **kwargs)
    solution = solve_chain(env.unwrapped.model(), discount, temperature)
    generator = np.random.default_rng(5)
    env.reset(seed=5)
    soft, plain = np.zeros(episodes), np.zeros(episodes)
    for i in range(episodes):
        observation, _ = env.reset()
        weight, terminated = 1.0, False
        while not terminated:
            bonus = temperature * solution.entropy[observation.argmax()]
            action = sample_chain(solution, observation, generator)
            observation, reward, terminated, truncated, _ = env.step(action)
            assert not truncated
            soft[i] += weight * (reward + bonus)
            plain[i] += weight * reward
            weight *= discount
    start = env.unwrapped.model().start
    for earned, exact in (
        (soft, solution.start_value),
        (plain, float(start @ solution.expected_return)),
    ):
        error = earned.std() / math.sqrt(episodes)
        assert abs(earned.mean() - exact) <= 3 * error
        assert error <= 0.02


@pytest.mark.parametrize("kwargs", CHAINS)
def test_the_tables_are_the_frequencies_of_the_environment(kwargs):
    env, n = ChainEnv(**kwargs), 2000
    model = env.model()
    env.reset(seed=0)
    for state in (1, env.states // 2, env.states - 2):
        for action in range(env.actions):
            env.start = state
            going_on, rewards = np.zeros(env.states), np.zeros(n)
            for i in range(n):
                env.reset()
                observation, rewards[i], terminated, _, _ = env.step(action)
                going_on += observation * (not terminated) / n
            exact = model.transition[state, action]
            tolerance = 4 * np.sqrt(exact * (1 - exact) / n) + 1e-12
            assert (np.abs(going_on - exact) <= tolerance).all()
            spread = 4 * rewards.std() / math.sqrt(n) + 1e-12
            assert abs(rewards.mean() - model.reward[state, action]) <= spread


def test_sampled_actions_have_the_policy_s_frequencies():
    solution = solve_chain(ChainEnv(stay=True).model(), 0.95, 0.3)
    n = 20_000
    observations = np.broadcast_to(np.eye(8, dtype=np.float32), (n, 8, 8))
    actions = sample_chain(solution, observations, np.random.default_rng(0))
    assert actions.shape == (n, 8)
    shares = (actions[..., None] == np.arange(3)).mean(0)  # (8, 3)
    errors = np.sqrt(solution.policy * (1 - solution.policy) / n)
    assert (np.abs(shares - solution.policy) <= 4 * errors).all()


def test_entropy_of_certain_and_uniform_choices():
    assert policy_entropy(np.array([1.0, 0.0])) == 0.0
    np.testing.assert_allclose(policy_entropy(np.full((2, 4), 0.25)), math.log(4))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"states": 2}, "at least 3"),
        ({"slip": 1.1}, "slip is a probability"),
        ({"slip": -0.1}, "slip is a probability"),
        ({"slip": math.nan}, "slip is a probability"),
        ({"stop": 2.0}, "stop is a probability"),
        ({"far_reward": math.inf}, "rewards must be finite"),
        ({"start": 0}, "between the ends, 1 to 6"),
        ({"start": 7}, "between the ends, 1 to 6"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make("ebrl.envs:Chain-v0", **kwargs)


@pytest.mark.parametrize("action", [2, -1, 0.5])
def test_unknown_actions_are_refused(action):
    env = ChainEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        env.step(action)


@pytest.mark.parametrize("discount", [1.0, -0.1, math.nan])
def test_the_oracle_refuses_a_bad_discount(discount):
    with pytest.raises(ValueError, match="discount"):
        solve_chain(ChainEnv().model(), discount, 0.1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_the_oracle_refuses_a_bad_temperature(temperature):
    model = ChainEnv().model()
    with pytest.raises(ValueError, match="temperature"):
        solve_chain(model, 0.9, temperature)
    with pytest.raises(ValueError, match="temperature"):
        evaluate_chain(model, np.full((8, 2), 0.5), 0.9, temperature)


def test_evaluation_refuses_what_is_no_policy():
    model = ChainEnv().model()
    with pytest.raises(ValueError, match="shape"):
        evaluate_chain(model, np.full((8, 3), 1 / 3), 0.9, 0.1)
    for wrong in (np.ones((8, 2)), np.tile([1.5, -0.5], (8, 1)), np.full((8, 2), np.nan)):
        with pytest.raises(ValueError, match="sum to 1"):
            evaluate_chain(model, wrong, 0.9, 0.1)


def test_a_tolerance_below_rounding_is_reported_not_looped_on(monkeypatch):
    monkeypatch.setattr("ebrl.envs.chain_oracle.MAX_SWEEPS", 500)
    with pytest.raises(ArithmeticError, match="larger tolerance"):
        solve_chain(ChainEnv(stop=0.0).model(), 0.999, 1.0)
