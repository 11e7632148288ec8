"""Two routes: a point walks past a disc to a goal on its other side, above the disc or below it.

The policy sees the position alone: near the start its actions are bimodal.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ebrl.agents import ImplicitCloning
from ebrl.agents.demonstrations import Demonstrations

GOAL, RADIUS, NEAR, PACE, LONGEST = np.array([1.0, 0.0]), 0.4, 0.15, 0.1, 60
SHARE, NOISE = 0.3, 0.1  # of demonstrations that go above; deviation of their actions


class Routes(gym.Env[np.ndarray, np.ndarray]):
    """The spaces of the task; episodes are walked many at once, by `evaluate`."""

    observation_space = spaces.Box(-2, 2, (2,))
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}


def environment() -> gym.Env:
    return Routes()


def starts(n: int, random: np.random.Generator) -> np.ndarray:
    return np.stack([np.full(n, -1.0), random.uniform(-0.1, 0.1, n)], 1)


def demonstrations(episodes: int, random: np.random.Generator) -> Demonstrations:
    """Return walks towards the disc's top or bottom, and from there to the goal."""
    position = starts(episodes, random)
    side = np.where(np.arange(episodes) < SHARE * episodes, 1.0, -1.0)
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


def evaluate(
    agent: ImplicitCloning, episodes: int, seed: int, greedy: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return which episodes reach the goal, and which go above the disc, `(episodes,)` each."""
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
    return reached, highest > 0
