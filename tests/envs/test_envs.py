"""The worlds as Gymnasium environments, and the total-variation floor."""

from __future__ import annotations

import ast
import importlib.util
import math
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from ebrl.envs import SHAPES, total_variation, total_variation_floor

WORLDS = [
    *[
        ("Bandit-v0", {"shape": name, "dimension": dimension})
        for name, shape in SHAPES.items()
        for dimension in shape.dimensions
    ],
    ("Bandit-v0", {}),
    ("Bandit-v0", {"mirrored": True, "reward_noise": 0.3}),
    ("Chain-v0", {}),
    ("Chain-v0", {"stay": True, "start": 1, "states": 3, "slip": 0.0, "stop": 0.0}),
]


@pytest.mark.parametrize(("name", "kwargs"), WORLDS)
def test_both_env_checkers_pass_without_warnings(name, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for check in (gymnasium_check_env, sb3_check_env):
            env = gymnasium.make(f"ebrl.envs:{name}", **kwargs)
            check(env.unwrapped)
            env.close()


def trajectory(name, kwargs, seed):
    """Observations and rewards of 100 steps of random actions, episodes following each other."""
    env = gymnasium.make(f"ebrl.envs:{name}", **kwargs)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=seed)
    seen = [observation]
    for _ in range(100):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        seen += [observation, np.array([reward, terminated, truncated])]
        if terminated:
            seen.append(env.reset()[0])
    return np.concatenate(seen)


@pytest.mark.parametrize(
    ("name", "kwargs"), [("Bandit-v0", {"mirrored": True, "reward_noise": 0.1}), ("Chain-v0", {})]
)
def test_a_seed_determines_the_trajectory(name, kwargs):
    assert np.array_equal(trajectory(name, kwargs, 3), trajectory(name, kwargs, 3))
    assert not np.array_equal(trajectory(name, kwargs, 3), trajectory(name, kwargs, 4))


@pytest.mark.parametrize("name", ["Bandit-v0", "Chain-v0"])
def test_vector_environments_run(name):
    env = gymnasium.make_vec(f"ebrl.envs:{name}", num_envs=3)
    env.action_space.seed(0)
    env.reset(seed=0)
    rewards = [env.step(env.action_space.sample())[1] for _ in range(40)]
    assert np.shape(rewards) == (40, 3)
    assert np.isfinite(rewards).all()
    assert np.any(rewards)


@pytest.mark.parametrize("name", ["Bandit-v0", "Chain-v0"])
def test_stepping_outside_an_episode_is_refused(name):
    env = gymnasium.make(f"ebrl.envs:{name}").unwrapped
    action = env.action_space.sample()
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        env.step(action)
    env.reset(seed=0)
    while not env.step(action)[2]:
        pass
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        env.step(action)


def envs_folder():
    return Path(importlib.util.find_spec("ebrl.envs").origin).parent


def test_only_numpy_and_gymnasium_are_imported():
    allowed = {"numpy", "gymnasium"} | set(sys.stdlib_module_names)
    for path in envs_folder().glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module.split(".")[0] in allowed, path


def test_the_package_loads_where_torch_cannot_be_imported():
    code = f"""
import importlib.util, sys, types
sys.modules["torch"] = None  # makes `import torch` raise
sys.modules["ebrl"] = types.ModuleType("ebrl")  # the package above, without what it imports
spec = importlib.util.spec_from_file_location("ebrl.envs", {str(envs_folder() / "__init__.py")!r})
envs = sys.modules["ebrl.envs"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(envs)
import gymnasium
gymnasium.make("Chain-v0").reset(seed=0)
print(round(envs.solve_bandit("flat", 1, 1.0).entropy, 6))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "0.693147"


@pytest.mark.parametrize(
    "probabilities", [[0.5, 0.5], [0.9, 0.1, 0.0], np.r_[np.full(990, 1e-6), 0.4, 0.6 - 990e-6]]
)
@pytest.mark.parametrize("n", [1, 7, 400])
def test_total_variation_floor_is_the_mean_distance_of_perfect_histograms(probabilities, n):
    counts = np.random.default_rng(0).multinomial(n, probabilities, size=4_000)
    distances = 0.5 * np.abs(counts / n - probabilities).sum(-1)  # (4000,)
    standard_error = distances.std() / math.sqrt(len(distances))
    floor = total_variation_floor(probabilities, n)
    assert abs(distances.mean() - floor) <= 3 * standard_error + 1e-12
    assert total_variation(counts[0] / n, probabilities) == pytest.approx(distances[0])


def test_total_variation_floor_of_large_counts_is_the_normal_one():
    p, n = np.random.default_rng(0).dirichlet(np.full(50, 5.0)), 1_000_000
    normal = 0.5 * np.sqrt(2 * p * (1 - p) / (math.pi * n)).sum()
    assert total_variation_floor(p, n) == pytest.approx(normal, rel=1e-3)


def test_total_variation_of_certain_and_disjoint_distributions():
    assert total_variation_floor([1.0, 0.0], 10) == 0.0
    assert total_variation_floor([np.nextafter(1.0, 0.0), 1e-16], 20_000) < 1e-12
    assert total_variation([1.0, 0.0], [0.0, 1.0]) == 1.0


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.5, -0.5], [np.nan, 1.0], []])
def test_total_variation_refuses_what_is_no_distribution(bad):
    with pytest.raises(ValueError, match="sum to 1"):
        total_variation_floor(bad, 10)
    with pytest.raises(ValueError, match="sum to 1"):
        total_variation(bad, bad)


def test_total_variation_refuses_other_bad_arguments():
    with pytest.raises(ValueError, match="at least 1"):
        total_variation_floor([1.0], 0)
    with pytest.raises(ValueError, match="shapes"):
        total_variation([1.0], [0.5, 0.5])
