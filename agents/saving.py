"""Saving and loading an agent: its constructor arguments, spaces, weights and counters.

    class SoftQ(Saving, OffPolicyAlgorithm): ...

    model.save("cartpole")  # cartpole.zip: safetensors and JSON
    model = SoftQ.load("cartpole")

Stable-Baselines3 pickles an agent, and loading a pickle runs whatever is in it. Here a file holds
only data: classes of torch and Stable-Baselines3 by their names, nothing of anybody else's code.
Such arguments are given to `load` again.
"""

from __future__ import annotations

import difflib
import inspect
import os
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import her
from stable_baselines3.common import buffers, torch_layers
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import GymEnv, TrainFreq
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.her import HerReplayBuffer
from torch import nn

from ebrl import storage
from ebrl.storage import StorageError

from .state import (
    counters,
    generators,
    learnt,
    put_counters,
    put_generators,
    put_learnt,
    storable,
)

Self = TypeVar("Self", bound="Saving")

KNOWN_CLASSES: dict[str, tuple[Any, type]] = {
    "torch.nn": (nn, nn.Module),
    "torch.optim": (torch.optim, torch.optim.Optimizer),
    "stable_baselines3.common.torch_layers": (torch_layers, BaseFeaturesExtractor),
    "stable_baselines3.common.buffers": (buffers, ReplayBuffer),
    "stable_baselines3.her": (her, ReplayBuffer),
}
NOT_STORED = ("self", "policy", "env", "device", "_init_setup_model")


class Saving(OffPolicyAlgorithm):
    """`save` and `load` without pickle, for an algorithm of Stable-Baselines3's shape.

    Asked of the algorithm: every constructor argument `x` is an attribute `x` or `_x`;
    `_get_torch_save_params` names all that is learnt; its own random streams, if it has any,
    are in `generators`.
    """

    generators: dict[str, torch.Generator]

    def save(self, path: str | Path) -> None:  # type: ignore[override]
        """Write the agent to `path` (".zip" is added when it has no suffix), atomically.

        The replay buffer stays behind: `ebrl.agents.checkpoints` keeps whole training runs.
        Raises OSError when the disk refuses.
        """
        arguments, left_out = _split_arguments(self)
        tensors, state = storage.flatten(
            {
                "arguments": arguments,
                "left_out": left_out,
                "observation_space": from_space(self.observation_space),
                "action_space": from_space(self.action_space),
                "n_envs": self.n_envs,
                "learnt": learnt(self),
                "counters": counters(self),
                "generators": generators(self),
            }
        )
        path = _with_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        head = {"kind": "agent", "algorithm": type(self).__name__, "state": state}
        storage.save(path, tensors, head)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[Self],
        path: str | Path,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        **arguments: Any,
    ) -> Self:
        """Build the agent that `save` wrote. Without `env` it can predict.

        `arguments` replace stored constructor arguments, and give those that a file cannot hold
        (the error names them). Raises StorageError for a file that is not such an agent or does
        not fit these arguments, ValueError for an environment with other spaces, TypeError for
        unknown arguments.
        """
        path = _with_suffix(path)
        state = _read(cls.__name__, path)
        given = _complete(cls, path, state, arguments)
        model = _build(cls, state, given, env, device)
        try:
            model._put_learnt(state["learnt"])
            put_counters(model, state["counters"])
            if "seed" not in arguments:  # a new seed starts new streams
                put_generators(model, state["generators"])
        except StorageError as error:
            raise StorageError(f"{path}: {error}") from error
        return model

    def _put_learnt(self, state: dict[str, Any]) -> None:
        put_learnt(self, state)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As Stable-Baselines3; an agent with HerReplayBuffer needs it already at `load`."""
        if self.replay_buffer is None:
            raise ValueError(
                "expected a replay buffer, got none: HerReplayBuffer asks the environment for "
                "rewards, so give it when loading: load(path, env=env)"
            )
        super().set_env(env, force_reset)


# ---- spaces ---------------------------------------------------------------------------------


def from_space(space: spaces.Space) -> dict[str, Any]:
    """A space as numbers and arrays. Raises TypeError for a kind that no algorithm here takes."""
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


def to_space(state: dict[str, Any]) -> spaces.Space:
    """The inverse of `from_space`."""
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
            return spaces.Dict({key: to_space(value) for key, value in state["spaces"].items()})
    raise StorageError(f"expected a kind of space, got {state['kind']!r}")


# ---- constructor arguments ------------------------------------------------------------------


def _split_arguments(agent: Saving) -> tuple[dict[str, Any], dict[str, str]]:
    """Constructor arguments that a file can hold, and the type names of those that it cannot."""
    values = {name: _encode(value) for name, value in _arguments(agent).items()}
    left_out = {name: str(value)[:80] for name, value in values.items() if not storable(value)}
    return {name: v for name, v in values.items() if name not in left_out}, left_out


def _arguments(agent: Saving) -> dict[str, Any]:
    """The constructor arguments that would build this agent again."""
    values: dict[str, Any] = {}
    for name in _names(type(agent)):
        if name not in NOT_STORED:
            values[name] = getattr(agent, name) if hasattr(agent, name) else vars(agent)[f"_{name}"]
    aliases: dict[Any, str] = {policy: name for name, policy in agent.policy_aliases.items()}
    values["policy"] = aliases.get(agent.policy_class, agent.policy_class)
    if isinstance(agent.train_freq, TrainFreq):
        values["train_freq"] = (agent.train_freq.frequency, agent.train_freq.unit.value)
    if _chose_its_buffer(agent):  # and would object to being told
        values["replay_buffer_class"] = None
        values["replay_buffer_kwargs"] = {
            key: value
            for key, value in agent.replay_buffer_kwargs.items()
            if agent.n_steps == 1 or key not in ("n_steps", "gamma")
        }
    return values


def _names(cls: type) -> list[str]:
    """The arguments of a constructor; those behind `*args` and `**kwargs` are its parent's."""
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


def _chose_its_buffer(agent: Saving) -> bool:
    """Whether the algorithm alone would choose the replay buffer that the agent has."""
    if agent.replay_buffer_class is NStepReplayBuffer and agent.n_steps > 1:
        chosen = {"n_steps": agent.n_steps, "gamma": agent.gamma}
        return chosen.items() <= agent.replay_buffer_kwargs.items()
    plain = agent.replay_buffer_class in (ReplayBuffer, DictReplayBuffer)
    return plain and agent.n_steps == 1


def _encode(value: Any) -> Any:
    """Classes that everybody has become their names; other objects stay as they are."""
    if isinstance(value, type):
        name: str = value.__name__
        for place, (module, parent) in KNOWN_CLASSES.items():
            if issubclass(value, parent) and getattr(module, name, None) is value:
                return {"class": [place, name]}
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    return os.fspath(value) if isinstance(value, Path) else value


def _decode(value: Any) -> Any:
    """The inverse of `_encode`: looks names up in five modules, and imports nothing."""
    if not isinstance(value, dict):
        return value
    if list(value) != ["class"]:
        return {key: _decode(item) for key, item in value.items()}
    match value["class"]:
        case [str(place), str(name)] if place in KNOWN_CLASSES:
            module, parent = KNOWN_CLASSES[place]
            found = getattr(module, name, None)
            if isinstance(found, type) and issubclass(found, parent):
                return found
    raise StorageError(f"expected a class of {list(KNOWN_CLASSES)}, got {value['class']}")


# ---- loading --------------------------------------------------------------------------------


def _with_suffix(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_name(f"{path.name}.zip")


def _read(algorithm: str, path: Path) -> dict[str, Any]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "_stable_baselines3_version" in archive.namelist():
                raise StorageError(
                    f"{path}: expected an agent saved by ebrl, got a pickle of Stable-Baselines3, "
                    "which may run code when it is read; load it with Stable-Baselines3's own class"
                )
    tensors, facts = storage.load(path)
    if facts.get("kind") != "agent":
        raise StorageError(
            f"{path}: expected a saved agent, got a {facts.get('kind', 'file without kind')}; "
            "a training checkpoint goes to ebrl.agents.checkpoints.restore"
        )
    if facts.get("algorithm") != algorithm:
        saved = facts.get("algorithm")
        raise StorageError(f"{path}: expected {algorithm}, got {saved}; use {saved}.load")
    return storage.unflatten(tensors, facts["state"])


def _complete(
    cls: type[Saving], path: Path, state: dict[str, Any], arguments: dict[str, Any]
) -> dict[str, Any]:
    """All constructor arguments: the stored ones, replaced and completed by the caller's."""
    allowed = set(_names(cls)) - set(NOT_STORED) | {"policy"}
    for name in arguments:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{cls.__name__}.load got an unknown argument {name!r}{hint}")
    missing = {k: v for k, v in state["left_out"].items() if k not in arguments}
    if missing:
        shown = ", ".join(f"{name}={value}" for name, value in missing.items())
        again = ", ".join(f"{name}=..." for name in missing)
        raise StorageError(
            f"{path}: a file cannot hold {shown}; give it again: "
            f"{cls.__name__}.load({path.name!r}, {again})"
        )
    stored = {key: value for key, value in state["arguments"].items() if key in allowed}
    return {**_decode(stored), **arguments}


def _build(
    cls: type[Self],
    state: dict[str, Any],
    given: dict[str, Any],
    env: GymEnv | None,
    device: torch.device | str,
) -> Self:
    """A new agent with the stored spaces and these arguments; its weights are still random."""
    observation_space = to_space(state["observation_space"])
    action_space = to_space(state["action_space"])
    if env is not None:
        env = cls._wrap_env(env, given.get("verbose", 0))
        check_for_correct_spaces(env, observation_space, action_space)
    buffer_class = given.get("replay_buffer_class")
    # only HerReplayBuffer cannot be built without an environment; prediction needs no buffer
    bare = env is None and buffer_class is not None and issubclass(buffer_class, HerReplayBuffer)
    build = {**given, "env": env, "device": device, "_init_setup_model": False}
    if bare:
        build |= {"replay_buffer_class": None, "replay_buffer_kwargs": None}
    model = cls(**build)
    if env is None:
        model.observation_space, model.action_space = observation_space, action_space
        model.n_envs = state["n_envs"]
    model._setup_model()
    if bare:
        model.replay_buffer = None
        model.replay_buffer_class = buffer_class
        model.replay_buffer_kwargs = given["replay_buffer_kwargs"] or {}
    if model.use_sde:
        model.policy.reset_noise()  # type: ignore[operator]
    return model
