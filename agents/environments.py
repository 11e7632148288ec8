"""The state of a vectorised environment: episodes, monitors, and the wrappers around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
    unwrap_vec_wrapper,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from ebrl.schema import (
    Schema,
    anything,
    array,
    each,
    integer,
    like,
    numbers,
    of_type,
    optional,
    real,
    record,
    where,
)
from ebrl.storage import StorageError

from .replayable import Episode, Replayable
from .vector_environments import FromVectorEnv

MONITORED = (
    "rewards",
    "episode_returns",
    "episode_lengths",
    "episode_times",
    "total_steps",
    "current_reset_info",
    "needs_reset",
)
STATELESS = (VecTransposeImage, VecCheckNan, VecExtractDictObs)


def environments(env: VecEnv) -> dict[str, Any]:
    """The episodes of `Replayable` environments, the monitors, the wrappers, the pending seeds."""
    base = env.unwrapped
    return {
        "episodes": [_episode(base, index) for index in range(base.num_envs)],
        "monitors": [
            {name: base.get_attr(name, [index])[0] for name in MONITORED} if monitored else None
            for index, monitored in enumerate(_monitored(base))
        ],
        "seeds": list(base._seeds),
        "options": list(base._options),
        "wrappers": [_wrapper(wrapper) for wrapper in _wrappers(env)],
    }


def _monitored(base: VecEnv) -> list[bool]:
    """Return which environments are inside a Monitor; `FromVectorEnv` counts by itself."""
    inside = not isinstance(base, FromVectorEnv)
    return [inside and wrapped for wrapped in base.env_is_wrapped(Monitor)]


def put_environments(env: VecEnv, state: dict[str, Any]) -> list[str]:
    """Restore what `environments` returned, by running the episodes again.

    Returns a description of what could not be restored. If there is any, reset all environments.
    """
    base = env.unwrapped
    base._seeds, base._options = state["seeds"], state["options"]
    lost = []
    for index, episode in enumerate(state["episodes"]):
        if episode is None or not base.env_is_wrapped(Replayable, [index])[0]:
            lost.append(f"environment {index} is not Replayable")
        elif not base.env_method("replay", Episode(**episode), indices=[index])[0]:
            lost.append(f"environment {index} did not reproduce its episode")
    lost += _put_wrappers(env, state["wrappers"])
    for index, (monitored, values) in enumerate(
        zip(_monitored(base), state["monitors"], strict=True)
    ):
        if monitored and values is not None:
            # a monitor may refuse a reset within an episode
            values["needs_reset"] = values["needs_reset"] or bool(lost)
            for name in MONITORED:
                base.env_method("set_wrapper_attr", name, values[name], indices=[index])
    return lost


def wrapper_states(env: VecEnv) -> Schema:
    """The states that the known wrappers around `env` can take."""
    here = {type(wrapper).__name__: wrapper for wrapper in _wrappers(env)}

    def check(value: Any, place: str) -> None:
        each(record({"kind": of_type(str)}, rest=True))(value, place)
        for i, state in enumerate(value):
            if state["kind"] in here:
                _wrapper_state(here[state["kind"]])(state, f"{place}/{i}")

    return check


SETTINGS = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")


def statistics(env: VecNormalize | None) -> dict[str, Any] | None:
    """Return the running statistics and the settings of a `VecNormalize`."""
    if env is None:
        return None
    settings = {name: getattr(env, name) for name in SETTINGS}
    keys = list(env.norm_obs_keys or [])
    moments = {name: _moments(rms) for name, rms in _statistics(env)}
    return {**settings, "norm_obs_keys": keys, "moments": moments}


def learnt_statistics(agent: BaseAlgorithm) -> dict[str, Any] | None:
    """Return `statistics` of the agent's environments, or of the file that it was loaded from."""
    of_file: dict[str, Any] | None = getattr(agent, "statistics", None)
    return statistics(agent.get_vec_normalize_env()) or of_file


def with_statistics(env: VecEnv, state: dict[str, Any] | None) -> VecEnv:
    """Return the environments normalised by `statistics`, unless they are normalised already.

    Raises:
        StorageError: For statistics of other observations.
    """
    if state is None or unwrap_vec_normalize(env) is not None:
        return env
    record(dict.fromkeys((*SETTINGS, "norm_obs_keys", "moments"), anything))(state, "")
    settings = {name: state[name] for name in SETTINGS}
    for name in ("clip_obs", "clip_reward"):
        where(_is_bound, "a positive number")(settings[name], f"statistics/{name}")
    for name in ("gamma", "epsilon"):
        real(0)(settings[name], f"statistics/{name}")
    wrapped = VecNormalize(env, **settings, norm_obs_keys=state["norm_obs_keys"] or None)
    forms = {name: _moments_like(rms) for name, rms in _statistics(wrapped)}
    record(forms)(state["moments"], "statistics/moments")
    _put_moments(wrapped, state["moments"])
    return wrapped


def _is_bound(value: Any) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating)
    return bool(number and value > 0)  # infinite where nothing is clipped


def seen_by(agent: BaseAlgorithm, observation: Any) -> Any:
    """Return an observation of an environment as the agent's wrappers show it in training.

    The agent's `VecNormalize` normalises it, after a `VecTransposeImage` inside of that has put the
    channels of images first. Without one, the statistics of the agent's file normalise it.
    """
    around = agent.get_vec_normalize_env()
    if around is None:
        return normalize(observation, getattr(agent, "statistics", None))
    transposing = unwrap_vec_wrapper(around, VecTransposeImage)
    if isinstance(transposing, VecTransposeImage):
        observation = transposing.transpose_observations(observation)
    return around.normalize_obs(observation)


def normalize(observation: Any, state: dict[str, Any] | None) -> Any:
    """Return an observation normalised by `statistics`, without any environment."""
    if state is None or not state["norm_obs"]:
        return observation
    if isinstance(observation, dict):
        keys = state["norm_obs_keys"]
        inside = {key: {**state, "moments": {"observation": state["moments"][key]}} for key in keys}
        return {
            key: normalize(value, inside[key]) if key in inside else value
            for key, value in observation.items()
        }
    mean, variance, _ = state["moments"]["observation"]
    scaled = (observation - mean) / np.sqrt(variance + state["epsilon"])
    return np.clip(scaled, -state["clip_obs"], state["clip_obs"]).astype(np.float32)


def not_replayable(env: VecEnv) -> list[int]:
    """The indices of the environments whose episodes cannot be run again."""
    wrapped = env.unwrapped.env_is_wrapped(Replayable)
    return [index for index, replayable in enumerate(wrapped) if not replayable]


def _episode(base: VecEnv, index: int) -> dict[str, Any] | None:
    if not base.env_is_wrapped(Replayable, [index])[0]:
        return None
    episode: Episode | None = base.env_method("episode", indices=[index])[0]
    return None if episode is None else episode._asdict()


def _wrappers(env: VecEnv) -> Iterator[VecEnvWrapper]:
    """The vectorised wrappers, outermost first."""
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv


def _wrapper(wrapper: VecEnvWrapper) -> dict[str, Any]:
    kind = type(wrapper).__name__
    match wrapper:
        case VecNormalize():
            return {
                "kind": kind,
                "moments": {name: _moments(rms) for name, rms in _statistics(wrapper)},
                "returns": wrapper.returns,
                "old_reward": wrapper.old_reward,
                "old_obs": wrapper.old_obs,
            }
        case VecFrameStack():
            stacks = dict(_stacks(wrapper.stacked_obs))
            return {"kind": kind, "frames": {k: stack.stacked_obs for k, stack in stacks.items()}}
        case VecMonitor():
            return {
                "kind": kind,
                "episode_returns": wrapper.episode_returns,
                "episode_lengths": wrapper.episode_lengths,
                "episode_count": wrapper.episode_count,
            }
    return {"kind": kind, "known": isinstance(wrapper, STATELESS)}


def _wrapper_state(wrapper: VecEnvWrapper) -> Schema:
    """The state of this wrapper, as `_wrapper` describes it."""
    each_env = array((wrapper.num_envs,))
    match wrapper:
        case VecNormalize():
            moments = {name: _moments_like(rms) for name, rms in _statistics(wrapper)}
            fields = {
                "moments": record(moments),
                "returns": each_env,
                "old_reward": array((wrapper.num_envs,), (0,)),
                "old_obs": numbers,
            }
        case VecMonitor():
            fields = {
                "episode_returns": optional(each_env),
                "episode_lengths": optional(each_env),
                "episode_count": integer(0),
            }
        case _:
            fields = {name: like(value) for name, value in _wrapper(wrapper).items()}
    return record({**fields, "kind": of_type(str)})


def _moments_like(rms: RunningMeanStd) -> Schema:
    def check(value: Any, place: str) -> None:
        numbers(value, place)
        shapes = [np.shape(part) for part in value] if type(value) is tuple else []
        if shapes != [np.shape(part) for part in _moments(rms)]:
            raise StorageError(f"{place}: expected mean and variance of shape {rms.mean.shape}")
        if not (np.all(np.isfinite(value[0])) and np.all(value[1] >= 0) and value[2] > 0):
            raise StorageError(f"{place}: expected a finite mean and a variance of at least 0")

    return check


def _put_wrappers(env: VecEnv, states: list[dict[str, Any]]) -> list[str]:
    wrappers = list(_wrappers(env))
    kinds = [type(wrapper).__name__ for wrapper in wrappers]
    if kinds != [state["kind"] for state in states]:
        return [f"wrappers: expected {[state['kind'] for state in states]}, got {kinds}"]
    lost = []
    for wrapper, state in zip(wrappers, states, strict=True):
        match wrapper:
            case VecNormalize():
                _put_moments(wrapper, state["moments"])
                wrapper.returns = state["returns"]
                wrapper.old_reward, wrapper.old_obs = state["old_reward"], state["old_obs"]
            case VecFrameStack():
                for key, stack in _stacks(wrapper.stacked_obs):
                    stack.stacked_obs = state["frames"][key]
            case VecMonitor():
                wrapper.episode_returns = state["episode_returns"]
                wrapper.episode_lengths = state["episode_lengths"]
                wrapper.episode_count = state["episode_count"]
            case _ if not state["known"]:
                lost.append(f"wrapper {state['kind']} may hold a state that is not stored")
    return lost


def _statistics(wrapper: VecNormalize) -> Iterator[tuple[str, RunningMeanStd]]:
    """The running moments of rewards, and of observations where they are normalised."""
    yield "reward", wrapper.ret_rms
    if wrapper.norm_obs:
        if isinstance(wrapper.obs_rms, dict):
            yield from wrapper.obs_rms.items()
        else:
            yield "observation", wrapper.obs_rms


def _put_moments(wrapper: VecNormalize, moments: dict[str, Any]) -> None:
    for name, rms in _statistics(wrapper):
        rms.mean, rms.var, rms.count = moments[name]


def _moments(rms: RunningMeanStd) -> tuple[Any, Any, Any]:
    return rms.mean, rms.var, rms.count


def _stacks(stacked: StackedObservations) -> Iterator[tuple[str, StackedObservations]]:
    """The arrays of frames, one for each key of a dictionary observation."""
    if hasattr(stacked, "sub_stacked_observations"):
        yield from stacked.sub_stacked_observations.items()
    else:
        yield "observation", stacked
