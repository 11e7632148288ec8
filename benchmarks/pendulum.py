"""Pendulum-v1 in paired seeds: EnergyActorCritic, one ingredient at a time, beside SB3's SAC.

    python benchmarks/pendulum.py run --out benchmarks/results/pendulum      # hours; resumes
    python benchmarks/pendulum.py table --out benchmarks/results/pendulum    # prints, writes .md

Every run trains 15,000 steps with networks of (64, 64), learning rate 1e-3 and batches of 256
on one thread, and is evaluated greedily every 500 steps on the same 20 starts. A run that is
finished is a JSON file and is not repeated. A run is solved when an evaluation reaches -200, and
falls back when a later one is below -300.
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
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.agents import EnergyActorCritic

STEPS, EVERY, STARTS = 15_000, 500, 20
SOLVED, FALLEN = -200.0, -300.0


def settings(seed: int) -> dict[str, Any]:
    """Return what all agents share; a fresh one each, because SB3 writes into policy_kwargs."""
    return {
        "policy": "MlpPolicy",
        "env": "Pendulum-v1",
        "learning_rate": 1e-3,
        "batch_size": 256,
        "policy_kwargs": {"net_arch": [64, 64]},
        "seed": seed,
    }


def energy_agent(**ingredients: int) -> Callable[[int], OffPolicyAlgorithm]:
    return lambda seed: EnergyActorCritic(**settings(seed), **ingredients)


AGENTS: dict[str, Callable[[int], OffPolicyAlgorithm]] = {
    "SB3 SAC": lambda seed: SAC(**settings(seed)),
    "SB3 SAC, 2 updates a step": lambda seed: SAC(**settings(seed), gradient_steps=2),
    "candidates 1 (is SAC)": energy_agent(candidates=1, moves=0),
    "candidates 4, plain acting": energy_agent(candidates=4, moves=0, acting_candidates=1),
    "candidates 4": energy_agent(candidates=4, moves=0),
    "candidates 4, acting 16": energy_agent(candidates=4, moves=0, acting_candidates=16),
    "candidates 4, components 4": energy_agent(candidates=4, moves=0, components=4),
    "candidates 4, moves 2": energy_agent(),  # the defaults
    "candidates 16": energy_agent(candidates=16, moves=0),
}


class PairedEvaluation(BaseCallback):
    """Greedy returns on fixed starts, in environments of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.environments = [gym.make("Pendulum-v1") for _ in range(STARTS)]
        self.steps: list[int] = []
        self.returns: list[list[float]] = []
        self.cpu_seconds: list[float] = []
        self.spent = 0.0  # CPU seconds of the evaluations themselves

    def _on_step(self) -> bool:
        if self.num_timesteps % EVERY == 0:
            before = time.process_time()
            self.steps.append(self.num_timesteps)
            self.returns.append(self.evaluate())
            self.cpu_seconds.append(before - self.spent)
            self.spent += time.process_time() - before
        return True

    def evaluate(self) -> list[float]:
        starts = [env.reset(seed=10_000 + i)[0] for i, env in enumerate(self.environments)]
        observations, totals = np.array(starts), np.zeros(STARTS)
        for _ in range(200):  # every episode of Pendulum-v1 lasts 200 steps
            actions, _ = self.model.predict(observations, deterministic=True)
            for i, env in enumerate(self.environments):
                observations[i], reward, *_ = env.step(actions[i])
                totals[i] += reward
        return totals.tolist()


def run(name: str, seed: int, path: Path) -> None:
    start, wall = time.process_time(), time.perf_counter()
    model, evaluation = AGENTS[name](seed), PairedEvaluation()
    model.learn(STEPS, callback=evaluation)
    record = {
        "agent": name,
        "seed": seed,
        "steps": evaluation.steps,
        "returns": evaluation.returns,
        "cpu_seconds": [round(seconds - start, 2) for seconds in evaluation.cpu_seconds],
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "torch": torch.__version__,
    }
    path.write_text(json.dumps(record) + "\n")


def slug(name: str, seed: int) -> str:
    return name.replace(",", "").replace("(", "").replace(")", "").replace(" ", "-") + f".{seed}"


def run_missing(folder: Path, agents: list[str], seeds: list[int]) -> None:
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
                run(name, seed, path)
            finally:
                claim.unlink()


def summary(records: list[dict]) -> dict[str, float]:
    """Return medians over the seeds of one agent."""
    curves = np.array([np.mean(record["returns"], 1) for record in records])  # (seeds, evaluations)
    steps = np.array(records[0]["steps"])
    reached = curves >= SOLVED
    first = np.where(reached.any(1), reached.argmax(1), len(steps) - 1)
    fell = [bool((curve[i:] < FALLEN).any()) for curve, i in zip(curves, first, strict=True)]
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


def table(folder: Path) -> str:
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows = [
        "| agent | seeds | steps to -200, median (worst) | return averaged over training, median "
        "(range) | final return, median (range) | fell back | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in AGENTS:
        own = [record for record in records if record["agent"] == name]
        if own:
            s = summary(own)
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
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pendulum"))
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), choices=list(AGENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.verb == "run":
        run_missing(arguments.out, arguments.agents, arguments.seeds)
    text = table(arguments.out)
    print(text)
    arguments.out.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
