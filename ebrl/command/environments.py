"""The environments of a run, built the same way for training, resuming and evaluation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled, Error, UnregisteredEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from ebrl.agents.replayable import Replayable
from ebrl.command.agent_config import Configuration
from ebrl.command.errors import RunError, UsageError, did_you_mean

# Which of our extras brings what an environment's module needs.
EXTRAS = {"mujoco": "mujoco", "box2d": "box2d"}


class NonFiniteError(RunError):
    """An environment, or the agent, gave a NaN or an infinity."""


class Finite(gym.Wrapper):
    """Stops at the first NaN or infinity, before it can enter a replay.

    Raises NonFiniteError, which names the environment, the quantity and the step.
    """

    def __init__(self, env: gym.Env, name: str) -> None:
        super().__init__(env)
        self.name = name
        self.episode_step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.episode_step = 0
        self._check("observation", observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.episode_step += 1
        self._check("action of the agent", action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._check("reward", reward)
        self._check("observation", observation)
        return observation, reward, terminated, truncated, info

    def _check(self, quantity: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                self._check(f"{quantity} `{key}`", part)
        elif not np.isfinite(value).all():
            raise NonFiniteError(
                f"{self.name}: the {quantity} at step {self.episode_step} of the episode is not "
                f"finite ({np.asarray(value)})."
            )


def make(name: str, arguments: dict[str, Any] | None = None) -> gym.Env:
    """`gymnasium.make`, with its failures as UsageError: unknown name, missing package, argument.

    An unbounded action space is refused here too.
    """
    try:
        environment = gym.make(name, **(arguments or {}))
    except DependencyNotInstalled as error:
        raise UsageError(f"{name} needs a package that is not installed. {_cure(name)}") from error
    except ImportError as error:  # its own module, what that imports, or a version that is gone
        raise UsageError(f"{name} cannot be imported: {error} {_cure(name)}") from error
    except (UnregisteredEnv, Error) as error:
        hint = did_you_mean(name, gym.registry)
        raise UsageError(f"unknown environment {name}.{hint} ({error})") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} refused env_kwargs {arguments}: {error}") from error
    space = environment.action_space
    if isinstance(space, spaces.Box) and not space.is_bounded():
        raise UsageError(
            f"{name}: the action space {space} has bounds that are not finite. "
            "Register the environment with finite `low` and `high`."
        )
    return environment


def training_environment(configuration: Configuration) -> VecEnv:
    """`n_envs` environments in one process, ready to be replayed and, if asked, normalised."""
    settings = configuration.settings

    def one() -> gym.Env:
        environment = make(configuration.environment, settings.env_kwargs)
        return Monitor(Replayable(Finite(environment, configuration.environment)))

    environments: VecEnv = DummyVecEnv([one] * settings.n_envs)
    if settings.normalize is None:
        return environments
    return VecNormalize(
        environments,
        norm_obs=settings.normalize != "rewards",
        norm_reward=settings.normalize != "observations",
        gamma=configuration.agent_arguments["gamma"],
    )


def evaluation_environments(configuration: Configuration, episodes: int) -> DummyVecEnv:
    """`episodes` environments side by side, which share nothing with the training."""
    name, arguments = configuration.environment, configuration.settings.env_kwargs
    return DummyVecEnv([lambda: Finite(make(name, arguments), name)] * episodes)


def _cure(name: str) -> str:
    specification = gym.registry.get(name)
    entry_point = str(specification.entry_point) if specification else ""
    for module, extra in EXTRAS.items():
        if module in entry_point:
            return f'Install it with: pip install "ebrl[{extra}]"'
    return f"It comes from {entry_point or name}: install the package that provides it."
