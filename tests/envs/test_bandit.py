"""Bandit-v0 and its oracle: closed forms, limits, refinement, exact draws, rollouts."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest

from ebrl.envs import (
    REFERENCE_TEMPERATURE,
    SHAPES,
    bandit_histogram,
    bandit_log_density,
    bandit_reward,
    mode_index,
    reward_upper_bound,
    sample_bandit,
    solve_bandit,
    total_variation,
    total_variation_floor,
)
from ebrl.envs.bandit import (
    BANANA_SD,
    BOUND_MEAN,
    BOUND_SD,
    MODE_WEIGHTS,
    QUADRATIC_MEAN,
    QUADRATIC_SD,
)

WORLDS = [(name, dimension) for name, shape in SHAPES.items() for dimension in shape.dimensions]
TEMPERATURES = [0.1, 0.2, 1.0]


def truncated_gaussian(mean, sd):
    """log of `∫ exp(-(a - mean)² / 2 sd²) da` on [-1, 1] and the mean of that exponent."""
    low, high = (-1 - mean) / sd, (1 - mean) / sd
    mass = math.sqrt(math.pi / 2) * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
    edges = high * math.exp(-(high**2) / 2) - low * math.exp(-(low**2) / 2)
    return math.log(sd * mass), -0.5 * (1 - edges / mass)


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("temperature", [0.05, *TEMPERATURES, 10.0])
@pytest.mark.parametrize(
    ("shape", "mean", "sd"),
    [("quadratic", QUADRATIC_MEAN, QUADRATIC_SD), ("bound", BOUND_MEAN, BOUND_SD)],
)
def test_truncated_gaussians_have_their_closed_form(shape, mean, sd, temperature, dimension):
    widths = sd * math.sqrt(temperature / REFERENCE_TEMPERATURE)
    axes = [truncated_gaussian(mean[i], widths[i]) for i in range(dimension)]
    log_mass, exponent = (sum(column) for column in zip(*axes, strict=True))
    solution = solve_bandit(shape, dimension, temperature)
    assert solution.value == pytest.approx(temperature * log_mass, abs=1e-9 * (1 + temperature))
    assert solution.entropy == pytest.approx(log_mass - exponent, abs=1e-9)
    assert solution.mean_reward == pytest.approx(temperature * exponent, abs=1e-9)


@pytest.mark.parametrize(("shape", "sd"), [("quadratic", QUADRATIC_SD), ("banana", BANANA_SD)])
def test_well_inside_the_box_value_and_entropy_are_gaussian(shape, sd):
    # The banana is a Gaussian sheared along y, which changes no volume.
    temperature = 0.01
    widths = sd * math.sqrt(temperature / REFERENCE_TEMPERATURE)
    log_mass = math.log(2 * math.pi * widths.prod())
    solution = solve_bandit(shape, 2, temperature, cells=100)
    assert solution.value == pytest.approx(temperature * log_mass, abs=1e-6)
    assert solution.entropy == pytest.approx(1 + log_mass, abs=1e-4)


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_flat_reward_leaves_the_uniform_policy(dimension, temperature):
    solution = solve_bandit("flat", dimension, temperature, cells=10)
    assert solution.entropy == pytest.approx(dimension * math.log(2), abs=1e-12)
    assert solution.value == pytest.approx(temperature * dimension * math.log(2), abs=1e-12)
    np.testing.assert_allclose(solution.probabilities, 10.0**-dimension, rtol=1e-12)


@pytest.mark.parametrize("dimension", [1, 2])
def test_mode_weights_are_those_of_the_mixture_at_the_reference_temperature(dimension):
    # The heavy mode has 1.5e-5 of its mass beyond the border, both together 2e-4 off the box.
    solution = solve_bandit("two_modes", dimension, REFERENCE_TEMPERATURE)
    np.testing.assert_allclose(solution.mode_weights, MODE_WEIGHTS, atol=1e-4)
    assert solution.value == pytest.approx(0.0, abs=1e-3)
    cold, hot = solve_bandit("two_modes", dimension, 0.1), solve_bandit("two_modes", dimension, 1.0)
    # Separate modes of equal width: at half the temperature the ratio of weights is squared.
    ratio = cold.mode_weights[0] / cold.mode_weights[1]
    assert ratio == pytest.approx((7 / 3) ** 2, rel=1e-3)
    assert 0.5 < hot.mode_weights[0] < 0.6


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("shape", "dimension"), WORLDS)
def test_integrals_agree_with_a_finer_grid_of_another_rule(shape, dimension, temperature):
    solution = solve_bandit(shape, dimension, temperature)
    n = 2000 if dimension == 1 else 1000
    axis = (2 * np.arange(n) + 1) / n - 1  # midpoints
    grid = np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), -1)
    log_density = bandit_log_density(solution, grid)
    density = np.exp(log_density) * (2 / n) ** dimension
    # The midpoint rule errs by at most h² / 24 times the density's curvature over the box:
    # below 3e-5 for the narrowest shape (sd .085, h .002).
    assert density.sum() == pytest.approx(1.0, abs=1e-4)
    assert -(density * log_density).sum() == pytest.approx(solution.entropy, abs=3e-4)
    assert solution.value == pytest.approx(
        solution.mean_reward + temperature * solution.entropy, abs=1e-12
    )
    cells = len(solution.edges) - 1
    coarse = density.reshape((cells, n // cells) * dimension)
    coarse = coarse.sum(axis=tuple(range(1, 2 * dimension, 2)))
    np.testing.assert_allclose(coarse, solution.probabilities, atol=2e-4)
    assert solution.probabilities.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("shape", "dimension"), WORLDS)
def test_more_cells_change_the_answer_by_no_more_than_the_stated_error(shape, dimension):
    rounding = 1e-13
    for temperature in (0.02, 0.2):
        coarse = solve_bandit(shape, dimension, temperature, cells=40)
        fine = solve_bandit(shape, dimension, temperature, cells=80)
        bound = coarse.error + rounding
        assert abs(coarse.value - fine.value) / temperature <= bound
        assert abs(coarse.entropy - fine.entropy) <= bound
        merged = fine.probabilities.reshape((40, 2) * dimension)
        merged = merged.sum(axis=tuple(range(1, 2 * dimension, 2)))
        assert 0.5 * np.abs(merged - coarse.probabilities).sum() <= bound
        assert coarse.error <= 1e-6


def test_a_policy_narrower_than_a_cell_is_refused_not_misreported():
    with pytest.raises(ArithmeticError, match="more cells than 2"):
        solve_bandit("quadratic", 1, 1e-4, cells=2)
    assert solve_bandit("quadratic", 1, 1e-4, cells=400).error < 1e-6


@pytest.mark.parametrize(("shape", "dimension"), WORLDS)
def test_temperature_limits(shape, dimension):
    highest = reward_upper_bound(shape, dimension)
    # V = E[r] + temperature * H, and no policy here is narrower than H = -12 nats.
    cold = solve_bandit(shape, dimension, 2e-3, cells=200)
    assert cold.value == pytest.approx(highest, abs=12 * 2e-3 + 5e-3)
    assert cold.mean_reward == pytest.approx(highest, abs=5e-3)
    assert cold.mean_reward <= highest
    hot = solve_bandit(shape, dimension, 1e5)
    uniform = solve_bandit(shape, dimension, 1e12).mean_reward  # equal cells, equal weights
    volume = dimension * math.log(2)
    assert hot.value - 1e5 * volume == pytest.approx(uniform, abs=2e-3)
    assert hot.entropy == pytest.approx(volume, abs=1e-6)
    draws = np.random.default_rng(0).uniform(-1, 1, (100_000, dimension))
    rewards = bandit_reward(shape, draws)
    assert abs(rewards.mean() - uniform) <= 3 * rewards.std() / math.sqrt(len(rewards)) + 1e-12
    assert rewards.max() <= highest


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(("shape", "dimension"), WORLDS)
def test_exact_draws_have_the_exact_histogram_and_soft_value(shape, dimension, temperature):
    n = 20_000
    solution = solve_bandit(shape, dimension, temperature, cells=20)
    actions = sample_bandit(solution, n, np.random.default_rng(1))
    assert actions.shape == (n, dimension)
    floor = total_variation_floor(solution.probabilities, n)
    histogram = bandit_histogram(solution, actions)
    # Changing one draw moves the distance by at most 1 / n (McDiarmid): standard deviation at
    # most 1 / (2 sqrt(n)).
    assert abs(total_variation(histogram, solution.probabilities) - floor) <= 1.5 / math.sqrt(n)
    surprise = -bandit_log_density(solution, actions)
    error = surprise.std() / math.sqrt(n)
    assert abs(surprise.mean() - solution.entropy) <= 3 * error + 1e-12
    shares = np.bincount(mode_index(shape, actions), minlength=len(solution.mode_weights)) / n
    errors = np.sqrt(solution.mode_weights * (1 - solution.mode_weights) / n)
    assert (np.abs(shares - solution.mode_weights) <= 3 * errors + 1e-12).all()


def test_the_histogram_tells_a_wrong_temperature_and_a_lost_mode():
    n = 20_000
    solution = solve_bandit("two_modes", 1, 0.2)
    actions = sample_bandit(solution, n, np.random.default_rng(0))
    warm = sample_bandit(solve_bandit("two_modes", 1, 0.3), n, np.random.default_rng(0))
    lost = actions[mode_index("two_modes", actions) == 0]
    for wrong in (warm, lost):
        distance = total_variation(bandit_histogram(solution, wrong), solution.probabilities)
        assert distance > 5 * total_variation_floor(solution.probabilities, n)


@pytest.mark.parametrize("reward_noise", [0.0, 0.5])
@pytest.mark.parametrize(("shape", "dimension"), WORLDS)
def test_rollouts_of_the_exact_policy_earn_the_exact_soft_value(shape, dimension, reward_noise):
    temperature, n = 0.3, 4000
    env = gymnasium.make(
        "ebrl.envs:Bandit-v0",
        shape=shape,
        dimension=dimension,
        mirrored=True,
        reward_noise=reward_noise,
    )
    generator = np.random.default_rng(2)
    solutions = {
        c: solve_bandit(shape, dimension, temperature, context=c, cells=20) for c in (1.0, -1.0)
    }
    draws = {c: iter(sample_bandit(s, n, generator)) for c, s in solutions.items()}
    env.reset(seed=2)
    earned, contexts = np.empty(n), np.empty(n)
    for i in range(n):
        observation, _ = env.reset()
        contexts[i] = observation[0]
        action = next(draws[float(observation[0])]).astype(np.float32)
        _, reward, terminated, truncated, _ = env.step(action)
        assert terminated
        assert not truncated
        earned[i] = reward + temperature * solutions[float(observation[0])].entropy
    assert solutions[1.0].value == pytest.approx(solutions[-1.0].value, abs=1e-12)
    assert abs(contexts.mean()) <= 3 / math.sqrt(n)
    error = earned.std() / math.sqrt(n)
    assert abs(earned.mean() - solutions[1.0].value) <= 3 * error + 1e-12
    assert error <= 0.02


@pytest.mark.parametrize("dimension", [1, 2])
def test_the_other_context_mirrors_the_policy(dimension):
    plain = solve_bandit("two_modes", dimension, 0.2)
    mirror = solve_bandit("two_modes", dimension, 0.2, context=-1.0)
    np.testing.assert_allclose(np.flip(plain.probabilities), mirror.probabilities, atol=1e-14)
    np.testing.assert_allclose(plain.mode_weights, mirror.mode_weights, atol=1e-14)
    action = np.full(dimension, 0.4)
    assert bandit_reward("two_modes", action, -1.0) == bandit_reward("two_modes", -action)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shape": "spiral"}, "quadratic, two_modes, bound, ring, banana, flat"),
        ({"shape": "ring"}, "dimension=2, got 1"),
        ({"dimension": 3}, "dimension=1 or 2, got 3"),
        ({"reward_noise": -1.0}, "reward_noise"),
        ({"reward_noise": math.nan}, "reward_noise"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make("ebrl.envs:Bandit-v0", **kwargs)


@pytest.mark.parametrize(
    ("arguments", "kwargs", "message"),
    [
        (("spiral", 1, 0.1), {}, "known shapes"),
        (("ring", 1, 0.1), {}, "dimension=2"),
        (("flat", 1, 0.0), {}, "temperature"),
        (("flat", 1, -1.0), {}, "temperature"),
        (("flat", 1, math.nan), {}, "temperature"),
        (("flat", 1, 0.1), {"cells": 5}, "even"),
        (("flat", 1, 0.1), {"cells": 0}, "even"),
        (("flat", 2, 0.1), {"cells": 2000}, "too many"),
        (("flat", 1, 0.1), {"context": 0.5}, "context"),
    ],
)
def test_the_oracle_refuses_bad_arguments(arguments, kwargs, message):
    with pytest.raises(ValueError, match=message):
        solve_bandit(*arguments, **kwargs)


def test_functions_of_actions_refuse_what_they_cannot_answer(monkeypatch):
    solution = solve_bandit("flat", 2, 0.1)
    for wrong in (0.5, np.zeros(3), np.zeros((4, 1))):
        with pytest.raises(ValueError, match="shape"):
            bandit_log_density(solution, wrong)
    with pytest.raises(ValueError, match="single number"):
        mode_index("two_modes", 0.5)
    for outside in (np.array([[0.0, 1.1]]), np.array([[0.0, np.nan]]), np.empty((0, 2))):
        with pytest.raises(ValueError, match="histogram"):
            bandit_histogram(solution, outside)
    with pytest.raises(ValueError, match="count"):
        sample_bandit(solution, -1, np.random.default_rng(0))
    monkeypatch.setattr("ebrl.envs.bandit_oracle.MIN_ACCEPTANCE", 0.01)
    cold = solve_bandit("bound", 2, 0.1)  # accepts 8e-4
    with pytest.raises(ValueError, match="higher temperature"):
        sample_bandit(cold, 1, np.random.default_rng(0))


@pytest.mark.parametrize("action", [[1.01], [np.nan], [0.0, 0.0], 0.5])
def test_actions_outside_the_box_are_refused_not_clipped(action):
    env = gymnasium.make("ebrl.envs:Bandit-v0").unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"lie in \[-1, 1\]"):
        env.step(np.array(action, dtype=np.float32))
