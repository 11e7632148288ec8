"""Returns in paired seeds: EnergyActorCritic, one ingredient at a time, beside SB3's SAC.

    python benchmarks/returns.py run pendulum     # hours; goes on where it was stopped
    python benchmarks/returns.py table pendulum   # prints, and writes results/pendulum.md

The tasks are `pendulum` and `half_cheetah` (which needs `pip install -e ".[mujoco]"`). Each run has
one thread and is evaluated greedily on the same starts, in whole episodes; a finished run is a JSON
file and is not repeated. A run is solved when an evaluation reaches the task's bar, and falls back
when a later one is below the task's floor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from machine import processor
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.agents import EnergyActorCritic

RESULTS = Path(__file__).parent / "results"


class Task(NamedTuple):
    """An environment, how to train and evaluate on it, and what every agent is given."""

    env: str
    steps: int
    every: int  # steps between evaluations
    starts: int
    solved: float
    fallen: float
    settings: dict[str, Any]
    agents: list[str]


def energy_agent(**ingredients: int) -> Callable[..., OffPolicyAlgorithm]:
    return lambda **settings: EnergyActorCritic(**settings, **ingredients)


AGENTS: dict[str, Callable[..., OffPolicyAlgorithm]] = {
    "SB3 SAC": SAC,
    "SB3 SAC, 2 updates a step": lambda **settings: SAC(**settings, gradient_steps=2),
    "candidates 1 (is SAC)": energy_agent(candidates=1, moves=0),
    "candidates 4, plain acting": energy_agent(candidates=4, moves=0, acting_candidates=1),
    "candidates 4": energy_agent(candidates=4, moves=0),
    "candidates 4, acting 16": energy_agent(candidates=4, moves=0, acting_candidates=16),
    "candidates 4, components 4": energy_agent(candidates=4, moves=0, components=4),
    "candidates 4, moves 2": energy_agent(),  # the defaults
    "candidates 16": energy_agent(candidates=16, moves=0),
}

TASKS = {
    "pendulum": Task(
        env="Pendulum-v1",
        steps=15_000,
        every=500,
        starts=20,
        solved=-200.0,
        fallen=-300.0,
        settings={"learning_rate": 1e-3, "policy_kwargs": {"net_arch": [64, 64]}},
        agents=list(AGENTS),
    ),
    "half_cheetah": Task(
        env="HalfCheetah-v5",
        steps=50_000,
        every=5_000,
        starts=10,
        solved=2_000.0,
        fallen=1_000.0,
        settings={"learning_starts": 10_000},  # as rl-baselines3-zoo has for MuJoCo
        agents=["SB3 SAC", "candidates 4, moves 2"],
    ),
}


def make(task: Task, name: str, seed: int) -> OffPolicyAlgorithm:
    settings = deepcopy(task.settings)  # SB3 writes into policy_kwargs
    return AGENTS[name](policy="MlpPolicy", env=task.env, batch_size=256, seed=seed, **settings)


class PairedEvaluation(BaseCallback):
    """Greedy returns on fixed starts, in environments of its own."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.every = task.every
        self.environments = [gym.make(task.env) for _ in range(task.starts)]
        self.steps: list[int] = []
        self.returns: list[list[float]] = []
        self.cpu_seconds: list[float] = []
        self.spent = 0.0  # CPU seconds of the evaluations themselves

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            before = time.process_time()
            self.steps.append(self.num_timesteps)
            self.returns.append(self.evaluate())
            self.cpu_seconds.append(before - self.spent)
            self.spent += time.process_time() - before
        return True

    def evaluate(self) -> list[float]:
        starts = [env.reset(seed=10_000 + i)[0] for i, env in enumerate(self.environments)]
        observations, totals = np.array(starts), np.zeros(len(starts))
        running = set(range(len(starts)))
        while running:
            actions, _ = self.model.predict(observations, deterministic=True)
            for i in list(running):
                step = self.environments[i].step(actions[i])
                observations[i], reward, terminated, truncated, _ = step
                totals[i] += reward
                if terminated or truncated:
                    running.remove(i)
        return totals.tolist()


def run(task: Task, name: str, seed: int, path: Path) -> None:
    start, wall = time.process_time(), time.perf_counter()
    model, evaluation = make(task, name, seed), PairedEvaluation(task)
    model.learn(task.steps, callback=evaluation)
    record = {
        "agent": name,
        "seed": seed,
        "steps": evaluation.steps,
        "returns": evaluation.returns,
        "cpu_seconds": [round(seconds - start, 2) for seconds in evaluation.cpu_seconds],
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "torch": torch.__version__,
        "processor": processor(),
    }
    path.write_text(json.dumps(record) + "\n")


def slug(name: str, seed: int) -> str:
    return name.replace(",", "").replace("(", "").replace(")", "").replace(" ", "-") + f".{seed}"


def run_missing(task: Task, folder: Path, agents: list[str], seeds: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for name in agents:
            path = folder / f"{slug(name, seed)}.json"
            claim = path.with_suffix(".running")
            if path.exists() or claim.exists():
                continue
            claim.touch()  # another process of this command takes another run
            try:
                print(f"{name}, seed {seed}", flush=True)
                run(task, name, seed, path)
            finally:
                claim.unlink()


def summary(task: Task, records: list[dict]) -> dict[str, float]:
    """Return medians over the seeds of one agent."""
    curves = np.array([np.mean(record["returns"], 1) for record in records])  # (seeds, evaluations)
    steps = np.array(records[0]["steps"])
    reached = curves >= task.solved
    first = np.where(reached.any(1), reached.argmax(1), len(steps) - 1)
    fell = [bool((curve[i:] < task.fallen).any()) for curve, i in zip(curves, first, strict=True)]
    to_solve = np.where(reached.any(1), steps[first], np.inf)
    return {
        "seeds": len(records),
        "steps_to_solve": float(np.median(to_solve)),
        "worst_steps_to_solve": float(to_solve.max()),
        "area": float(np.median(curves.mean(1))),
        "area_low": float(curves.mean(1).min()),
        "area_high": float(curves.mean(1).max()),
        "final": float(np.median(curves[:, -1])),
        "final_low": float(curves[:, -1].min()),
        "final_high": float(curves[:, -1].max()),
        "fell_back": int(sum(fell)),
        "cpu_seconds": float(np.median([record["cpu_seconds"][-1] for record in records])),
    }


def table(task: Task, folder: Path) -> str:
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows = [
        f"| agent | seeds | steps to {task.solved:,.0f}, median (worst) | return averaged over "
        "training, median (range) | final return, median (range) | fell back | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in AGENTS:
        own = [record for record in records if record["agent"] == name]
        if own:
            s = summary(task, own)
            rows.append(
                f"| {name} | {s['seeds']} | {s['steps_to_solve']:.0f} "
                f"({s['worst_steps_to_solve']:.0f}) | {s['area']:.0f} "
                f"({s['area_low']:.0f} to {s['area_high']:.0f}) | {s['final']:.1f} "
                f"({s['final_low']:.1f} to {s['final_high']:.1f}) | {s['fell_back']} "
                f"| {s['cpu_seconds']:.0f} |"
            )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run", "table"])
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), help="default: the task's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task, folder = TASKS[arguments.task], RESULTS / arguments.task
    if arguments.verb == "run":
        run_missing(task, folder, arguments.agents or task.agents, arguments.seeds)
    text = table(task, folder)
    print(text)
    folder.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
