"""Returns of EnergyActorCritic in paired seeds, beside SAC, TQC and CrossQ of Stable-Baselines3.

    python benchmarks/returns.py run hopper walker2d --agents "SAC tuned" --seeds 0 1 2
    python benchmarks/returns.py table            # writes results/returns.md and pictures

A run takes one thread. It is evaluated greedily, on the same starts for every agent. A finished run
is a JSON file in results/returns and is not repeated; one that was killed goes on from its last
checkpoint in runs/returns. Several processes of the command share the runs between them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from filelock import FileLock, Timeout
from machine import commit, processor
from returns_agents import AGENTS, TASKS, Task, make
from stable_baselines3.common.callbacks import BaseCallback

from ebrl.agents.checkpoints import Checkpoints, restore
from ebrl.agents.energy_policy import EnergyPolicy

RESULTS = Path(__file__).parent / "results" / "returns"
SCRATCH = Path(__file__).parents[1] / "runs" / "returns"
CHECKPOINT_EVERY = 10_000


class Evaluations(BaseCallback):
    """Greedy returns on fixed starts, kept in a file from which a killed run goes on.

    Where the agent acts by an average of its proposal, the newest weights of the same training are
    evaluated beside it.
    """

    def __init__(self, task: Task, path: Path) -> None:
        super().__init__()
        self.every, self.path = task.every, path
        self.environments = [gym.make(task.env) for _ in range(task.episodes)]
        self.record: dict[str, list] = {
            name: [] for name in ("steps", "returns", "newest_returns", "cpu_seconds")
        }
        self.overhead = 0.0  # + this process's clock: the CPU seconds of the run's training

    def resume(self, num_timesteps: int) -> None:
        """Take back what was evaluated up to a checkpoint of `num_timesteps` steps."""
        record = json.loads(self.path.read_text())
        kept = sum(steps <= num_timesteps for steps in record["steps"])
        self.record = {name: values[:kept] for name, values in record.items()}

    def _on_training_start(self) -> None:
        # Only now: `Checkpoints` puts back numbers of a callback, this one's of another process.
        spent = self.record["cpu_seconds"][-1] if self.record["cpu_seconds"] else 0.0
        self.overhead = spent - time.process_time()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            before = time.process_time()
            self.record["steps"].append(self.num_timesteps)
            self.record["cpu_seconds"].append(round(before + self.overhead, 1))
            self.record["returns"].append(self.evaluate())
            if getattr(self.model, "averaging", 0):
                with newest_weights(self.model.policy):
                    self.record["newest_returns"].append(self.evaluate())
            self.path.write_text(json.dumps(self.record))
            print(self.num_timesteps, round(float(np.mean(self.record["returns"][-1]))), flush=True)
            self.overhead -= time.process_time() - before
        return True

    def evaluate(self) -> list[float]:
        """Return the undiscounted return of one episode from each start."""
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
        return totals.round(2).tolist()


@contextmanager
def newest_weights(policy: EnergyPolicy) -> Iterator[None]:
    """Let a policy act by its newest weights."""
    averaged, policy.averaged_proposal = policy.averaged_proposal, None
    try:
        yield
    finally:
        policy.averaged_proposal = averaged


def run(name_of_task: str, name: str, seed: int, scratch: Path) -> dict[str, Any]:
    """Train and evaluate one agent with one seed and return the record of the run."""
    task, model = TASKS[name_of_task], make(name_of_task, name, seed)
    evaluations = Evaluations(task, scratch / "evaluations.json")
    restored = None
    if list(scratch.glob("checkpoint-*")):
        restored = restore(model, scratch)
        evaluations.resume(restored.num_timesteps)
    checkpoints = Checkpoints(scratch, CHECKPOINT_EVERY, resumed=restored)
    model.learn(
        task.steps - model.num_timesteps,
        callback=[checkpoints, evaluations],
        reset_num_timesteps=restored is None,
    )
    facts = {"torch": torch.__version__, "processor": processor(), "commit": commit()}
    return {"agent": name, "seed": seed, **evaluations.record, **facts}


def run_missing(name_of_task: str, agents: list[str], seeds: list[int]) -> None:
    discrete = TASKS[name_of_task].discrete
    fitting = [name for name in agents if AGENTS[name].discrete == discrete]
    for seed in seeds:
        for name in fitting:
            slug = f"{name.replace(',', '').replace(' ', '-')}.{seed}"
            path = RESULTS / name_of_task / f"{slug}.json"
            scratch = SCRATCH / name_of_task / slug
            scratch.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(scratch / "lock", blocking=False):
                    if not path.exists():
                        print(f"{name_of_task}: {name}, seed {seed}", flush=True)
                        record = run(name_of_task, name, seed, scratch)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text(json.dumps(record) + "\n")
            except Timeout:
                continue  # another process is at it
            shutil.rmtree(scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run", help="train what is missing")
    runs.add_argument("tasks", nargs="+", choices=list(TASKS))
    runs.add_argument("--agents", nargs="+", choices=list(AGENTS), default=list(AGENTS))
    runs.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    verbs.add_parser("table", help="write the tables and pictures from the finished runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.verb == "run":
        for task in arguments.tasks:
            run_missing(task, arguments.agents, arguments.seeds)
        return
    from returns_statistics import write  # matplotlib and rliable take seconds to load

    write(RESULTS)


if __name__ == "__main__":
    main()
