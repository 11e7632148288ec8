"""Gymnasium's vector environments as Stable-Baselines3's.

    env = FromVectorEnv(gymnasium.make_vec("Pendulum-v1", num_envs=8))
    SAC("MlpPolicy", env)

Stable-Baselines3 assumes that an environment which ends is reset within the same step: `dones`,
the last observation in `infos[i]["terminal_observation"]`, and the first of the next episode as
the observation. A vector environment's autoreset mode says when it resets:

| mode | here |
|---|---|
| `SAME_STEP` | the same convention: `final_obs` becomes `terminal_observation` |
| `DISABLED` | those that ended are reset at once, by `reset_mask` |
| `NEXT_STEP` | likewise, where `reset_mask` is known: `SyncVectorEnv`, `AsyncVectorEnv` |
| `NEXT_STEP` of others | the reset takes a step of its own: a row more, without reward |

Such a row is marked as an end again, so that no value is carried from one episode to the next.
Stable-Baselines3's counts of episodes are then twice the true ones, as in `train_freq=(n,
"episode")`; returns and lengths, in `infos[i]["episode"]`, are right.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import NormalizeObservation
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from .observations import map_arrays


class FromVectorEnv(VecEnv):
    """A vector environment behind Stable-Baselines3's interface, with the episodes' statistics.

    Args:
        environment: What `gymnasium.make_vec` returns.

    Raises:
        ValueError: If its metadata name no autoreset mode.
    """

    def __init__(self, environment: VectorEnv) -> None:
        self.environment = environment
        mode = environment.metadata.get("autoreset_mode")
        if mode is None:
            raise ValueError(
                f"expected metadata of {type(environment.unwrapped).__name__} with an "
                "autoreset_mode, got none: set environment.metadata['autoreset_mode'] to when it "
                "resets, a gymnasium.vector.AutoresetMode"
            )
        self.mode = mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)
        in_part = not any(isinstance(each, NormalizeObservation) for each in wrappers(environment))
        self.resets_by_mask = self.mode == AutoresetMode.DISABLED or (
            self.mode == AutoresetMode.NEXT_STEP
            and isinstance(environment.unwrapped, SyncVectorEnv | AsyncVectorEnv)
            and in_part
        )
        if self.mode == AutoresetMode.NEXT_STEP and not self.resets_by_mask:
            warnings.warn(
                f"{type(environment.unwrapped).__name__} resets in the step after an end: each "
                "episode has one row more in the replay, with no reward, and Stable-Baselines3 "
                'counts it twice; make_vec(..., vectorization_mode="sync") does not',
                stacklevel=2,
            )
        super().__init__(
            int(environment.num_envs), environment.single_observation_space,
            environment.single_action_space,
        )  # fmt: skip
        self.actions: np.ndarray | None = None
        self.ended = np.zeros(self.num_envs, bool)  # episodes that the next step resets
        self.cut = np.zeros(self.num_envs, bool)
        self.last: Any = None  # observations
        self.returns, self.lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, int)
        self.started = time.monotonic()

    def reset(self) -> VecEnvObs:
        if any(options != self._options[0] for options in self._options):
            raise ValueError(
                f"expected the same options for all environments, which are reset together, got "
                f"{self._options}"
            )
        options = self._options[0] or None
        self.last, infos = self.environment.reset(seed=self._seeds[0], options=options)
        self.reset_infos = split_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        self.ended[:] = False
        self._begin(np.ones(self.num_envs, bool))
        return map_arrays(np.array, self.last)

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        before, waited, cut_before = self.last, self.ended, self.cut
        seen, rewards, terminated, truncated, infos = self.environment.step(self.actions)
        rewards = np.asarray(rewards, np.float32).copy()
        terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
        done, cut = terminated | truncated, truncated & ~terminated
        each = split_infos(infos, self.num_envs)
        ends = seen
        if self.mode == AutoresetMode.SAME_STEP:
            self._take_final(each, done)
        elif self.resets_by_mask and done.any():
            ends = map_arrays(np.array, seen)
            seen, reset_infos = self.environment.reset(options={"reset_mask": done.copy()})
            self._keep_reset_infos(split_infos(reset_infos, self.num_envs), done)
        elif not self.resets_by_mask and self.mode == AutoresetMode.NEXT_STEP:
            rewards[waited] = 0
            self._keep_reset_infos(each, waited)
        self._count(rewards, done, each)
        for i in np.flatnonzero(done).tolist():
            each[i].setdefault("terminal_observation", _row(ends, i))
        for i in np.flatnonzero(waited).tolist():
            # this step only reset: report the terminal observation again
            each[i] = {"terminal_observation": _row(before, i)}
        for i in range(self.num_envs):
            each[i]["TimeLimit.truncated"] = bool(cut_before[i] if waited[i] else cut[i])
        late = self.mode == AutoresetMode.NEXT_STEP and not self.resets_by_mask
        self.ended = done.copy() if late else np.zeros_like(done)
        self.cut, self.last = cut, map_arrays(np.array, seen)
        return map_arrays(np.array, seen), rewards, done | waited, each

    def close(self) -> None:
        self.environment.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        inside = getattr(self.environment.unwrapped, "get_attr", None)
        if attr_name != "render_mode" and inside is not None:
            values = inside(attr_name)
        else:
            values = [getattr(self.environment, attr_name)] * self.num_envs
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        inside = getattr(self.environment.unwrapped, "set_attr", None)
        if inside is None or len(list(self._get_indices(indices))) < self.num_envs:
            raise NotImplementedError(f"{self.environment} sets no attribute of one environment")
        inside(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **named: Any
    ) -> list[Any]:
        call = getattr(self.environment.unwrapped, "call", None)
        if call is None or len(list(self._get_indices(indices))) < self.num_envs:
            raise NotImplementedError(f"{self.environment} calls no method of one environment")
        return list(call(method_name, *method_args, **named))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        monitored = wrapper_class is Monitor  # whose statistics are in the infos here, too
        return [monitored for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        pictures: Any = self.environment.render()
        return list(pictures) if pictures is not None else [None] * self.num_envs

    def _take_final(self, each: list[dict[str, Any]], done: np.ndarray) -> None:
        """Put what the last step of an episode said in place of the reset's, which is kept."""
        for i in np.flatnonzero(done).tolist():
            end = each[i].pop("final_obs")
            last = each[i].pop("final_info", {})
            self.reset_infos[i] = each[i]
            each[i] = {**last, "terminal_observation": end}

    def _keep_reset_infos(self, each: list[dict[str, Any]], which: np.ndarray) -> None:
        for i in np.flatnonzero(which):
            self.reset_infos[i] = each[i]

    def _count(self, rewards: np.ndarray, done: np.ndarray, each: list[dict[str, Any]]) -> None:
        """Say the return, length and time of episodes that ended, as `Monitor` does."""
        stepped = ~self.ended
        self.returns[stepped] += rewards[stepped]
        self.lengths[stepped] += 1
        for i in np.flatnonzero(done).tolist():
            elapsed = round(time.monotonic() - self.started, 6)
            each[i]["episode"] = {
                "r": float(self.returns[i]), "l": int(self.lengths[i]), "t": elapsed,
            }  # fmt: skip
        self._begin(done)

    def _begin(self, which: np.ndarray) -> None:
        self.returns[which], self.lengths[which] = 0, 0


def wrappers(environment: VectorEnv) -> Iterator[VectorWrapper]:
    """Yield the wrappers around a vector environment, the outermost first."""
    while isinstance(environment, VectorWrapper):
        yield environment
        environment = environment.env


def split_infos(infos: dict[str, Any] | list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the infos of each environment from those of the vector.

    `infos[key][i]` is environment i's where `infos["_" + key][i]`; of all where there is no mask.
    Gymnasium's `DictInfoToList` has split them already.
    """
    if isinstance(infos, list):
        return [dict(one) for one in infos]
    each: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        has = infos.get(f"_{key}", np.ones(count, bool))
        inside = split_infos(values, count) if isinstance(values, dict) else values
        for i in np.flatnonzero(has):
            each[i][key] = inside[i]
    return each


def _row(observations: Any, i: int) -> Any:
    return map_arrays(lambda rows: np.array(rows[i]), observations)
