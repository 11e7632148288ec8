"""The environments of a run, built the same way for training, resuming and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled, Error, UnregisteredEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ebrl.agents.replayable import Replayable
from ebrl.agents.vector_environments import FromVectorEnv
from ebrl.command.agent_config import Configuration, Settings
from ebrl.command.config_schema import locate
from ebrl.command.errors import EnvironmentFailure, UsageError, did_you_mean
from ebrl.training import DivergedError

# The extra that installs what an environment's module needs.
EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale_py": "atari", "shimmy": "dm_control"}


class Watched(gym.Wrapper):
    """Reports errors of an environment, with its name and the step of the episode.

    Args:
        env: The environment.
        name: Its name in messages.

    Raises:
        EnvironmentFailure: It raised any error, `SystemExit` and `OSError` included, or returned a
            number that is not finite, which must not enter a replay.
        DivergedError: The agent's action is not finite.
    """

    def __init__(self, env: gym.Env, name: str) -> None:
        super().__init__(env)
        self.name = name
        self.episode_step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.episode_step = 0
        with self._reporting():
            observation, info = self.env.reset(seed=seed, options=options)
        self._check_finite("observation", observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.episode_step += 1
        if not np.isfinite(action).all():
            raise DivergedError(
                f"the agent's action at step {self.episode_step} of an episode of {self.name} is "
                f"not finite ({action}): its training diverged; lower the learning rate"
            )
        with self._reporting():
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._check_finite("reward", reward)
        self._check_finite("observation", observation)
        return observation, reward, terminated, truncated, info

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise EnvironmentFailure(
                f"{self.name} raised {type(error).__name__} at step {self.episode_step} of an "
                f"episode: {error or 'without a message'}."
            ) from error

    def _check_finite(self, quantity: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                self._check_finite(f"{quantity} `{key}`", part)
        elif isinstance(value, tuple):
            for part in value:
                self._check_finite(quantity, part)
        elif not np.isfinite(value).all():
            raise EnvironmentFailure(
                f"{self.name}: the {quantity} at step {self.episode_step} of the episode is not "
                f"finite ({np.asarray(value)})."
            )


def make(
    name: str, arguments: dict[str, Any] | None = None, wrappers: list[dict[str, Any]] | None = None
) -> gym.Env:
    """Make an environment as `gymnasium.make` does, with wrappers by class_path and init_args.

    Raises:
        UsageError: The name is unknown, a package is missing, an argument is refused, the
            environment raises an error of its own, or its action space is unbounded.
    """
    try:
        environment = gym.make(name, **(arguments or {}))
    except DependencyNotInstalled as error:
        raise UsageError(f"{name} needs a package that is not installed. {_cure(name)}") from error
    except ImportError as error:  # its module, an import of that, or a removed version
        raise UsageError(f"{name} cannot be imported: {error} {_cure(name)}") from error
    except (UnregisteredEnv, Error) as error:
        hint = did_you_mean(name, gym.registry)
        raise UsageError(f"unknown environment {name}.{hint} ({error})") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} refused env_kwargs {arguments}: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the environment's own code runs here
        raise UsageError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
    for wrapper in wrappers or []:
        environment = _wrapped(environment, wrapper)
    space = environment.action_space
    if isinstance(space, spaces.Box) and not space.is_bounded():
        raise UsageError(
            f"{name}: the action space {space} has bounds that are not finite. "
            "Register the environment with finite `low` and `high`."
        )
    return environment


def training_environment(configuration: Configuration) -> VecEnv:
    """Make `n_envs` environments, replayable and, if asked for, normalised.

    Of dictionary observations the keys with real numbers are normalised, but no images.

    Raises:
        UsageError: As `vectorised`, and for observations that cannot be normalised.
    """
    settings = configuration.settings
    environments = vectorised(configuration.environment, settings)
    if settings.normalize is None:
        return environments
    norm_obs, space = settings.normalize != "rewards", environments.observation_space
    of_dictionary = isinstance(space, spaces.Dict)
    parts = dict(space.items()) if isinstance(space, spaces.Dict) else {"": space}
    boxes = {key: part for key, part in parts.items() if isinstance(part, spaces.Box)}
    images = [part for part in boxes.values() if is_image_space(part)]
    if not all(map(is_image_space_channels_first, images)):
        environments = VecTransposeImage(environments)  # inside, where replays take them from
    keys = [key for key, part in boxes.items() if not is_image_space(part)]
    try:
        return VecNormalize(
            environments,
            norm_obs=norm_obs,
            norm_reward=settings.normalize != "observations",
            norm_obs_keys=keys if norm_obs and of_dictionary else None,
            gamma=configuration.agent_arguments["gamma"],
        )
    except ValueError as error:
        raise UsageError(
            f"normalize: expected a Box or a Dict as the observation space of "
            f"{configuration.environment}, got {space}."
        ) from error


def vectorised(name: str, settings: Settings) -> VecEnv:
    """Make a run's environments where `vec` says.

    Raises:
        UsageError: As `make`, and for wrappers around a vector environment.
    """
    wrappers = [*(settings.wrappers or []), *(settings.training_wrappers or [])]

    def one() -> gym.Env:
        return Monitor(Replayable(Watched(make(name, settings.env_kwargs, wrappers), name)))

    makers = [one] * settings.n_envs
    if settings.vec == "dummy":
        return DummyVecEnv(makers)
    make(name, settings.env_kwargs, wrappers).close()  # what is wrong is said here, in one line
    if settings.vec == "subproc":
        return Subprocesses(makers)
    if settings.vec == "ray":
        from ebrl.command.ray_environments import RayVecEnv

        return RayVecEnv(makers)
    if wrappers:
        raise UsageError("wrappers are around single environments: expected another vec: vector.")
    return FromVectorEnv(gym.make_vec(name, settings.n_envs, **(settings.env_kwargs or {})))


class Subprocesses(SubprocVecEnv):
    """Environments in a process each.

    Raises:
        EnvironmentFailure: A process ended; its error is on stderr.
    """

    def reset(self) -> VecEnvObs:
        with _one_may_end():
            return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        with _one_may_end():
            return super().step_wait()


@contextmanager
def _one_may_end() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        failure = "the process of an environment ended; its error is above."
        raise EnvironmentFailure(failure) from error


def _wrapped(environment: gym.Env, wrapper: dict[str, Any]) -> gym.Env:
    """Return the environment in one wrapper of a config."""
    path = wrapper.get("class_path")
    if not isinstance(path, str) or wrapper.keys() - {"class_path", "init_args"}:
        raise UsageError(f"wrappers: expected class_path and init_args of each, got {wrapper}.")
    try:
        wrapped = locate(path)(environment, **(wrapper.get("init_args") or {}))
    except (TypeError, ValueError, AssertionError, ImportError, AttributeError, Error) as error:
        raise UsageError(f"wrapper {path} does not fit {environment}: {error}") from error
    if not isinstance(wrapped, gym.Env):
        raise UsageError(f"wrappers: expected wrappers of environments, got {path}.")
    return wrapped


def evaluation_environments(configuration: Configuration, episodes: int) -> DummyVecEnv:
    """Make `episodes` parallel environments that share nothing with the training."""
    name, settings = configuration.environment, configuration.settings

    def one() -> gym.Env:
        return Watched(make(name, settings.env_kwargs, settings.wrappers), name)

    return DummyVecEnv([one] * episodes)


def _cure(name: str) -> str:
    specification = gym.registry.get(name)
    entry_point = str(specification.entry_point) if specification else name
    for module, extra in EXTRAS.items():
        if module in entry_point:
            return f'Install it with: pip install "ebrl[{extra}]"'
    return f"It comes from {entry_point or name}: install the package that provides it."
