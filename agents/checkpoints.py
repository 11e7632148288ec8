"""Exact resume: the whole state of a training run, taken at the start of a rollout.

    env = Replayable(gym.make("Pendulum-v1"))
    agent = SAC("MlpPolicy", env, seed=0)
    resumed = restore(agent, "run/checkpoints")  # when the run goes on
    agent.learn(
        total - agent.num_timesteps,
        callback=Checkpoints("run/checkpoints", every=1_000, resumed=resumed),
        reset_num_timesteps=False,
    )

The run then ends where one that never stopped ends, bit for bit, on the same machine, threads and
versions; wall-clock times are left out. Stable-Baselines3 calls `on_step` after the environment's
step but before it stores the transition, and trains after the rollout: only the start of a rollout
is a moment at which nothing is half done.
"""

from __future__ import annotations

import inspect
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
from ebrl.training.watch import check_finite_weights

from . import schemas
from . import state as parts
from .environments import environments, not_replayable, put_environments
from .replayable import Replayable

KIND = "checkpoint"


class Restored(NamedTuple):
    """What `restore` found."""

    path: Path  # the file that was read
    num_timesteps: int  # environment steps done when it was written
    total_timesteps: int  # the goal of the run that wrote it
    notes: list[str]  # what did not come back exactly, and why; empty when all did
    callbacks: list[dict[str, Any]]  # how far the callbacks were, for `Checkpoints(resumed=...)`


class Checkpoints(BaseCallback):
    """Writes `checkpoint-<steps>.zip` into `folder` at the start of a rollout.

    `every`: a checkpoint at the first rollout after each multiple of so many environment steps,
    and one when `learn` ends. `keep`: how many stay. `resumed`: what `restore` returned; then the
    callbacks beside this one go on counting where they stood.

    Raises OSError when a checkpoint cannot be written (those already there stay whole), ValueError
    for impossible arguments, TypeError for an algorithm without a replay buffer or with one that a
    file cannot hold.
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
        """Write at the next start of a rollout; with `stop`, then raise KeyboardInterrupt there."""
        self._requested, self._stopping = True, self._stopping or stop

    @contextmanager
    def stop_on_interrupt(self) -> Iterator[None]:
        """Around `learn`, in the main thread: Ctrl-C writes, then raises KeyboardInterrupt.

        A second Ctrl-C does not wait for the end of the rollout.
        """
        before = signal.getsignal(signal.SIGINT)

        def on_interrupt(number: int, frame: Any) -> None:
            signal.signal(signal.SIGINT, before)
            self.request(stop=True)

        signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def write(self) -> Path:
        """Write now and drop the oldest. Raises RuntimeError in the middle of a rollout."""
        if not self._between_rollouts:
            raise RuntimeError("a rollout is under way; call request() to write when it is over")
        steps = self.model.num_timesteps
        path = _write(self.folder, self._agent(), _progress_of(self._beside()), self.keep)
        self._written_at, self._requested = steps, False
        return path

    def write_broken_off(self) -> Path:
        """Write after an environment failed inside a rollout: all episodes start anew on resume."""
        env = self._agent().env
        assert env is not None  # it is the one that failed
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
        parts.replay(self._agent())  # what a file cannot hold is refused before the first step
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
        # a callback that stopped the run left a step half done; the last checkpoint is before it
        if self._between_rollouts and self.model.num_timesteps > self._written_at:
            self.write()


def save_checkpoint(
    path: Source, agent: OffPolicyAlgorithm, callbacks: list[dict[str, Any]] | None = None
) -> None:
    """Write the whole training state of `agent` to one file, atomically.

    To be called between rollouts. It reads the random streams and draws from none.

    Raises:
        OSError: When the disk refuses.
        TypeError: For a state that a file cannot hold.
        DivergedError: For weights that are not finite.
    """
    storage.save(path, *_contents(agent, callbacks or []))


def _write(
    folder: Path, agent: OffPolicyAlgorithm, callbacks: list[dict[str, Any]], keep: int
) -> Path:
    return rolling.write_newest(folder, agent.num_timesteps, *_contents(agent, callbacks), keep)


def _contents(
    agent: OffPolicyAlgorithm, callbacks: list[dict[str, Any]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a checkpoint."""
    if agent.env is None:
        raise ValueError("expected an agent with its environment, got one without")
    check_finite_weights(agent.policy)  # the checkpoints before are better
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
        "num_timesteps": agent.num_timesteps,
        "total_timesteps": agent._total_timesteps,
        "state": state,
    }
    return tensors, facts


def restore(agent: OffPolicyAlgorithm, source: Source) -> Restored:
    """Put a checkpoint (a file, or the newest whole one in a folder) into a fresh `agent`.

    The agent must be built as the one that was saved, its environment too; then
    `agent.learn(total - agent.num_timesteps, reset_num_timesteps=False)` goes on. Checkpoints in a
    folder that cannot be read are passed over, with a warning. When an environment does not run
    its episode again to the bit, all of them start new episodes, with a warning.

    Raises:
        FileNotFoundError: When there is no checkpoint.
        StorageError: When none can be read, or the agent is built otherwise; it is then unchanged.
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
        raise StorageError(f"{path}: the agent was built otherwise: {error}") from error
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
    """A callback and all inside it."""
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
    """Return how far each callback is."""
    return [{"kind": type(one).__name__, "numbers": _numbers_of(one)} for one in callbacks]


def _numbers_of(callback: BaseCallback) -> dict[str, Any]:
    """Return the numbers, and lists of them, that a callback changes.

    They are those that its constructor does not take. Text stays out of a checkpoint: it says
    where a callback writes.
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
    """Each callback goes on where the next one of its kind stood; a new one starts anew.

    Only numbers that a callback counts come back. Whatever else a file holds is left out with a
    warning: it could redirect what the callback writes.
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
