"""Constructor arguments and spaces as data that a file can hold.

Classes of torch and Stable-Baselines3 are stored by name, its schedules and noises as numbers.
Reading them imports nothing.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import her
from stable_baselines3.common import buffers, torch_layers
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from torch import nn

from ebrl.storage import StorageError

from .state import storable

KNOWN_CLASSES: dict[str, tuple[Any, type]] = {
    "torch.nn": (nn, nn.Module),
    "torch.optim": (torch.optim, torch.optim.Optimizer),
    "stable_baselines3.common.torch_layers": (torch_layers, BaseFeaturesExtractor),
    "stable_baselines3.common.buffers": (buffers, ReplayBuffer),
    "stable_baselines3.her": (her, ReplayBuffer),
}
KNOWN_OBJECTS: dict[type, dict[str, str]] = {  # constructor argument: attribute
    LinearSchedule: {"start": "start", "end": "end", "end_fraction": "end_fraction"},
    ConstantSchedule: {"val": "val"},
    FloatSchedule: {"value_schedule": "value_schedule"},
    NormalActionNoise: {"mean": "_mu", "sigma": "_sigma", "dtype": "_dtype"},
    OrnsteinUhlenbeckActionNoise: {
        "mean": "_mu",
        "sigma": "_sigma",
        "theta": "_theta",
        "dt": "_dt",
        "initial_noise": "initial_noise",
        "dtype": "_dtype",
    },
    VectorizedActionNoise: {"base_noise": "base_noise", "n_envs": "n_envs"},
}
ZOO_SCHEDULE = ("rl_zoo3.utils", "SimpleLinearSchedule")  # from its initial value to 0
NOT_STORED = ("self", "policy", "env", "device", "tensorboard_log", "_init_setup_model")
LOST = object()  # an argument that the agent did not keep


def split_arguments(agent: OffPolicyAlgorithm) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the constructor arguments that a file can hold, and descriptions of the others."""
    values = {name: encode(value) for name, value in _arguments(agent).items()}
    left_out = {
        name: "an argument that is no attribute"
        if value is LOST
        else textwrap.shorten(str(value), 80, placeholder=" …")
        for name, value in values.items()
        if not storable(value)
    }
    return {name: v for name, v in values.items() if name not in left_out}, left_out


def _arguments(agent: OffPolicyAlgorithm) -> dict[str, Any]:
    """Return the constructor arguments that would build this agent again."""
    values: dict[str, Any] = {}
    for name in names_of(type(agent)):
        if name not in NOT_STORED:
            values[name] = getattr(agent, name, vars(agent).get(f"_{name}", LOST))
    aliases: dict[Any, str] = {policy: name for name, policy in agent.policy_aliases.items()}
    values["policy"] = aliases.get(agent.policy_class, agent.policy_class)
    if isinstance(agent.action_noise, VectorizedActionNoise):
        # `learn` wrapped the user's noise in it
        values["action_noise"] = agent.action_noise.base_noise
    if isinstance(agent.train_freq, TrainFreq):
        values["train_freq"] = (agent.train_freq.frequency, agent.train_freq.unit.value)
    if _chose_its_buffer(agent):
        # such an agent chooses its buffer and refuses an argument for it
        values["replay_buffer_class"] = None
        values["replay_buffer_kwargs"] = {
            key: value
            for key, value in agent.replay_buffer_kwargs.items()
            if agent.n_steps == 1 or key not in ("n_steps", "gamma")
        }
    return values


def names_of(cls: type) -> list[str]:
    """The arguments of a constructor, with its parent's where it takes `*args` or `**kwargs`."""
    names: dict[str, None] = {}
    for one in cls.__mro__:
        if "__init__" not in vars(one):
            continue
        own = inspect.signature(one.__init__).parameters.values()  # type: ignore[misc]
        passed_on = [p for p in own if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names |= {p.name: None for p in own if p not in passed_on}
        if not passed_on:
            break
    return list(names)


def _chose_its_buffer(agent: OffPolicyAlgorithm) -> bool:
    """Whether the agent has the replay buffer that its algorithm chooses by itself."""
    if agent.replay_buffer_class is NStepReplayBuffer and agent.n_steps > 1:
        chosen = {"n_steps": agent.n_steps, "gamma": agent.gamma}
        return chosen.items() <= agent.replay_buffer_kwargs.items()
    plain = agent.replay_buffer_class in (ReplayBuffer, DictReplayBuffer)
    return plain and agent.n_steps == 1


def encode(value: Any) -> Any:
    """Return known classes and objects as data, and subclasses of plain types as plain values.

    Other objects stay as they are.
    """
    for plain in (bool, int, float, str):
        if isinstance(value, plain) and not isinstance(value, np.generic):
            return plain(value)
    if isinstance(value, type):
        return _encode_class(value)
    if type(value) in KNOWN_OBJECTS:
        attributes = KNOWN_OBJECTS[type(value)].items()
        fields = {name: encode(getattr(value, attribute)) for name, attribute in attributes}
        return {"object": [type(value).__name__, fields]}
    if isinstance(value, GoalSelectionStrategy):
        return value.name.lower()
    if (type(value).__module__, type(value).__name__) == ZOO_SCHEDULE:
        return encode(LinearSchedule(value.initial_value, 0.0, 1.0))
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return tuple(encode(item) for item in value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _encode_class(value: type) -> Any:
    name: str = value.__name__
    if issubclass(value, np.generic):
        return {"dtype": np.dtype(value).name}
    for place, (module, parent) in KNOWN_CLASSES.items():
        if issubclass(value, parent) and getattr(module, name, None) is value:
            return {"class": [place, name]}
    return value


def decode(value: Any) -> Any:
    """Return the value that `encode` encoded; names are looked up in known modules alone.

    Raises:
        StorageError: For unknown names.
    """
    if isinstance(value, list | tuple):
        return type(value)(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    match list(value.items()):
        case [("class", [str(place), str(name)])]:
            return _decode_class(place, name)
        case [("object", [str(name), dict(fields)])]:
            return _decode_object(name, {key: decode(item) for key, item in fields.items()})
        case [("dtype", str(name))] if name in ("float16", "float32", "float64"):
            return np.dtype(name).type
        case [("class" | "object" | "dtype", other)]:
            raise StorageError(f"expected a class of {list(KNOWN_CLASSES)}, got {str(other)[:60]}")
    return {key: decode(item) for key, item in value.items()}


def _decode_class(place: str, name: str) -> type:
    module, parent = KNOWN_CLASSES.get(place, (None, object))
    found = getattr(module, name, None)
    if module is None or not (isinstance(found, type) and issubclass(found, parent)):
        raise StorageError(f"expected a class of {list(KNOWN_CLASSES)}, got {[place, name]}")
    return found


def _decode_object(name: str, fields: dict[str, Any]) -> Any:
    known: dict[str, Callable[..., Any]] = {one.__name__: one for one in KNOWN_OBJECTS}
    kind = known.get(name)
    if kind is None or fields.keys() != KNOWN_OBJECTS[kind].keys():  # type: ignore[index]
        raise StorageError(f"expected one of {sorted(known)} with its numbers, got {name!r}")
    return kind(**fields)


# ---- spaces ---------------------------------------------------------------------------------


def from_space(space: spaces.Space) -> dict[str, Any]:
    """Return a space as numbers and arrays.

    Raises:
        TypeError: For a kind that no algorithm here takes.
    """
    match space:
        case spaces.Box():
            return {"kind": "Box", "low": space.low, "high": space.high}
        case spaces.Discrete():
            return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            return {"kind": "MultiDiscrete", "nvec": space.nvec, "start": space.start}
        case spaces.MultiBinary():
            one_axis = isinstance(space.n, int | np.integer)
            return {"kind": "MultiBinary", "n": space.shape[0] if one_axis else list(space.shape)}
        case spaces.Dict():
            return {"kind": "Dict", "spaces": {k: from_space(v) for k, v in space.items()}}
    raise TypeError(
        "expected a Box, Discrete, MultiDiscrete, MultiBinary or Dict space, "
        f"got {type(space).__name__}, which a file cannot hold"
    )


def to_space(state: Any) -> spaces.Space:
    """Return the space that `from_space` described.

    Raises:
        StorageError: For anything else.
    """
    try:
        return _to_space(state)
    # what Gymnasium raises for numbers that are no space
    except (
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        AssertionError,
        OverflowError,
    ) as error:
        raise StorageError(f"expected a space, got {str(state)[:60]} ({error!r})") from error


def _to_space(state: dict[str, Any]) -> spaces.Space:
    match state["kind"]:
        case "Box":
            low, high = state["low"], state["high"]
            return spaces.Box(low, high, low.shape, low.dtype)
        case "Discrete":
            return spaces.Discrete(state["n"], start=state["start"])
        case "MultiDiscrete":
            nvec = state["nvec"]
            return spaces.MultiDiscrete(nvec, dtype=nvec.dtype, start=state["start"])
        case "MultiBinary":
            return spaces.MultiBinary(state["n"])
        case "Dict":
            # In pairs: Gymnasium sorts the keys of a plain dictionary, and networks join the parts
            # of an observation in their order.
            return spaces.Dict([(key, _to_space(one)) for key, one in state["spaces"].items()])
    raise StorageError(f"expected a kind of space, got {state['kind']!r}")
