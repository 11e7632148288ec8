"""Cloning: does an energy keep both modes of its demonstrations, and succeed by either?

    python benchmarks/cloning.py --out benchmarks/results/cloning

The tasks are two routes round a disc and two gaits of a swimmer (`cloning_routes.py`,
`cloning_gaits.py`). The demonstrator takes the first as often as the task's `SHARE` says. Each
method has the same demonstrations, networks and updates; evaluated are 200 episodes a seed, with
sampled and with greedy actions.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import cloning_gaits
import cloning_routes
import numpy as np
import torch
from machine import commit, processor

from ebrl.agents import ImplicitCloning
from ebrl.agents.demonstrations import fill

TASKS = {"two routes": cloning_routes, "two gaits": cloning_gaits}
EPISODES = 200  # of an evaluation
METHODS: dict[str, dict[str, Any]] = {
    "Gaussian": {"components": 1, "acting_candidates": 1, "moves": 0, "candidates": 1},
    "mixture of 8": {"components": 8, "acting_candidates": 1, "moves": 0, "candidates": 1},
    "energy": {"components": 8, "acting_candidates": 16, "moves": 4, "candidates": 32},
    "energy, Gaussian proposal": {
        "components": 1, "acting_candidates": 64, "moves": 4, "candidates": 32,
    },
}  # fmt: skip


def run(name: str, method: str, seed: int, updates: int) -> dict[str, Any]:
    """Return the share of episodes that succeed, and of those the share of the first mode."""
    task = TASKS[name]
    agent = ImplicitCloning(
        "MlpPolicy", task.environment(), learning_rate=3e-3, policy_kwargs={"net_arch": [64, 64]},
        seed=seed, **METHODS[method],
    )  # fmt: skip
    fill(agent, task.demonstrations(100, np.random.default_rng(1_000 + seed)))
    started = time.process_time()
    agent.learn(updates)
    seconds = time.process_time() - started
    figures: dict[str, Any] = {"task": name, "method": method, "seed": seed, "seconds": seconds}
    for kind, greedy in (("sampled", False), ("greedy", True)):
        succeeded, first = task.evaluate(agent, EPISODES, seed, greedy)
        share = float(first[succeeded].mean()) if succeeded.any() else float("nan")
        figures |= {kind: float(succeeded.mean()), f"{kind}_first": share}
    print(json.dumps(figures), flush=True)
    return figures


def markdown(figures: list[dict[str, Any]], seeds: int, updates: int) -> str:
    lines = [
        "| task | method | success, sampled | of these the first mode | success, greedy "
        "| of these the first mode | seconds of training |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, method in product(TASKS, METHODS):
        rows = [row for row in figures if (row["task"], row["method"]) == (name, method)]
        cells = []
        for kind in ("sampled", "sampled_first", "greedy", "greedy_first"):
            values = np.array([row[kind] for row in rows])
            values = values[np.isfinite(values)]
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
            cells.append(f"{values.mean():.2f} ± {error:.2f}" if len(values) > 1 else "none")
        seconds = np.mean([row["seconds"] for row in rows])
        lines.append(f"| {name} | {method} | {' | '.join(cells)} | {seconds:.0f} |")
    shares = ", ".join(f"{task.SHARE:.0%} ({name})" for name, task in TASKS.items())
    lines += [
        "",
        f"Mean and standard error over {seeds} seeds (data and networks), {updates:,} updates; the "
        f"demonstrator took the first mode in {shares} of the episodes. Commit {commit()}, "
        f"{processor()}, one thread.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cloning"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=2_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = product(range(given.seeds), TASKS, METHODS)
    figures = [run(name, method, seed, given.updates) for seed, name, method in runs]
    given.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    given.out.with_suffix(".md").write_text(markdown(figures, given.seeds, given.updates))


if __name__ == "__main__":
    main()
