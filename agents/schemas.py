"""What a file must hold before an agent takes any of its state, part by part.

Every schema is made from the agent and environments that are to take the state. A file that was
written for others, or a malicious one, is refused as a whole and changes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv

from ebrl import schema
from ebrl.schema import Schema, refuse
from ebrl.storage import StorageError

from . import state as parts
from .environments import MONITORED, wrapper_states

INDICES = ("ep_start", "ep_length", "_current_ep_start")  # of rows, in HerReplayBuffer


def checkpoint(agent: OffPolicyAlgorithm) -> Schema:
    """The whole state of a training run of this agent, environments included."""
    assert agent.env is not None  # restore asks for one
    return schema.record(
        {
            "learnt": learnt(agent),
            "counters": counters(agent),
            "generators": generators(agent),
            "replay": replay(agent),
            "noise": noise(agent),
            "progress": progress(agent),
            "environments": environments(agent.env),
            "streams": streams(agent),
            "callbacks": schema.each(CALLBACK),
        }
    )


def learnt(agent: OffPolicyAlgorithm) -> Schema:
    """Weights, optimiser moments and raw tensors, with the shapes and dtypes of the agent's own."""
    state_dicts, tensors = agent._get_torch_save_params()
    parameters: dict[str, Schema] = {}
    for name in state_dicts:
        part = recursive_getattr(agent, name)
        is_optimizer = isinstance(part, torch.optim.Optimizer)
        parameters[name] = (
            schema.optimizer_state(part) if is_optimizer else schema.like(dict(part.state_dict()))
        )
    variables = {name: schema.like(_bare(recursive_getattr(agent, name))) for name in tensors}
    return schema.record(
        {"parameters": schema.record(parameters), "variables": schema.record(variables)}
    )


def _bare(variable: torch.Tensor | None) -> torch.Tensor | None:
    return None if variable is None else variable.detach()


def counters(agent: OffPolicyAlgorithm) -> Schema:
    """The agent's counters, and unknown private numbers that shadow none of its attributes."""
    here = parts.counters(agent)

    def check(value: Any, place: str) -> None:
        schema.named(schema.of_type(int, float))(value, place)
        for name, number in value.items():
            if name in here:
                schema.like(here[name])(number, f"{place}/{name}")
            elif not name.startswith("_") or name.startswith("__") or hasattr(agent, name):
                raise StorageError(f"{place}: expected counters {sorted(here)}, got {name!r}")
        for name in ("num_timesteps", "_n_updates", "_episode_num"):
            schema.integer(0)(value.get(name), f"{place}/{name}")

    return check


def generators(agent: OffPolicyAlgorithm) -> Schema:
    """The states of the agent's own random streams, on its device or another kind."""

    def stream(generator: torch.Generator) -> Schema:
        def check(value: Any, place: str) -> None:
            schema.record({"device": schema.of_type(str), "state": schema.anything})(value, place)
            if value["device"] == generator.device.type:
                schema.torch_stream(generator)(value["state"], f"{place}/state")

        return check

    streams = getattr(agent, "generators", {})
    return schema.record({name: stream(generator) for name, generator in streams.items()})


def replay(agent: OffPolicyAlgorithm) -> Schema:
    """Replayed transitions of this buffer's kind, size and spaces."""
    buffer = parts.buffer_of(agent)
    capacity = [int(buffer.buffer_size), int(buffer.n_envs)]

    def check(value: Any, place: str) -> None:
        if isinstance(value, dict):
            here = (type(buffer).__name__, capacity)
            stored = (value.get("kind"), value.get("capacity"))
            if here != stored:
                raise StorageError(
                    f"{place}: expected a {here[0]} of (steps, environments) {here[1]}, "
                    f"got a {stored[0]} of {stored[1]}"
                )
        schema.record(
            {
                "kind": schema.of_type(str),
                "capacity": schema.each(schema.integer()),
                "pos": schema.integer(0, buffer.buffer_size),
                "full": schema.of_type(bool),
                "arrays": schema.named(schema.numbers),
            }
        )(value, place)
        rows = parts.filled(buffer, value["pos"], value["full"])
        forms = {
            name: schema.like(array[:rows] if len(array) == buffer.buffer_size else array)
            for name, array in parts.arrays_of(buffer)
        }
        schema.record(forms)(value["arrays"], f"{place}/arrays")
        for name in INDICES:
            _within(value["arrays"].get(name), 0, buffer.buffer_size, f"{place}/arrays/{name}")
        if isinstance(agent.action_space, spaces.Discrete):
            last = int(agent.action_space.n) - 1
            _within(value["arrays"].get("actions"), 0, last, f"{place}/arrays/actions")

    return check


def _within(array: np.ndarray | None, low: int, high: int, place: str) -> None:
    if array is not None and array.size and (array.min() < low or array.max() > high):
        raise StorageError(f"{place}: expected values from {low} to {high}")


def noise(agent: OffPolicyAlgorithm) -> Schema:
    """The numbers and arrays of the agent's action noise, for every environment."""
    one = parts.noise(agent)
    return schema.sequence([schema.like(each) for each in one[:1]] * agent.n_envs)


def progress(agent: OffPolicyAlgorithm) -> Schema:
    """The last observation of the agent's environments, and the episodes in its logs."""

    def episode(value: Any, place: str) -> None:
        schema.numbers(value, place)
        if not isinstance(value, dict) or not {"r", "l"} <= value.keys():
            raise refuse(place, "the return and the length of an episode", value)
        schema.real()(value["r"], f"{place}/r")

    def success(value: Any, place: str) -> None:
        if not isinstance(value, bool | np.bool_):
            schema.real()(value, place)

    observation = schema.optional(_observation(agent.observation_space, agent.n_envs))
    returns = getattr(agent, "returns", None)
    return schema.record(
        {
            "observation": observation,
            "original_observation": observation,
            "episode_starts": schema.optional(schema.array((agent.n_envs,), kinds="b")),
            "episodes": schema.each(episode),
            "successes": schema.each(success),
            "returns": schema.like(None if returns is None else returns.current),
        }
    )


def _observation(space: spaces.Space, count: int) -> Schema:
    if isinstance(space, spaces.Dict):
        inside = {key: _observation(part, count) for key, part in space.items()}
        return schema.in_order(schema.record(inside), list(inside))
    assert space.shape is not None  # all spaces of Stable-Baselines3 have one
    return schema.array((count, *space.shape))


def environments(env: VecEnv) -> Schema:
    """Episodes to run again, monitors, and the wrappers around the environments."""
    monitor = schema.record(
        {
            **dict.fromkeys(MONITORED, schema.each(schema.numbers)),
            "total_steps": schema.integer(0),
            "needs_reset": schema.of_type(bool),
            "current_reset_info": schema.named(schema.anything),
        }
    )
    episode = schema.record(
        {
            "seed": schema.optional(schema.integer(0)),
            "options": schema.optional(schema.named(schema.anything)),
            "streams_before": schema.named(schema.named(schema.anything)),
            "streams_now": schema.named(schema.named(schema.anything)),
            "actions": _actions(env.action_space),
            "digest": schema.integer(0, schema.WORD),
        }
    )
    return schema.record(
        {
            "episodes": schema.each(schema.optional(episode), env.num_envs),
            "monitors": schema.each(schema.optional(monitor), env.num_envs),
            "seeds": schema.each(schema.optional(schema.integer(0)), env.num_envs),
            "options": schema.each(schema.named(schema.anything), env.num_envs),
            "wrappers": wrapper_states(env),
        }
    )


def _actions(space: spaces.Space) -> Schema:
    """The actions of an episode, as the environment received them."""

    def check(value: Any, place: str) -> None:
        shape = () if space.shape is None else space.shape
        if not isinstance(value, np.ndarray) or value.ndim == 0:
            raise refuse(place, "an array of actions", value)
        if len(value) == 0:
            return
        schema.array((len(value), *shape))(value, place)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise StorageError(f"{place}: expected finite actions")
        if not isinstance(space, spaces.Box) and not all(action in space for action in value):
            raise StorageError(f"{place}: expected actions of {space}")

    return check


def streams(agent: OffPolicyAlgorithm) -> Schema:
    """The states of the process's random streams and of the action space's."""
    here = parts.streams(agent)
    cuda = [schema.like(one) for one in here["cuda"]]
    return schema.record(
        {
            "python": schema.python_stream,
            "numpy": schema.numpy_stream(here["numpy"]),
            "torch": schema.torch_stream(torch.default_generator),
            "cuda": schema.sequence(cuda) if cuda else schema.each(_bytes),
            "action_space": schema.numpy_stream(here["action_space"]),
        }
    )


def _bytes(value: Any, place: str) -> None:
    if not isinstance(value, torch.Tensor) or value.dtype != torch.uint8:
        raise refuse(place, "the state of a generator", value)


CALLBACK = schema.record(
    {"kind": schema.of_type(str), "numbers": schema.named(schema.anything)},
)
