"""An environment that records how its episode came about, and can run it again.

Few environments can save their state, but most are functions of three things: the state of their
random streams before the reset, the arguments of the reset, and the actions since. These are small,
and running the episode again also restores wrappers in between (time limits, frame stacks).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, SupportsFloat

import gymnasium as gym
import numpy as np

from ebrl.schema import numpy_stream, record
from ebrl.storage import StorageError


class Episode(NamedTuple):
    """The record of an unfinished episode, with the checksum that a replay must reproduce."""

    seed: int | None  # arguments of the reset
    options: dict[str, Any] | None
    streams_before: dict[str, Any]  # states of the environment's random streams before the reset
    streams_now: dict[str, Any]
    actions: np.ndarray  # (steps, *action)
    digest: int  # of every observation and reward since the reset


class Replayable(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Records the actions since the last reset, so that the episode can be run again.

    Wrap the whole environment, inside or outside a `Monitor`: `Monitor(Replayable(gym.make(id)))`
    or `make_vec_env(id, wrapper_class=Replayable)`. It changes nothing that passes through it.
    """

    def __init__(self, env: gym.Env) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._reset_arguments: tuple[int | None, dict[str, Any] | None] | None = None
        self._streams_before: dict[str, Any] = {}
        self._actions: list[np.ndarray] = []
        self._digest = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._streams_before = self._streams()
        observation, info = self.env.reset(seed=seed, options=options)
        self._reset_arguments = (seed, options)
        self._actions = []
        self._digest = _digest(0, observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        taken = np.array(action)  # the environment may change it
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(taken)
        self._digest = _digest(_digest(self._digest, observation), reward)
        return observation, reward, terminated, truncated, info

    def episode(self) -> Episode | None:
        """The input of `replay`; None before the first reset, or when the options are not JSON."""
        if self._reset_arguments is None or not _is_json(self._reset_arguments[1]):
            return None
        seed, options = self._reset_arguments
        return Episode(
            seed,
            options,
            self._streams_before,
            self._streams(),
            np.array(self._actions),
            self._digest,
        )

    def forget(self) -> None:
        """Forget the episode: a resumed run starts a new one."""
        self._reset_arguments = None

    def replay(self, episode: Episode) -> bool:
        """Run `episode` again, and return whether the environment reproduced it to the bit.

        Its random streams are then set to the states that were recorded last, if these fit, also
        where the episode was not reproduced: the environment can then be reset.
        """
        if not (self._fits(episode.streams_before) and self._fits(episode.streams_now)):
            return False
        self._put_streams(episode.streams_before)
        try:
            reproduced = (
                self._run(episode)
                and self._digest == episode.digest
                and _same(self._streams(), episode.streams_now)
            )
        except Exception:  # an environment may raise anything for the contents of a file
            reproduced = False
        self._put_streams(episode.streams_now)
        return reproduced

    def _run(self, episode: Episode) -> bool:
        """Take the actions of the episode, and return whether it is then unfinished, as it was."""
        self.reset(seed=episode.seed, options=episode.options)
        return not any(any(self.step(action)[2:4]) for action in episode.actions)

    def _fits(self, states: Any) -> bool:
        """Whether these states fit the environment's random streams."""
        here = {name: numpy_stream(state) for name, state in self._streams().items()}
        try:
            record(here)(states, "")
        except StorageError:
            return False
        return True

    def _generators(self) -> dict[str, np.random.Generator]:
        """The random streams of the environment, of its generators and of its spaces.

        That of the action space is the agent's, and is left out.
        """
        env = self.unwrapped
        found = {}
        if isinstance(env.np_random, np.random.Generator):  # older simulators have other streams
            found["np_random"] = env.np_random
        for name, value in {**vars(env), "observation_space": env.observation_space}.items():
            if isinstance(value, np.random.Generator):
                found[name] = value
            elif isinstance(value, gym.Space) and value is not env.action_space:
                found |= dict(_streams_of(name, value))
        return found

    def _streams(self) -> dict[str, Any]:
        return {name: one.bit_generator.state for name, one in self._generators().items()}

    def _put_streams(self, states: dict[str, Any]) -> None:
        for name, generator in self._generators().items():
            generator.bit_generator.state = states[name]


def _streams_of(name: str, space: gym.Space) -> Iterator[tuple[str, np.random.Generator]]:
    """The random streams of a space and of those inside it."""
    yield name, space.np_random
    if isinstance(space, gym.spaces.Dict):
        for key, inside in space.items():
            yield from _streams_of(f"{name}.{key}", inside)


def _digest(before: int, value: Any) -> int:
    """A running checksum over an observation or a reward, of any nesting."""
    if isinstance(value, dict):
        for key in sorted(value):
            before = _digest(before, value[key])
        return before
    if isinstance(value, tuple):
        for item in value:
            before = _digest(before, item)
        return before
    return zlib.crc32(np.ascontiguousarray(value).tobytes(), before)


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except TypeError:
        return False


def _same(stream: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states of a bit generator are equal; some of them hold arrays."""
    return json.dumps(stream, default=np.ndarray.tolist) == json.dumps(
        other, default=np.ndarray.tolist
    )
