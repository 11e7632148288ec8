"""Cloning: does an energy keep both routes of its demonstrations, and reach the goal by either?

    python benchmarks/cloning.py --out benchmarks/results/cloning

A point walks from the left to a goal at the right, past a disc in the middle. The demonstrator
goes round it above or below, as often as `SHARE` says, and the policy sees the position alone: near
the start its actions are bimodal. Each method has the same demonstrations, networks and updates;
evaluated are 200 episodes a seed, with sampled and with greedy actions.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from machine import commit, processor

from ebrl.agents import ImplicitCloning
from ebrl.agents.demonstrations import Demonstrations, fill

GOAL, RADIUS, NEAR, PACE, LONGEST = np.array([1.0, 0.0]), 0.4, 0.15, 0.1, 60
SHARE, NOISE = 0.3, 0.1  # of demonstrations that go above; deviation of their actions
METHODS: dict[str, dict[str, Any]] = {
    "Gaussian": {"components": 1, "acting_candidates": 1, "moves": 0, "candidates": 1},
    "mixture of 8": {"components": 8, "acting_candidates": 1, "moves": 0, "candidates": 1},
    "energy": {"components": 8, "acting_candidates": 16, "moves": 4, "candidates": 32},
    "energy, Gaussian proposal": {
        "components": 1, "acting_candidates": 64, "moves": 4, "candidates": 32,
    },
}  # fmt: skip


class Routes(gym.Env[np.ndarray, np.ndarray]):
    """The spaces of the task; episodes are walked many at once, by `walk`."""

    observation_space = spaces.Box(-2, 2, (2,))
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}


def starts(n: int, random: np.random.Generator) -> np.ndarray:
    return np.stack([np.full(n, -1.0), random.uniform(-0.1, 0.1, n)], 1)


def demonstrations(episodes: int, random: np.random.Generator) -> Demonstrations:
    position = starts(episodes, random)
    side = np.where(random.random(episodes) < SHARE, 1.0, -1.0)
    seen, actions, following, ended = [], [], [], []
    running = np.ones(episodes, bool)
    for _ in range(LONGEST):
        turning = np.stack([np.zeros(episodes), 0.7 * side], 1)
        target = np.where(position[:, :1] < 0, turning, GOAL)
        way = target - position
        action = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
        action = np.clip(action + NOISE * random.standard_normal(action.shape), -1, 1)
        after = position + PACE * action
        there = np.linalg.norm(after - GOAL, axis=1) < NEAR
        seen.append(position[running])
        actions.append(action[running])
        following.append(after[running])
        ended.append(there[running])
        running, position = running & ~there, after
    rows = [np.concatenate(part) for part in (seen, actions, following)]
    ends = np.concatenate(ended)
    seen_, actions_, following_ = (part.astype(np.float32) for part in rows)
    nothing = np.zeros(len(ends), np.float32)
    return Demonstrations(seen_, actions_, nothing, following_, ends, np.zeros_like(ends))


def walk(agent: ImplicitCloning, episodes: int, seed: int, greedy: bool) -> tuple[float, float]:
    """Return the share of episodes that reach the goal, and of those the share that go above."""
    position = starts(episodes, np.random.default_rng(seed))
    running, reached = np.ones(episodes, bool), np.zeros(episodes, bool)
    highest = np.zeros(episodes)
    for _ in range(LONGEST):
        action, _ = agent.predict(position.astype(np.float32), deterministic=greedy)
        position = np.where(running[:, np.newaxis], position + PACE * action, position)
        beside = np.abs(position[:, 0]) < 0.1  # past the middle of the disc
        highest = np.where(running & beside, position[:, 1], highest)
        running &= np.linalg.norm(position, axis=1) > RADIUS
        there = running & (np.linalg.norm(position - GOAL, axis=1) < NEAR)
        reached |= there
        running &= ~there
    above = float((highest[reached] > 0).mean()) if reached.any() else float("nan")
    return float(reached.mean()), above


def run(method: str, seed: int, updates: int) -> dict[str, Any]:
    agent = ImplicitCloning(
        "MlpPolicy", Routes(), learning_rate=3e-3, policy_kwargs={"net_arch": [64, 64]},
        seed=seed, **METHODS[method],
    )  # fmt: skip
    fill(agent, demonstrations(100, np.random.default_rng(1_000 + seed)))
    started = time.process_time()
    agent.learn(updates)
    seconds = time.process_time() - started
    figures: dict[str, Any] = {"method": method, "seed": seed, "seconds": seconds}
    for name, greedy in (("sampled", False), ("greedy", True)):
        figures[name], figures[f"{name}_above"] = walk(agent, 200, seed, greedy)
    print(json.dumps(figures), flush=True)
    return figures


def markdown(figures: list[dict[str, Any]], seeds: int, updates: int) -> str:
    lines = [
        "| method | success, sampled | of these above | success, greedy | of these above "
        "| seconds of training |",
        "|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        rows = [row for row in figures if row["method"] == method]
        cells = []
        for name in ("sampled", "sampled_above", "greedy", "greedy_above"):
            values = np.array([row[name] for row in rows])
            values = values[np.isfinite(values)]
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
            cells.append(f"{values.mean():.2f} ± {error:.2f}" if len(values) > 1 else "none")
        seconds = np.mean([row["seconds"] for row in rows])
        lines.append(f"| {method} | {' | '.join(cells)} | {seconds:.0f} |")
    lines += [
        "",
        f"Mean and standard error over {seeds} seeds (data and networks), {updates:,} updates; the "
        f"demonstrations went above in {SHARE:.0%} of the episodes. Commit {commit()}, "
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
    figures = [run(m, seed, given.updates) for seed in range(given.seeds) for m in METHODS]
    given.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    given.out.with_suffix(".md").write_text(markdown(figures, given.seeds, given.updates))


if __name__ == "__main__":
    main()
