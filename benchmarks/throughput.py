"""Throughput: environment steps per second, by where the environments are stepped.

    python benchmarks/throughput.py --out benchmarks/results/throughput

The environments of a run (with ebrl's watch, replay and monitor around them) one after another, in
processes, in Ray's actors, and as `gymnasium.make_vec` makes them; beside them Stable-Baselines3's
own `make_vec_env`. Random actions, no agent. "slow" is an environment whose step sleeps for 10 ms,
as a simulator behind a socket would.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from machine import commit, processor
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from ebrl.command.configs.agent_config import TrainSettings
from ebrl.command.environments.building import vectorised

SLEEP, SECONDS, ROUNDS = 0.01, 2.0, 3


class Slow(gym.Env[np.ndarray, np.ndarray]):
    """Each step takes `SLEEP` seconds in which it computes nothing."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(SLEEP)
        return np.zeros(3, np.float32), 0.0, False, False, {}


gym.register("Slow-v0", "throughput:Slow", max_episode_steps=200)
TASKS = {"Pendulum-v1": "Pendulum-v1", "slow": "throughput:Slow-v0"}
KINDS: dict[str, Callable[[str, int], VecEnv]] = {
    "dummy": lambda name, n: vectorised(name, TrainSettings(1, n_envs=n)),
    "subproc": lambda name, n: vectorised(name, TrainSettings(1, n_envs=n, vec="subproc")),
    "vector": lambda name, n: vectorised(name, TrainSettings(1, n_envs=n, vec="vector")),
    "ray": lambda name, n: vectorised(name, TrainSettings(1, n_envs=n, vec="ray")),
    "SB3, dummy": lambda name, n: make_vec_env(name, n, vec_env_cls=DummyVecEnv),
    "SB3, subproc": lambda name, n: make_vec_env(name, n, vec_env_cls=SubprocVecEnv),
}


def steps_a_second(env: VecEnv) -> float:
    env.reset()
    actions = np.stack([env.action_space.sample() for _ in range(env.num_envs)])
    for _ in range(3):
        env.step(actions)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        env.step(actions)
        count += env.num_envs
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/throughput"))
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16])
    given = parser.parse_args()
    torch.set_num_threads(1)
    import ray

    ray.init(num_cpus=max(given.counts), include_dashboard=False, log_to_driver=False)
    cases = [("Pendulum-v1", n) for n in given.counts] + [("slow", given.counts[-1])]
    figures: list[dict[str, Any]] = []
    for task, n in cases:
        for kind, make in KINDS.items():
            env = make(TASKS[task], n)
            rates = [steps_a_second(env) for _ in range(ROUNDS)]
            env.close()
            figures.append({"task": task, "n": n, "kind": kind, "rates": rates})
            print(json.dumps(figures[-1]), flush=True)
    given.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    given.out.with_suffix(".md").write_text(markdown(figures, cases))


def markdown(figures: list[dict[str, Any]], columns: list[tuple[str, int]]) -> str:
    lines = [
        f"| | {' | '.join(f'{task}, {n}' for task, n in columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for kind in KINDS:
        cells = []
        for task, n in columns:
            keys = {"task": task, "n": n, "kind": kind}
            found = [f["rates"] for f in figures if all(f[k] == keys[k] for k in keys)]
            cells.append(f"{np.median(found):,.0f}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Environment steps a second over all environments, the median of {ROUNDS} turns of "
        f"{SECONDS:g} s. Commit {commit()}, {processor()}, two cores shared with other work.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
