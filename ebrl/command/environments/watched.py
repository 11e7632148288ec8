"""Environments whose errors are reported in one line, with the name and the step."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ebrl.agents.vector_environments import FromVectorEnv
from ebrl.command.errors import EnvironmentFailure
from ebrl.training import DivergedError

FAILURE = "ebrl failure"  # the key of an info under which a process hands on what failed
OF_TERMINALS = ("SIGINT", "SIGHUP")  # signals that reach all processes of a terminal at once


class Watched(gym.Wrapper):
    """Reports errors of an environment, with its name and the step of the episode.

    Args:
        env: The environment.
        name: Its name in messages.

    Raises:
        EnvironmentFailure: If it raised any error, `SystemExit` and `OSError` included, or returned
            what must not enter a replay: numbers that are not finite, or of another shape.
        DivergedError: If the agent's action is not finite.
    """

    def __init__(self, env: gym.Env, name: str) -> None:
        super().__init__(env)
        self.name = name
        self.episode_step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.episode_step = 0
        with reporting(self.name, 0):
            observation, info = self.env.reset(seed=seed, options=options)
        self._check(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.episode_step += 1
        if not np.isfinite(action).all():
            raise DivergedError(
                f"the agent's action at step {self.episode_step} of an episode of {self.name} is "
                f"not finite ({action}): its training diverged; lower the learning rate"
            )
        with reporting(self.name, self.episode_step):
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._check(observation, reward)
        return observation, reward, terminated, truncated, info

    def _check(self, observation: Any, reward: Any = 0.0) -> None:
        place = f"at step {self.episode_step} of the episode"
        check_numbers(f"{self.name}: the reward {place}", reward, [(), (1,)])
        for part, value, shape in _parts(self.observation_space, observation):
            check_numbers(f"{self.name}: the observation {part}{place}", value, [shape])


class WatchedVector(FromVectorEnv):
    """A vector environment whose errors are reported, with its name and the step of an episode.

    Args:
        environment: What `gymnasium.make_vec` returns.
        name: Its name in messages.

    Raises:
        EnvironmentFailure: As `Watched`.
    """

    def __init__(self, environment: VectorEnv, name: str) -> None:
        super().__init__(environment)
        self.name = name

    def reset(self) -> VecEnvObs:
        with reporting(self.name, 0):
            return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        step = int(self.lengths.max()) + 1
        with reporting(self.name, step):
            observations, rewards, dones, infos = super().step_wait()
        place = f"at step {step} of an episode"
        check_numbers(f"{self.name}: a reward {place}", rewards)
        for part, value, _ in _parts(self.observation_space, observations):
            check_numbers(f"{self.name}: an observation {part}{place}", value)
        return observations, rewards, dones, infos


class Subprocesses(SubprocVecEnv):
    """Watched environments in a process each, which outlive their failures.

    Args:
        makers: Each makes one environment.
        name: Their name in messages.

    Raises:
        EnvironmentFailure: If one failed, or its process ended; all start anew after that.
        DivergedError: If the agent's action is not finite.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env]], name: str) -> None:
        self.makers: list[Callable[[], gym.Env]] = [partial(_in_a_process, one) for one in makers]
        self.name = name
        super().__init__(self.makers)

    def reset(self) -> VecEnvObs:
        with self._replacing_the_dead():
            observations = super().reset()
        _raise_handed_on(self.reset_infos)
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        with self._replacing_the_dead():
            super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        with self._replacing_the_dead():
            observations, rewards, dones, infos = super().step_wait()
        _raise_handed_on([*infos, *self.reset_infos])
        return observations, rewards, dones, infos

    @contextmanager
    def _replacing_the_dead(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            for process in self.processes:
                process.terminate()
            super().__init__(self.makers)
            raise EnvironmentFailure(
                f"a process of {self.name} ended; what it said is above."
            ) from error


class HandingOn(gym.Wrapper):
    """Returns a failure as an info: as an error it would end the process."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        try:
            return self.env.reset(seed=seed, options=options)
        except (EnvironmentFailure, DivergedError) as error:
            return self.observation_space.sample(), {FAILURE: error}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            return self.env.step(action)
        except (EnvironmentFailure, DivergedError) as error:
            return self.observation_space.sample(), 0.0, False, False, {FAILURE: error}


def _in_a_process(make: Callable[[], gym.Env]) -> gym.Env:
    """Make an environment in a process that leaves it to the first one to stop at Ctrl-C."""
    for name in OF_TERMINALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    return HandingOn(make())


def _raise_handed_on(infos: Iterable[dict[str, Any]]) -> None:
    for info in infos:
        if FAILURE in info:
            raise info[FAILURE]


@contextmanager
def reporting(name: str, step: int) -> Iterator[None]:
    """Raise an EnvironmentFailure in place of whatever an environment raises."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failure = EnvironmentFailure(
            f"{name} raised {type(error).__name__} at step {step} of an episode: "
            f"{error or 'without a message'}."
        )
        failure.traceback = traceback.format_exc()
        raise failure from error


def check_numbers(what: str, value: Any, shapes: Sequence[tuple[int, ...]] | None = None) -> None:
    """Raise EnvironmentFailure unless a value is finite numbers, of one of the shapes if given."""
    try:
        array = np.asarray(value)
        fits, finite = shapes is None or array.shape in shapes, bool(np.isfinite(array).all())
    except (TypeError, ValueError):  # text, None, rows of several lengths
        raise EnvironmentFailure(f"{what} is no numbers ({value!r:.60}).") from None
    if not finite:
        raise EnvironmentFailure(f"{what} is not finite ({array}).")
    if not fits:
        raise EnvironmentFailure(
            f"{what} has shape {array.shape}, {' or '.join(map(str, shapes or ()))} was expected."
        )


def _parts(space: spaces.Space, value: Any) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Yield each part of an observation: its name, its value, and the shape that it should have."""
    inside = dict(space.items()) if isinstance(space, spaces.Dict) else {"": space}
    for key, one in inside.items():
        part = value if key == "" else value.get(key) if isinstance(value, dict) else None
        assert one.shape is not None  # all spaces of Stable-Baselines3 have one
        yield (f"`{key}` " if key else ""), part, one.shape
