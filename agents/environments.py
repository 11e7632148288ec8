"""The state of a vectorised environment: episodes, monitors, and the wrappers around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from .replayable import Episode, Replayable

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
    """Episodes (of those environments that are Replayable), monitors, wrappers, pending seeds."""
    base = env.unwrapped
    return {
        "episodes": [_episode(base, index) for index in range(base.num_envs)],
        "monitors": [
            {name: base.get_attr(name, [index])[0] for name in MONITORED} if monitored else None
            for index, monitored in enumerate(base.env_is_wrapped(Monitor))
        ],
        "seeds": list(base._seeds),
        "options": list(base._options),
        "wrappers": [_wrapper(wrapper) for wrapper in _wrappers(env)],
    }


def put_environments(env: VecEnv, state: dict[str, Any]) -> list[str]:
    """The inverse of `environments`: runs the episodes again.

    Returns what did not come back, in words; when there is any of it, reset all the environments.
    """
    base = env.unwrapped
    if len(state["episodes"]) != base.num_envs:
        return [f"expected {len(state['episodes'])} environments, got {base.num_envs}"]
    base._seeds, base._options = state["seeds"], state["options"]
    lost = []
    for index, episode in enumerate(state["episodes"]):
        if episode is None or not base.env_is_wrapped(Replayable, [index])[0]:
            lost.append(f"environment {index} is not Replayable")
        elif not base.env_method("replay", Episode(**episode), indices=[index])[0]:
            lost.append(f"environment {index} did not reproduce its episode")
    lost += _put_wrappers(env, state["wrappers"])
    for index, (monitored, values) in enumerate(
        zip(base.env_is_wrapped(Monitor), state["monitors"], strict=True)
    ):
        if monitored and values is not None:
            # a monitor may refuse a reset in mid-episode
            values["needs_reset"] = values["needs_reset"] or bool(lost)
            for name in MONITORED:
                base.env_method("set_wrapper_attr", name, values[name], indices=[index])
    return lost


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


def _put_wrappers(env: VecEnv, states: list[dict[str, Any]]) -> list[str]:
    wrappers = list(_wrappers(env))
    kinds = [type(wrapper).__name__ for wrapper in wrappers]
    if kinds != [state["kind"] for state in states]:
        return [f"wrappers: expected {[state['kind'] for state in states]}, got {kinds}"]
    lost = []
    for wrapper, state in zip(wrappers, states, strict=True):
        match wrapper:
            case VecNormalize():
                for name, rms in _statistics(wrapper):
                    rms.mean, rms.var, rms.count = state["moments"][name]
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


def _moments(rms: RunningMeanStd) -> tuple[Any, Any, Any]:
    return rms.mean, rms.var, rms.count


def _stacks(stacked: StackedObservations) -> Iterator[tuple[str, StackedObservations]]:
    """The arrays of frames; a dictionary observation has one a key."""
    if hasattr(stacked, "sub_stacked_observations"):
        yield from stacked.sub_stacked_observations.items()
    else:
        yield "observation", stacked
