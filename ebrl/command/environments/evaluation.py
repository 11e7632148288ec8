"""Evaluation: greedy episodes from fixed starts, which do not affect the training."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from ebrl.agents.environments import seen_by
from ebrl.command.configs.agent_config import TrainConfiguration
from ebrl.command.environments.building import evaluation_environments
from ebrl.command.runs.folder import Run, write_evaluations

# Episodes that are played in parallel. The number is fixed, because the rounding of a forward pass
# may depend on the size of its batch, and an episode must not depend on how many there are.
SIDE_BY_SIDE = 10


class Abandoned(Exception):
    """An evaluation abandoned because the training is to stop."""


class Episodes(NamedTuple):
    """Whole episodes; entry i started from the seed `seeds[i]`."""

    seeds: list[int]
    returns: list[float]  # in the environment's units, never normalised
    lengths: list[int]
    cut: int  # how many were truncated at the limit

    def summary(self) -> dict[str, Any]:
        return {
            "mean": float(np.mean(self.returns)),
            "std": float(np.std(self.returns)),
            "seeds": self.seeds,
            "returns": self.returns,
            "lengths": self.lengths,
            "cut": self.cut,
        }


def play(
    agent: BaseAlgorithm,
    environments: DummyVecEnv,
    first_seed: int,
    episodes: int,
    *,
    longest: int,
    go_on: Callable[[], bool] = lambda: True,
) -> Episodes:
    """Play greedy episodes, each started from the next seed.

    Args:
        agent: Who acts.
        environments: Parallel ones, which share nothing with a training.
        first_seed: Seed of the first episode.
        episodes: Number of episodes.
        longest: Steps after which an episode is truncated, with the return so far.
        go_on: Called before every step.

    Raises:
        Abandoned: If `go_on` returned False.
    """
    blocks = []
    for block in range(0, episodes, environments.num_envs):
        returns, lengths, cut = _play_block(
            agent, environments, first_seed + block, longest=longest, go_on=go_on
        )
        count = min(environments.num_envs, episodes - block)
        blocks.append((returns[:count], lengths[:count], cut[:count]))
    returns, lengths, cut = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    seeds = list(range(first_seed, first_seed + episodes))
    return Episodes(seeds, returns.tolist(), lengths.tolist(), int(cut.sum()))


def _play_block(
    agent: BaseAlgorithm,
    environments: DummyVecEnv,
    first_seed: int,
    *,
    longest: int,
    go_on: Callable[[], bool],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Play one episode in each environment; return returns, lengths, and which were truncated."""
    returns = np.zeros(environments.num_envs)
    lengths = np.zeros(environments.num_envs, dtype=int)
    running = np.ones(environments.num_envs, dtype=bool)
    with undisturbed_streams():
        environments.seed(first_seed)
        observations: Any = environments.reset()  # an array or a dict of arrays
        while running.any() and lengths.max() < longest:
            if not go_on():
                raise Abandoned
            actions, _ = agent.predict(seen_by(agent, observations), deterministic=True)
            observations, rewards, dones, _ = environments.step(actions)
            returns += np.where(running, rewards, 0.0)
            lengths += running
            running &= ~dones
    return returns, lengths, running


def why_cut(episodes: Episodes, longest: int) -> str:
    """Return a note that episodes were truncated; '' if none was."""
    if not episodes.cut:
        return ""
    return (
        f"ebrl: note: {episodes.cut} of {len(episodes.returns)} episodes did not end within "
        f"{longest:,} steps and were truncated; their returns cover only those steps "
        "(--evaluation_steps sets the limit of a run)."
    )


@contextmanager
def undisturbed_streams() -> Iterator[None]:
    """Restore the global random streams after whatever the environments drew."""
    python, torch_cpu = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002 (it is the stream to look after)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_cpu)


class Clock(NamedTuple):
    """Seconds of this process. A tuple, so that a checkpoint does not treat it as a counter."""

    cpu: float
    wall: float

    @staticmethod
    def now() -> Clock:
        return Clock(cpu=time.process_time(), wall=time.monotonic())

    def minus(self, other: Clock) -> Clock:
        return Clock(cpu=self.cpu - other.cpu, wall=self.wall - other.wall)


class Evaluations(BaseCallback):
    """Evaluates every `evaluate_every` steps, at the start of a rollout; `finish` after the last.

    Whether an evaluation is due depends on the steps alone, so that an interrupted run evaluates at
    the same steps.

    Args:
        configuration: Configuration of the run.
        run: Where evaluations are written, and the best agent if that is to be kept.
        done: The evaluations of the run so far; new ones are appended.
    """

    def __init__(
        self, configuration: TrainConfiguration, run: Run, done: list[dict[str, Any]]
    ) -> None:
        super().__init__()
        self.settings = configuration.settings
        self.run = run
        self.done = done
        self.environments = evaluation_environments(configuration, SIDE_BY_SIDE)
        self.abandoned = Event()  # not a number, so that a checkpoint does not restore it
        self._start_clocks()

    def abandon(self) -> None:
        """Abandon the evaluation under way; a resumed run repeats it."""
        self.abandoned.set()

    def _on_training_start(self) -> None:
        self._start_clocks()

    def _start_clocks(self) -> None:
        """Start the clocks; after a resume they continue from the last evaluation."""
        last = self.done[-1] if self.done else {"cpu_seconds": 0.0, "wall_seconds": 0.0}
        self.started = Clock.now().minus(Clock(last["cpu_seconds"], last["wall_seconds"]))

    def _on_rollout_start(self) -> None:
        every = self.settings.evaluate_every
        last = self.done[-1]["timesteps"] if self.done else 0
        if self.num_timesteps // every > last // every:
            self.evaluate()

    def _on_step(self) -> bool:
        return True

    def finish(self, agent: BaseAlgorithm) -> None:
        """Evaluate after the last step, unless that has been done.

        Raises:
            KeyboardInterrupt: If the evaluation was abandoned.
        """
        self.init_callback(agent)
        self.num_timesteps = agent.num_timesteps  # a resumed run may have no step left
        if not self.done or self.done[-1]["timesteps"] < self.num_timesteps:
            self.evaluate()
        self.environments.close()
        if self.abandoned.is_set():
            raise KeyboardInterrupt

    def evaluate(self) -> None:
        """Evaluate now, write the result, and leave the time out of the clocks."""
        before = Clock.now()
        try:
            episodes = play(
                self.model,
                self.environments,
                self.settings.evaluation_seed,
                self.settings.evaluation_episodes,
                longest=self.settings.evaluation_steps,
                go_on=lambda: not self.abandoned.is_set(),
            )
        except Abandoned:
            return
        if note := why_cut(episodes, self.settings.evaluation_steps):
            print(note, file=sys.stderr)
        trained = before.minus(self.started)
        entry = {
            "timesteps": self.num_timesteps,
            **episodes.summary(),
            "cpu_seconds": trained.cpu,
            "wall_seconds": trained.wall,
        }
        self._log(entry)
        best = max((earlier["mean"] for earlier in self.done), default=-np.inf)
        if self.settings.best and entry["mean"] > best:
            self.model.save(self.run.best)
        self.done.append(entry)
        write_evaluations(self.run, self.done)
        self.started = Clock.now().minus(trained)

    def _log(self, entry: dict[str, Any]) -> None:
        last = self.done[-1] if self.done else {"timesteps": 0, "wall_seconds": 0.0}
        seconds = entry["wall_seconds"] - last["wall_seconds"]
        self.logger.record("evaluation/return_mean", entry["mean"])
        self.logger.record("evaluation/return_std", entry["std"])
        self.logger.record("evaluation/length_mean", float(np.mean(entry["lengths"])))
        self.logger.record(
            "time/steps_per_second", (entry["timesteps"] - last["timesteps"]) / max(seconds, 1e-9)
        )
        self.logger.dump(self.num_timesteps)
