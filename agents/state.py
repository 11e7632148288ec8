"""The parts of the state of an off-policy run, each with the function that restores it.

`x(agent)` returns nested numbers, tensors and arrays; `put_x(agent, state)` restores them in place.
Both work for every off-policy algorithm of Stable-Baselines3.
"""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.her import HerReplayBuffer

from ebrl import storage

PUBLIC_COUNTERS = ("num_timesteps", "exploration_rate")
NO_COUNTERS = ("_total_timesteps", "_num_timesteps_at_start", "_stats_window_size")


def learnt(agent: OffPolicyAlgorithm) -> dict[str, Any]:
    """State dicts and raw tensors named by the algorithm (networks, optimisers, temperature)."""
    variables = {name: recursive_getattr(agent, name) for name in agent._get_torch_save_params()[1]}
    return {"parameters": agent.get_parameters(), "variables": variables}


def put_learnt(agent: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    """Restore, in place, what `learnt` returned and `schemas.learnt` has checked."""
    agent.set_parameters(state["parameters"], exact_match=True, device=agent.device)
    for name, value in state["variables"].items():
        variable = recursive_getattr(agent, name)
        if variable is not None:
            variable.data.copy_(value)


def optimizer_options(agent: OffPolicyAlgorithm) -> list[dict[str, Any]]:
    """The options of each optimiser's parameter groups, but for the learning rate."""
    return [
        {name: value for name, value in group.items() if name not in ("params", "lr")}
        for group in _parameter_groups(agent)
    ]


def put_optimizer_options(agent: OffPolicyAlgorithm, options: list[dict[str, Any]]) -> None:
    """Restore what `optimizer_options` returned."""
    for group, option in zip(_parameter_groups(agent), options, strict=True):
        group.update(option)


def _parameter_groups(agent: OffPolicyAlgorithm) -> list[dict[str, Any]]:
    parts = [recursive_getattr(agent, name) for name in agent._get_torch_save_params()[0]]
    optimizers = [part for part in parts if isinstance(part, torch.optim.Optimizer)]
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def counters(agent: OffPolicyAlgorithm) -> dict[str, int | float]:
    """The counters of the algorithm: its private numbers (`_n_updates`, ...) and two more."""
    private = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in vars(agent).items()
        if (name.startswith("_") or name in PUBLIC_COUNTERS) and name not in NO_COUNTERS
    }
    return {name: value for name, value in private.items() if type(value) in (int, float)}


def put_counters(agent: OffPolicyAlgorithm, values: dict[str, Any]) -> None:
    """Restore what `counters` returned and `schemas.counters` has checked."""
    vars(agent).update(values)


def generators(agent: OffPolicyAlgorithm) -> dict[str, dict[str, Any]]:
    """States of the algorithm's own random streams, if it has any."""
    return {
        name: {"device": generator.device.type, "state": generator.get_state()}
        for name, generator in getattr(agent, "generators", {}).items()
    }


def put_generators(agent: OffPolicyAlgorithm, states: dict[str, dict[str, Any]]) -> None:
    """Restore what `generators` returned; a warning where the kind of device has changed."""
    streams = getattr(agent, "generators", {})
    for name, stored in states.items():
        here = streams[name].device.type
        if stored["device"] == here:
            streams[name].set_state(stored["state"])
        else:
            warnings.warn(
                f"random stream {name!r} was on {stored['device']} and is now on {here}: "
                "it starts anew from the seed",
                stacklevel=3,
            )


def storable(value: Any) -> bool:
    """Whether a file can hold a value: nested numbers, strings, tensors and arrays."""
    try:
        storage.flatten(value)
    except TypeError:
        return False
    return True


# ---- random streams of the process ----------------------------------------------------------


def streams(agent: OffPolicyAlgorithm) -> dict[str, Any]:
    """Python's, NumPy's and torch's global streams, and that of the action space."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002, the stream that SB3 draws from
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if agent.device.type == "cuda" else [],
        "action_space": agent.action_space.np_random.bit_generator.state,
    }


def put_streams(agent: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    """Restore what `streams` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if agent.device.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    agent.action_space.np_random.bit_generator.state = state["action_space"]


# ---- replay ---------------------------------------------------------------------------------


def replay(agent: OffPolicyAlgorithm) -> dict[str, Any]:
    """The filled part of each array of the replay buffer."""
    buffer = buffer_of(agent)
    rows = filled(buffer, buffer.pos, buffer.full)
    return {
        "kind": type(buffer).__name__,
        "capacity": [int(buffer.buffer_size), int(buffer.n_envs)],
        "pos": buffer.pos,
        "full": buffer.full,
        "arrays": {
            name: array[:rows] if len(array) == buffer.buffer_size else array
            for name, array in arrays_of(buffer)
        },
    }


def put_replay(agent: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    """Restore what `replay` returned and `schemas.replay` has checked."""
    buffer = buffer_of(agent)
    arrays = dict(arrays_of(buffer))
    for name, stored in state["arrays"].items():
        arrays[name][: len(stored)] = stored
    buffer.pos, buffer.full = state["pos"], state["full"]


def cut_trajectories(agent: OffPolicyAlgorithm) -> None:
    """Mark the newest transitions as truncated, because new episodes follow."""
    buffer = buffer_of(agent)
    if buffer.size() == 0 or not _needs_ends(buffer):
        return
    last = buffer.pos - 1
    open_ones = np.flatnonzero(buffer.dones[last] == 0)
    buffer.dones[last, open_ones] = 1
    if buffer.handle_timeout_termination:
        buffer.timeouts[last, open_ones] = 1  # so that the value of the next observation counts
    if isinstance(buffer, HerReplayBuffer):
        for index in open_ones:
            buffer._compute_episode_length(int(index))


def _needs_ends(buffer: ReplayBuffer) -> bool:
    """Return whether the next episode must not follow the last transition in the buffer.

    Elsewhere each transition stands alone, and an end without a time limit would be a false one.
    """
    follows = isinstance(buffer, HerReplayBuffer | NStepReplayBuffer)
    return follows or buffer.optimize_memory_usage or buffer.handle_timeout_termination


def buffer_of(agent: OffPolicyAlgorithm) -> ReplayBuffer:
    """Return the agent's replay buffer; `ValueError` where it has none."""
    if agent.replay_buffer is None:
        raise ValueError("expected an agent with a replay buffer, got one without: give it an env")
    return agent.replay_buffer


def filled(buffer: ReplayBuffer, pos: int, full: bool) -> int:
    """Rows in use; the memory-saving layout keeps the next observation in the row at `pos`."""
    extra = 1 if buffer.optimize_memory_usage else 0
    return buffer.buffer_size if full else min(pos + extra, buffer.buffer_size)


def arrays_of(buffer: ReplayBuffer) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of numbers of a replay buffer by their names."""
    for name, value in vars(buffer).items():
        for key, array in value.items() if isinstance(value, dict) else [(None, value)]:
            if isinstance(array, np.ndarray):
                if array.dtype != object:
                    yield (name if key is None else f"{name}.{key}"), array
                elif getattr(buffer, "copy_info_dict", True):
                    raise TypeError(
                        f"replay {name}: expected arrays of numbers, got objects, which a file "
                        "cannot hold; use HerReplayBuffer with copy_info_dict=False"
                    )


# ---- between the algorithm and its environment ----------------------------------------------


def progress(agent: OffPolicyAlgorithm) -> dict[str, Any]:
    """The state of the training loop: the last observation, and the episodes in its logs.

    For an agent that scales its rewards, also the discounted returns of the running episodes.
    """
    returns = getattr(agent, "returns", None)
    return {
        "observation": agent._last_obs,
        "original_observation": agent._last_original_obs,
        "episode_starts": agent._last_episode_starts,
        "episodes": list(agent.ep_info_buffer or []),
        "successes": list(agent.ep_success_buffer or []),
        "returns": None if returns is None else returns.current,
    }


def put_progress(agent: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    """Restore what `progress` returned."""
    agent._last_obs = state["observation"]
    agent._last_original_obs = state["original_observation"]
    agent._last_episode_starts = state["episode_starts"]
    agent.ep_info_buffer = deque(state["episodes"], maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(state["successes"], maxlen=agent._stats_window_size)
    returns = getattr(agent, "returns", None)
    if returns is not None:
        returns.current[:] = state["returns"]


def noise(agent: OffPolicyAlgorithm) -> list[dict[str, Any]]:
    """The numbers and arrays of the action noise, one entry for each environment."""
    return [
        {
            name: value
            for name, value in vars(one).items()
            if type(value) in (int, float) or isinstance(value, np.ndarray | np.generic)
        }
        for one in _noises(agent.action_noise)
    ]


def put_noise(agent: OffPolicyAlgorithm, state: list[dict[str, Any]]) -> None:
    """Restore what `noise` returned, so that it survives the reset at the start of `learn`."""
    noise = agent.action_noise
    if noise is not None and agent.n_envs > 1 and not isinstance(noise, VectorizedActionNoise):
        noise = agent.action_noise = VectorizedActionNoise(noise, agent.n_envs)
    for one, values in zip(_noises(noise), state, strict=True):
        vars(one).update(values)
    if noise is not None:
        _outlive_one_reset(noise)


def _noises(noise: ActionNoise | None) -> list[ActionNoise]:
    if noise is None:
        return []
    return noise.noises if isinstance(noise, VectorizedActionNoise) else [noise]


def _outlive_one_reset(noise: ActionNoise) -> None:
    """Ignore the first reset, by which `learn` would interrupt the noise of an episode."""

    def keep() -> None:
        del vars(noise)["reset"]

    vars(noise)["reset"] = keep
