"""Worlds of `kills.py` that Gymnasium does not register: goals for HER, and images."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv


class SeededImages(FakeImageEnv):
    """Random images that a seed reproduces: SB3's own draw from a stream that no reset seeds."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.observation_space.seed(seed)
        return super().reset(seed=seed, options=options)


gym.register("Goals-v0", lambda: BitFlippingEnv(n_bits=4, continuous=True, max_steps=8))
gym.register("Images-v0", lambda: SeededImages(screen_height=36, screen_width=36, n_channels=1))
