"""Exact resume: the whole state of a training run, taken at the start of a rollout.

    env = Replayable(gym.make("Pendulum-v1"))
    agent = SAC("MlpPolicy", env, seed=0)
    resumed = restore(agent, "run/checkpoints")  # when the run goes on
    agent.learn(
        total - agent.num_timesteps,
        callback=Checkpoints("run/checkpoints", every=1_000, resumed=resumed),
        reset_num_timesteps=False,
    )

The resumed run has the same result as an uninterrupted one, bit for bit, on the same machine, with
the same threads and versions; wall-clock times excepted. Stable-Baselines3 calls `on_step` after
the environment's step but before it stores the transition, and trains after the rollout: the state
is consistent only at the start of a rollout.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EventCallback,
)
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

from ebrl import rolling, storage
from ebrl.schema import integer, numbers
from ebrl.storage import Source, StorageError

from . import schemas
from . import state as parts
from .environments import environments, not_replayable, put_environments
from .finite import check_finite_agent
from .replayable import Replayable

KIND = "checkpoint"


class Restored(NamedTuple):
    """What `restore` restored."""

    path: Path  # the file that was read
    num_timesteps: int  # environment steps at the time of writing
    total_timesteps: int  # total steps that the run was to take
    notes: list[str]  # what was not restored exactly, and why
    callbacks: list[dict[str, Any]]  # state of the callbacks, for `Checkpoints(resumed=...)`


class Checkpoints(BaseCallback):
    """Writes `checkpoint-<steps>.zip` into `folder` at the start of a rollout.

    Args:
        folder: Where the checkpoints go.
        every: Environment steps between checkpoints, each written at the next start of a rollout;
            one more is written when `learn` ends.
        keep: How many of the newest checkpoints stay.
        resumed: What `restore` returned: other callbacks continue their counts.

    Raises:
        DivergedError: When weights or moments are not finite; the last good checkpoint stays.
        OSError: When a checkpoint cannot be written; those already there stay whole.
        TypeError: For an algorithm without a replay buffer, or with one that a file cannot hold.
    """

    def __init__(
        self, folder: str | Path, every: int, keep: int = 2, resumed: Restored | None = None
    ) -> None:
        super().__init__()
        if every < 1 or keep < 1:
            raise ValueError(f"expected every >= 1 and keep >= 1, got {every} and {keep}")
        self.folder, self.every, self.keep, self.resumed = Path(folder), every, keep, resumed
        self._written_at = 0
        self._between_rollouts = True
        self._requested = self._stopping = False

    def request(self, stop: bool = False) -> None:
        """Write at the next start of a rollout; with `stop`, then raise KeyboardInterrupt."""
        self._requested, self._stopping = True, self._stopping or stop

    def write(self) -> Path:
        """Write now and drop the oldest checkpoint; `RuntimeError` within a rollout."""
        if not self._between_rollouts:
            raise RuntimeError("a rollout is under way; call request() to write when it is over")
        steps = self.model.num_timesteps
        path = _write(self.folder, self._agent(), _progress_of(self._beside()), self.keep)
        self._written_at, self._requested = steps, False
        return path

    def write_broken_off(self) -> Path:
        """Write after an environment failed within a rollout: a resumed run starts new episodes."""
        env = self._agent().env
        assert env is not None  # the environment that failed
        for index in range(env.num_envs):
            if env.env_is_wrapped(Replayable, [index])[0]:
                env.env_method("forget", indices=[index])
        self._between_rollouts = True
        return self.write()

    def _agent(self) -> OffPolicyAlgorithm:
        if not isinstance(self.model, OffPolicyAlgorithm):
            raise TypeError(
                f"expected an off-policy algorithm, got {type(self.model).__name__}, which has no "
                "replay buffer to resume from"
            )
        return self.model

    def _beside(self) -> list[BaseCallback]:
        return [one for one in _tree(self.locals["callback"]) if one is not self]

    def _init_callback(self) -> None:
        env = self._agent().env
        if env is not None and (missing := not_replayable(env)):
            warnings.warn(
                f"environments {missing} are not Replayable: a resumed run starts new episodes "
                "there; wrap each as Replayable(gym.make(...)) for an exact one",
                stacklevel=2,
            )
        parts.replay(self._agent())  # refuses what a file cannot hold before the first step
        self.folder.mkdir(parents=True, exist_ok=True)
        rolling.remove_litter(self.folder)

    def _on_training_start(self) -> None:
        self._written_at = self.model.num_timesteps
        if self.resumed is not None:
            _put_progress(self._beside(), self.resumed.callbacks)

    def _on_rollout_start(self) -> None:
        self._between_rollouts = True
        steps = self.model.num_timesteps
        if self._requested or steps // self.every > self._written_at // self.every:
            self.write()
        if self._stopping:
            self._stopping = False
            raise KeyboardInterrupt
        self._between_rollouts = False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._between_rollouts = True

    def _on_training_end(self) -> None:
        # a callback that stopped the run left a step unfinished: the last checkpoint is older
        if self._between_rollouts and self.model.num_timesteps > self._written_at:
            self.write()


def save_checkpoint(
    path: Source, agent: OffPolicyAlgorithm, callbacks: list[dict[str, Any]] | None = None
) -> None:
    """Write the whole training state of `agent` to one file, atomically.

    Call it between rollouts. It draws no random numbers.

    Raises:
        OSError: When the file cannot be written.
        TypeError: For a state that a file cannot hold.
        DivergedError: For weights or moments that are not finite.
    """
    storage.save(path, *_contents(agent, callbacks or []))


def _write(
    folder: Path, agent: OffPolicyAlgorithm, callbacks: list[dict[str, Any]], keep: int
) -> Path:
    return rolling.write_newest(
        folder, int(agent.num_timesteps), *_contents(agent, callbacks), keep
    )


def _contents(
    agent: OffPolicyAlgorithm, callbacks: list[dict[str, Any]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a checkpoint."""
    if agent.env is None:
        raise ValueError("expected an agent with its environment, got one without")
    check_finite_agent(agent)  # do not push a good checkpoint out with a broken one
    tensors, state = storage.flatten(
        {
            "learnt": parts.learnt(agent),
            "counters": parts.counters(agent),
            "generators": parts.generators(agent),
            "replay": parts.replay(agent),
            "noise": parts.noise(agent),
            "progress": parts.progress(agent),
            "environments": environments(agent.env),
            "streams": parts.streams(agent),
            "callbacks": callbacks,
        }
    )
    facts = {
        "kind": KIND,
        "algorithm": type(agent).__name__,
        "num_timesteps": int(agent.num_timesteps),
        "total_timesteps": agent._total_timesteps,
        "state": state,
    }
    return tensors, facts


def restore(agent: OffPolicyAlgorithm, source: Source) -> Restored:
    """Put a checkpoint (a file, or the newest whole one in a folder) into a fresh `agent`.

    Build the agent and its environment as those that were saved. Afterwards continue with
    `agent.learn(total - agent.num_timesteps, reset_num_timesteps=False)`. Unreadable checkpoints in
    a folder are skipped with a warning. If an environment does not reproduce its episode to the
    bit, all environments start new episodes, with a warning.

    Raises:
        FileNotFoundError: When there is no checkpoint.
        StorageError: When none can be read, or the agent differs; it is then unchanged.
    """
    if agent.env is None:
        raise ValueError("expected an agent with its environment, got one without; give it an env")
    path, stored, notes = _read(source)
    facts = stored.facts
    if facts.get("algorithm") != type(agent).__name__:
        raise StorageError(
            f"{path}: expected a checkpoint of {type(agent).__name__}, "
            f"got one of {facts.get('algorithm')!r}"
        )
    try:
        integer(0)(facts.get("total_timesteps"), "total_timesteps")
        state = storage.unflatten(stored.tensors, facts.get("state"))
        schemas.checkpoint(agent)(state, "state")
    except StorageError as error:
        raise StorageError(f"{path}: the agent is configured differently: {error}") from error
    parts.put_learnt(agent, state["learnt"])
    parts.put_counters(agent, state["counters"])
    parts.put_generators(agent, state["generators"])
    parts.put_replay(agent, state["replay"])
    parts.put_noise(agent, state["noise"])
    parts.put_progress(agent, state["progress"])
    lost = put_environments(agent.env, state["environments"])
    if lost:
        agent._last_obs = None  # so that `learn` resets the environments
        parts.cut_trajectories(agent)
        notes.append("; ".join(lost) + ": new episodes start in all environments")
    if agent.use_sde:
        notes.append("gSDE draws its noise before a rollout starts: not exact to the bit")
    parts.put_streams(agent, state["streams"])
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return Restored(path, agent.num_timesteps, facts["total_timesteps"], notes, state["callbacks"])


def _read(source: Source) -> rolling.Newest:
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            return rolling.read_newest(path, KIND)
    else:
        path = Path("stream")
    return rolling.Newest(path, rolling.read_checkpoint(source, KIND), [])


# ---- callbacks beside ours -------------------------------------------------------------------


def _tree(callback: BaseCallback) -> Iterator[BaseCallback]:
    """A callback and all callbacks inside it."""
    yield callback
    inside: list[BaseCallback | None] = []
    if isinstance(callback, CallbackList):
        inside += callback.callbacks
    if isinstance(callback, EventCallback):
        inside.append(callback.callback)
    if isinstance(callback, EvalCallback):
        inside.append(callback.callback_on_new_best)
    for one in inside:
        if one is not None:
            yield from _tree(one)


def _progress_of(callbacks: list[BaseCallback]) -> list[dict[str, Any]]:
    """Return the state of each callback."""
    return [{"kind": type(one).__name__, "numbers": _numbers_of(one)} for one in callbacks]


def _numbers_of(callback: BaseCallback) -> dict[str, Any]:
    """Return the numbers, and lists of them, that a callback changes.

    Arguments of its constructor are left out, and so is text, which says where a callback writes.
    """
    taken = inspect.signature(type(callback).__init__).parameters
    return {
        name: value
        for name, value in vars(callback).items()
        if name not in taken and isinstance(value, bool | int | float | list) and _counts(value)
    }


def _counts(value: Any) -> bool:
    try:
        numbers(value, "")
    except StorageError:
        return False
    return parts.storable(value)


def _put_progress(callbacks: list[BaseCallback], states: list[dict[str, Any]]) -> None:
    """Restore each callback from the next state of its kind; others start from zero.

    Only counts are restored. Anything else in a file, which could redirect what a callback writes,
    is left out with a warning.
    """
    left = list(states)
    for one in callbacks:
        state = next((state for state in left if state["kind"] == type(one).__name__), None)
        if state is None:
            continue
        left = [other for other in left if other is not state]
        here = _numbers_of(one)
        fitting = {
            name: value
            for name, value in state["numbers"].items()
            if name in here
            and _counts(value)
            and isinstance(value, list) == isinstance(here[name], list)
        }
        if others := sorted(state["numbers"].keys() - fitting.keys()):
            warnings.warn(
                f"left out of the callback {state['kind']}: {others}, which are no counters of it",
                stacklevel=2,
            )
        vars(one).update(fitting)
