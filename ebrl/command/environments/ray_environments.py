"""Environments in Ray's actors, for slow simulators: one that dies is started again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from ebrl.command.environments.ray_clusters import joining
from ebrl.command.errors import EnvironmentFailure, extra
from ebrl.training import DivergedError

RESTARTS = 10  # of one environment within a run, before it counts as broken


class Simulator:
    """One environment, in a process of its own on any machine of the cluster."""

    def __init__(self, make: Callable[[], gym.Env]) -> None:
        self.env = make()

    def spaces(self) -> tuple[gym.Space, gym.Space]:
        return self.env.observation_space, self.env.action_space

    def reset(self, seed: int | None, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed, options=options or None)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, dict[str, Any], Any]:
        """Step and, at an end, reset: as Stable-Baselines3's workers do."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["TimeLimit.truncated"] = truncated and not terminated
        reset_info = None
        if terminated or truncated:
            info["terminal_observation"] = observation
            observation, reset_info = self.env.reset()
        return observation, float(reward), terminated or truncated, info, reset_info

    def get(self, name: str) -> Any:
        return self.env.get_wrapper_attr(name)

    def set(self, name: str, value: Any) -> None:
        setattr(self.env, name, value)

    def call(self, name: str, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        return self.env.get_wrapper_attr(name)(*arguments, **named)

    def wrapped(self, wrapper: type[gym.Wrapper]) -> bool:
        return is_wrapped(self.env, wrapper)

    def render(self) -> Any:
        return self.env.render()


class RayVecEnv(VecEnv):
    """Stable-Baselines3's vectorised environments, each in an actor of Ray.

    An actor that dies is replaced: its episode counts as truncated, with the last observation it
    gave and no reward, and a line on stderr says so.

    Args:
        makers: Each makes one environment.

    Raises:
        RunError: If Ray is not installed, or no cluster answers at RAY_ADDRESS.
        EnvironmentFailure: If an environment raised an error, or died more than `RESTARTS` times.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env]]) -> None:
        with extra("ray", "ray"):
            import ray
        if not ray.is_initialized():
            with joining(os.environ.get("RAY_ADDRESS", "")):
                ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
        self.ray, self.makers = ray, list(makers)
        # Ray must not restart an actor: the new one would have lost the episode.
        self.remote: Any = ray.remote(num_cpus=1, max_restarts=0)(Simulator)
        self.actors: list[Any] = [self.remote.remote(make) for make in self.makers]
        self.deaths = [0] * len(self.makers)
        self.actions: np.ndarray | None = None
        self.last: list[Any] = [None] * len(self.makers)
        spaces = self._get_alive(self.actors[0].spaces.remote())
        if spaces is None:
            raise EnvironmentFailure("an environment died in Ray as it was made.")
        super().__init__(len(self.makers), *spaces)

    def reset(self) -> VecEnvObs:
        asked = [
            actor.reset.remote(self._seeds[i], self._options[i])
            for i, actor in enumerate(self.actors)
        ]
        for i, reference in enumerate(asked):
            answer = self._get_alive(reference)
            if answer is None:
                self._revive(i)
            else:
                self.last[i], self.reset_infos[i] = answer
        self._reset_seeds()
        self._reset_options()
        return self._stacked()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        assert self.actions is not None  # given by step_async
        pairs = zip(self.actors, self.actions, strict=True)
        asked = [actor.step.remote(action) for actor, action in pairs]
        rewards = np.zeros(self.num_envs, np.float32)
        dones, infos = np.zeros(self.num_envs, bool), []
        for i, reference in enumerate(asked):
            answer = self._get_alive(reference)
            if answer is None:
                info = {"TimeLimit.truncated": True, "terminal_observation": self.last[i]}
                dones[i] = True
                self._revive(i)
            else:
                self.last[i], rewards[i], dones[i], info, first = answer
                self.reset_infos[i] = self.reset_infos[i] if first is None else first
            infos.append(info)
        return self._stacked(), rewards, dones, infos

    def _revive(self, i: int) -> None:
        """Start environment i in a new actor, with a new episode."""
        self.deaths[i] += 1
        if self.deaths[i] > RESTARTS:
            raise EnvironmentFailure(f"environment {i} died {self.deaths[i]} times.")
        print(
            f"ebrl: note: environment {i} died; it is started again, and its episode is truncated.",
            file=sys.stderr,
        )
        self.actors[i] = self.remote.remote(self.makers[i])
        answer = self._get_alive(self.actors[i].reset.remote(None, {}))
        if answer is None:
            self._revive(i)
        else:
            self.last[i], self.reset_infos[i] = answer

    def _get_alive(self, reference: Any) -> Any:
        """Wait for an actor's answer; None when it died."""
        try:
            return self._get(reference)
        except self.ray.exceptions.RayActorError:
            return None

    def _get(self, reference: Any) -> Any:
        """Wait for an actor's answer; an error of its environment is ours."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, EnvironmentFailure | DivergedError):
                raise cause from error
            raise

    def _stacked(self) -> Any:
        if isinstance(self.observation_space, gym.spaces.Dict):
            keys = self.observation_space.spaces
            return {key: np.stack([each[key] for each in self.last]) for key in keys}
        return np.stack(self.last)

    def _each(self, method: str, *arguments: Any, indices: VecEnvIndices = None) -> list[Any]:
        asked = [
            getattr(self.actors[i], method).remote(*arguments) for i in self._get_indices(indices)
        ]
        return [self._get(reference) for reference in asked]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self._each("get", attr_name, indices=indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._each("set", attr_name, value, indices=indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **named: Any
    ) -> list[Any]:
        return self._each("call", method_name, method_args, named, indices=indices)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        return self._each("wrapped", wrapper_class, indices=indices)

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self._each("render")

    def close(self) -> None:
        """Stop the actors; Ray itself stays up for others in this process."""
        for actor in self.actors:
            self.ray.kill(actor)
