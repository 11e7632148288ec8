"""Checks for numbers that are not finite, before they reach the replay or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ebrl.training import DivergedError


def is_finite(value: Any) -> bool:
    """Whether there is no NaN and no infinity in an array, or in a dict or list of them.

    A tuple, as `reset` returns it, is no observation: Stable-Baselines3 says so.
    """
    if isinstance(value, tuple):
        return True
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list):
        return all(map(is_finite, value))
    array = np.asarray(value)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def check_observation(observation: Any) -> None:
    """Raise ValueError for an observation that is not finite."""
    if not is_finite(observation):
        raise ValueError("expected a finite observation, got NaN or infinity in it")


def check_start(env: VecEnv | None, observation: Any) -> None:
    """Raise ValueError, with the environment, for a first observation that is not finite."""
    if not is_finite(observation):
        raise ValueError(
            "expected a finite observation, got NaN or infinity from the reset of the environment "
            f"{_name_of(env)}"
        )


def check_transition(
    env: VecEnv | None, step: int, observation: Any, reward: np.ndarray, infos: list[dict]
) -> None:
    """Raise ValueError, with the environment and the step, for numbers that are not finite.

    One NaN in the replay ruins all weights.
    """
    last = [info["terminal_observation"] for info in infos if "terminal_observation" in info]
    for what, value in (("reward", reward), ("observation", observation), ("observation", last)):
        if not is_finite(value):
            raise ValueError(
                f"expected a finite {what}, got NaN or infinity from the environment "
                f"{_name_of(env)} at step {step:,}; the transition is not stored"
            )


def check_finite_agent(agent: BaseAlgorithm) -> None:
    """Raise DivergedError where a weight or an optimiser's moment is not finite.

    A buffer may be infinite, but not NaN. It waits for the device: call it where files are written.
    """
    buffers = {f"policy.{name}" for name, _ in agent.policy.named_buffers()}
    for name, tensor in _tensors("", agent.get_parameters()):
        lost = tensor.isnan() if name in buffers else ~tensor.isfinite()
        if lost.any():
            raise DivergedError(
                f"the training diverged by step {agent.num_timesteps:,}: `{name}` is not finite; "
                "lower the learning rate, or normalise rewards that are large"
            )


def _tensors(place: str, state: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested state dictionaries, each with its place."""
    if isinstance(state, Tensor):
        yield place, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _tensors(f"{place}.{key}" if place else str(key), value)


def _name_of(env: VecEnv | None) -> str:
    """Return the registered name of the environments, or their class."""
    if env is None:
        return "without a name"
    try:
        spec = env.get_attr("spec", [0])[0]
        return spec.id if spec is not None else type(env.get_attr("unwrapped", [0])[0]).__name__
    except (AttributeError, NotImplementedError):  # of a VecEnv without single environments
        return type(env).__name__
