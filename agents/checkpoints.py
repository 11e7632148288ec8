"""Exact resume: the whole state of a training run, taken at the start of a rollout.

    env = Monitor(Replayable(gym.make("Pendulum-v1")))
    agent = SAC("MlpPolicy", env, seed=0)
    restored = restore(agent, "runs/a/checkpoints")  # when the run goes on
    agent.learn(
        total - agent.num_timesteps,
        callback=Checkpoints("runs/a/checkpoints", every=1_000),
        reset_num_timesteps=False,
    )
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


class Restored(NamedTuple):
    """What `restore` found."""

    path: Path  # the file that was read
    num_timesteps: int  # environment steps done when it was written
    total_timesteps: int  # the goal of the run that wrote it: learn(total - num_timesteps) goes on
    notes: list[str]  # what could not be restored exactly, and why; empty when all could
    callbacks: dict  # counters of the callbacks that ran beside, for `Checkpoints(resumed=...)`


class Checkpoints(BaseCallback):
    """Writes `checkpoint-<steps>.zip` into `folder` at the start of a rollout.

    `every`: environment steps between two checkpoints. `keep`: how many to keep.
    `resumed`: what `restore` returned; the callbacks beside this one then go on counting.
    Raises OSError when a checkpoint cannot be written; those already there stay whole.
    """

    def __init__(
        self, folder: str | Path, every: int, keep: int = 2, resumed: Restored | None = None
    ) -> None: ...

    def request(self, stop: bool = False) -> None:
        """Write at the next start of a rollout; with `stop`, then raise KeyboardInterrupt."""

    def stop_on_interrupt(self) -> Iterator[None]:
        """Context for `learn`: Ctrl-C writes a checkpoint, then raises KeyboardInterrupt.

        A second Ctrl-C does not wait.
        """

    def write(self) -> Path:
        """Write now. Only right at the start of a rollout, or when `learn` has returned."""


def save_checkpoint(path: str | Path, agent: OffPolicyAlgorithm) -> None:
    """Write the whole training state of `agent` to one file, atomically."""


def restore(agent: OffPolicyAlgorithm, source: str | Path) -> Restored:
    """Put the state in `source` (a checkpoint, or a folder of them) into a fresh `agent`.

    The agent must be built as the one that was saved, its environment too. A corrupt newest
    checkpoint in a folder falls back to the one before, with a warning.
    Raises FileNotFoundError when there is none, StorageError when none fits.
    """
