"""Two gaits: a swimmer of three links (Swimmer-v5) drives itself by waves of its two joints.

The demonstrator sends the wave from the head to the tail, or from the tail to the head, and swims
one way or the other. It counts time. The policy sees angles and velocities, without the position:
at rest its actions are bimodal, and under way the phase of the joints tells the gait.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from ebrl.agents import ImplicitCloning
from ebrl.agents.demonstrations import Demonstrations

SHARE, NOISE = 0.3, 0.1  # of demonstrations with the wave from the head; deviation of their actions
AMPLITUDE, FREQUENCY, LAG = 0.8, 0.12, 1.2  # of the torques; radians a step; radians a joint
LENGTH = 200  # steps of an episode
HALFWAY = -0.55, 0.3  # half of what the demonstrator swims, by its two gaits


def environment() -> gym.Env:
    return gym.make("Swimmer-v5", max_episode_steps=LENGTH)


def demonstrations(episodes: int, random: np.random.Generator) -> Demonstrations:
    """Return a fifth as many episodes: each has ten times the steps of a walk."""
    env = environment()
    rows: list[tuple] = []
    for episode in range(episodes // 5):
        lag = LAG if episode < SHARE * (episodes // 5) else -LAG
        seen, _ = env.reset(seed=int(random.integers(2**31)))
        for step in range(LENGTH):
            wave = AMPLITUDE * np.sin(FREQUENCY * step + np.array([0.0, lag]))
            action = np.clip(wave + NOISE * random.standard_normal(2), -1, 1).astype(np.float32)
            after, reward, _, cut, _ = env.step(action)
            rows.append((seen, action, reward, after, False, cut))
            seen = after
    seen_, actions, rewards, following, ends, cuts = (
        np.array(part) for part in zip(*rows, strict=True)
    )
    seen_, rewards, following = (part.astype(np.float32) for part in (seen_, rewards, following))
    return Demonstrations(seen_, actions, rewards, following, ends, cuts)


def evaluate(
    agent: ImplicitCloning, episodes: int, seed: int, greedy: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return which swimmers get half as far as a demonstrator, and which by the first gait."""
    envs = gym.make_vec("Swimmer-v5", episodes, max_episode_steps=LENGTH + 1)
    seen, _ = envs.reset(seed=seed)
    for _ in range(LENGTH):
        action, _ = agent.predict(seen.astype(np.float32), deterministic=greedy)
        seen, _, _, _, infos = envs.step(action)
    envs.close()
    way = infos["x_position"]
    return (way < HALFWAY[0]) | (way > HALFWAY[1]), way < 0
