"""The picture of the README: an energy that was learnt from rewards, and actions sampled from it.

    python benchmarks/picture.py --out benchmarks/results/idea.png

EnergyActorCritic learns the one-step world `Bandit-v0` (reward shape: a ring) from rewards
alone. Left, its energy; middle, actions that its sampler draws; right, the exact
soft policy by quadrature.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import gymnasium as gym
import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from stable_baselines3.common.vec_env import DummyVecEnv

from ebrl.agents import EnergyActorCritic
from ebrl.envs import (
    REFERENCE_TEMPERATURE,
    bandit_histogram,
    solve_bandit,
    total_variation,
    total_variation_floor,
)

SHAPE, DRAWS, CELLS = "ring", 20_000, 60


def train(steps: int) -> EnergyActorCritic:
    world = partial(gym.make, "ebrl.envs:Bandit-v0", shape=SHAPE, dimension=2)
    agent = EnergyActorCritic(
        "MlpPolicy",
        DummyVecEnv([world] * 16),
        learning_rate=1e-3,
        learning_starts=steps // 2,
        gradient_steps=4,
        candidates=16,
        components=4,
        acting_candidates=32,
        ent_coef=REFERENCE_TEMPERATURE,
        normalization=None,
        policy_delay=1,
        adam_beta1=0.9,
        policy_kwargs={"net_arch": [128, 128], "activation_fn": torch.nn.SiLU},
        seed=0,
    )
    return agent.learn(steps)


def draw(agent: EnergyActorCritic, path: Path) -> None:
    observation = np.ones(1, np.float32)
    line = np.linspace(-1, 1, 201)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype(np.float32)
    energy = agent.energy(observation, grid).reshape(201, 201)
    actions = agent.sample_actions(observation, DRAWS)
    exact = solve_bandit(SHAPE, 2, REFERENCE_TEMPERATURE, cells=CELLS)
    far = total_variation(bandit_histogram(exact, actions), exact.probabilities)
    floor = total_variation_floor(exact.probabilities, DRAWS)

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    levels = np.linspace(energy.min(), energy.min() + 1.5, 25)
    left.contourf(line, line, energy, levels=levels, cmap="viridis", extend="max")
    left.set_title("learnt energy  $E(a|s) = -Q(s,a)$")
    middle.plot(*actions[:4000].T, ".", markersize=1.5, color="C3", alpha=0.5)
    middle.set_title(f"{4000:,} actions sampled from $e^{{-E/\\alpha}}$")
    cells = exact.probabilities.reshape(CELLS, CELLS).T
    right.imshow(cells, origin="lower", extent=(-1, 1, -1, 1), cmap="magma_r", aspect="auto")
    right.set_title("exact soft policy")
    for axes in (left, middle, right):
        axes.set(xlim=(-1, 1), ylim=(-1, 1), xlabel="action 1", aspect="equal")
    left.set_ylabel("action 2")
    figure.suptitle(
        f"Bandit-v0, {SHAPE}: total variation of {DRAWS:,} draws to the exact policy {far:.3f} "
        f"(a perfect sampler's: {floor:.3f})",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"{path}: total variation {far:.3f}, floor {floor:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/idea.png"))
    parser.add_argument("--steps", type=int, default=16_000)
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    draw(train(arguments.steps), arguments.out)


if __name__ == "__main__":
    main()
