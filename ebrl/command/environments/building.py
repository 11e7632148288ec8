"""The environments of a run, built the same way for training, resuming and evaluation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled, Error, UnregisteredEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecNormalize,
    VecTransposeImage,
)

from ebrl.agents.replayable import Replayable
from ebrl.command.configs.agent_config import TrainConfiguration, TrainSettings
from ebrl.command.configs.schema import locate
from ebrl.command.environments.watched import Subprocesses, Watched, WatchedVector
from ebrl.command.errors import UsageError, did_you_mean

# The extra that installs what an environment's module needs.
EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale_py": "atari", "shimmy": "dm_control"}


def make(
    name: str, arguments: dict[str, Any] | None = None, wrappers: list[dict[str, Any]] | None = None
) -> gym.Env:
    """Make an environment as `gymnasium.make` does, with wrappers by class_path and init_args.

    Raises:
        UsageError: If the name is unknown, a package is missing, an argument is refused, the
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


def training_environment(configuration: TrainConfiguration) -> VecEnv:
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


def vectorised(name: str, settings: TrainSettings) -> VecEnv:
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
        return Subprocesses(makers, name)
    if settings.vec == "ray":
        from ebrl.command.environments.ray_environments import RayVecEnv

        return RayVecEnv(makers)
    if wrappers:
        raise UsageError("wrappers are around single environments: expected another vec: vector.")
    made = gym.make_vec(name, int(settings.n_envs), **(settings.env_kwargs or {}))
    return WatchedVector(made, name)


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


def evaluation_environments(configuration: TrainConfiguration, episodes: int) -> DummyVecEnv:
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
