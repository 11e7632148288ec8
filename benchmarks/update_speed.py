"""Updates per second of EnergyActorCritic as a ratio to Stable-Baselines3's SAC.

    python benchmarks/update_speed.py --out benchmarks/results/update_speed.json

Equal networks (256, 256), equal batches (256), one thread, one process. The algorithms take turns,
a block of updates each, and the ratio is taken within a round, so that a machine whose speed drifts
does not decide it. Medians over the rounds, with the range.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from machine import processor
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.agents import EnergyActorCritic

BATCH = 256
SIZES = {"3/1 (Pendulum)": (3, 1), "17/6 (HalfCheetah)": (17, 6)}
RIVALS: dict[str, Callable[[gym.Env], OffPolicyAlgorithm]] = {
    "SB3 SAC": lambda env: SAC("MlpPolicy", env, buffer_size=10_000),
    "candidates 1": lambda env: EnergyActorCritic(
        "MlpPolicy", env, buffer_size=10_000, candidates=1
    ),
    "candidates 4": lambda env: EnergyActorCritic(
        "MlpPolicy", env, buffer_size=10_000, candidates=4
    ),
    "candidates 16": lambda env: EnergyActorCritic(
        "MlpPolicy", env, buffer_size=10_000, candidates=16
    ),
    "candidates 4, components 4": lambda env: EnergyActorCritic(
        "MlpPolicy", env, buffer_size=10_000, candidates=4, components=4
    ),
}


class Sized(gym.Env):
    """Spaces of a given size and nothing else."""

    def __init__(self, observations: int, actions: int):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (observations,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (actions,), np.float32)


def filled(model: OffPolicyAlgorithm) -> OffPolicyAlgorithm:
    rng = np.random.default_rng(0)
    observations = model.observation_space.shape
    for _ in range(5_000):
        model.replay_buffer.add(
            rng.normal(size=(1, *observations)).astype(np.float32),
            rng.normal(size=(1, *observations)).astype(np.float32),
            rng.uniform(-1, 1, size=(1, *model.action_space.shape)).astype(np.float32),
            rng.normal(size=1).astype(np.float32),
            np.zeros(1, np.float32),
            [{}],
        )
    model.set_logger(configure(None, []))
    model.train(10, BATCH)
    return model


def updates_per_second(model: OffPolicyAlgorithm, updates: int) -> float:
    start = time.process_time()
    for _ in range(updates):
        model.train(1, BATCH)
    return updates / (time.process_time() - start)


def measure(rounds: int, updates: int) -> dict[str, dict]:
    table = {}
    for label, size in SIZES.items():
        models = {name: filled(build(Sized(*size))) for name, build in RIVALS.items()}
        speeds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(rounds):
            for name, model in models.items():
                speeds[name].append(updates_per_second(model, updates))
        reference = np.array(speeds["SB3 SAC"])
        for name, found in speeds.items():
            ratios = np.array(found) / reference
            table[f"{label}: {name}"] = {
                "updates_per_second": float(np.median(found)),
                "ratio": float(np.median(ratios)),
                "ratio_range": [float(ratios.min()), float(ratios.max())],
            }
    return table


def as_markdown(table: dict[str, dict]) -> str:
    rows = ["| observation/action: agent | updates a second | x SB3 SAC, median (range) |"]
    rows.append("|---|---|---|")
    for name, row in table.items():
        low, high = row["ratio_range"]
        speed = f"{row['updates_per_second']:.0f} | {row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        rows.append(f"| {name} | {speed} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=40, help="updates in a block")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = measure(arguments.rounds, arguments.updates)
    print(as_markdown(table))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "batch": BATCH,
            "net_arch": [256, 256],
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "clock": "process CPU time",
            "processor": processor(),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "torch": torch.__version__,
            "stable_baselines3": stable_baselines3.__version__,
        }
        arguments.out.write_text(json.dumps({"facts": facts, "table": table}, indent=1) + "\n")
        told = ", ".join(f"{name} {value}" for name, value in facts.items())
        arguments.out.with_suffix(".md").write_text(f"{as_markdown(table)}\n\nOn: {told}.\n")


if __name__ == "__main__":
    main()
