"""Runs that are killed and go on, for test_checkpoints.py: a program, run in processes of its own.

    python interrupted_training.py TASK FOLDER TOTAL [STEP ...]

trains TASK to TOTAL steps in FOLDER/whole (where it goes on when it was killed from outside) and
writes digests of all that is left to FOLDER/whole.json. With steps, it also trains in
FOLDER/killed, where a process kills itself at each of these steps in turn and a fresh fork goes on
from the last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from ebrl import storage
from ebrl.agents import EnergyActorCritic, SoftQ
from ebrl.agents import state as parts
from ebrl.agents.checkpoints import Checkpoints, restore
from ebrl.agents.environments import environments
from ebrl.agents.replayable import Replayable

EVERY = 50
SMALL = {"net_arch": [16]}


def linear(remaining: float) -> float:
    return 3e-3 * remaining


def replayable(env_id: str, number: int) -> VecEnv:
    return make_vec_env(env_id, n_envs=number, seed=7, wrapper_class=Replayable)


def dqn() -> OffPolicyAlgorithm:
    return DQN(
        "MlpPolicy",
        Replayable(gym.make("CartPole-v1")),
        learning_rate=linear,
        learning_starts=30,
        buffer_size=200,  # wraps round
        train_freq=3,
        target_update_interval=40,
        exploration_fraction=0.5,
        policy_kwargs=SMALL,
        seed=3,
    )


def sac() -> OffPolicyAlgorithm:
    return SAC(
        "MlpPolicy",
        VecNormalize(replayable("Pendulum-v1", 1)),
        learning_rate=linear,
        learning_starts=30,
        buffer_size=1_000,
        batch_size=16,
        train_freq=2,
        policy_kwargs=SMALL,
        seed=3,
    )


def td3() -> OffPolicyAlgorithm:
    """Three environments, n-step returns, an action noise with a memory, stacked frames."""
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))
    env = VecNormalize(VecFrameStack(replayable("Pendulum-v1", 3), 2))
    return TD3(
        "MlpPolicy",
        env,
        learning_starts=30,
        buffer_size=300,
        batch_size=16,
        n_steps=3,
        action_noise=noise,
        policy_kwargs=SMALL,
        seed=3,
    )


def soft_q() -> OffPolicyAlgorithm:
    return SoftQ(
        "MlpPolicy",
        Replayable(gym.make("CartPole-v1")),
        learning_rate=linear,
        learning_starts=30,
        buffer_size=200,
        munchausen=0.5,
        policy_kwargs=SMALL,
        seed=3,
    )


def normalised_soft_q() -> OffPolicyAlgorithm:
    return SoftQ(
        "MlpPolicy",
        Replayable(gym.make("CartPole-v1")),
        learning_starts=30,
        buffer_size=200,
        normalization="batch",
        target="none",
        scale_rewards=True,
        policy_kwargs=SMALL,
        seed=3,
    )


def energy_actor_critic() -> OffPolicyAlgorithm:
    return EnergyActorCritic(
        "MlpPolicy",
        VecNormalize(replayable("Pendulum-v1", 2)),
        learning_starts=30,
        buffer_size=1_000,
        batch_size=16,
        components=2,
        n_steps=3,
        policy_kwargs=SMALL,
        seed=3,
    )


def normalised() -> OffPolicyAlgorithm:
    return EnergyActorCritic(
        "MlpPolicy",
        VecNormalize(replayable("Pendulum-v1", 2), norm_reward=False),
        learning_starts=30,
        buffer_size=1_000,
        batch_size=16,
        n_steps=2,
        normalization="batch",
        proposal_normalization="batch",
        unit_weights=True,
        scale_rewards=True,
        target="none",
        policy_delay=3,
        policy_kwargs=SMALL,
        seed=3,
    )


TASKS: dict[str, Callable[[], OffPolicyAlgorithm]] = {
    task.__name__: task
    for task in (dqn, sac, td3, soft_q, normalised_soft_q, energy_actor_critic, normalised)
}


class KillAt(BaseCallback):
    """Ends the process as `kill -9` does, between the environment's step and the update."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return True


def train(task: str, folder: Path, total: int, kill_at: int | None = None) -> OffPolicyAlgorithm:
    """Start or go on; the process's own streams are left at a place that says nothing."""
    random.seed(os.getpid())
    np.random.seed(os.getpid())  # noqa: NPY002
    torch.manual_seed(os.getpid())
    agent = TASKS[task]()
    resumed = restore(agent, folder) if any(folder.glob("*.zip")) else None
    callbacks: list[BaseCallback] = [Checkpoints(folder, EVERY, resumed=resumed)]
    if kill_at is not None:
        callbacks.append(KillAt(kill_at))
    return agent.learn(
        total - agent.num_timesteps, callback=callbacks, reset_num_timesteps=resumed is None
    )


def digest(value: Any) -> str:
    """sha256 over nested values, to the bit."""
    tensors, facts = storage.flatten(value)
    sha = hashlib.sha256(json.dumps(facts).encode())
    for name, tensor in tensors.items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().numpy().tobytes())
    return sha.hexdigest()


def digests(agent: OffPolicyAlgorithm) -> dict[str, str]:
    """Of all that a run leaves, right after it: the process's streams and an evaluation too."""
    assert agent.env is not None
    around = environments(agent.env)
    progress = parts.progress(agent)
    for episode in around["episodes"]:
        for streams in (episode["streams_before"], episode["streams_now"]):
            # nobody seeds these spaces, and these environments do not draw from them
            unused = [name for name in streams if name.startswith("observation_space")]
            for name in unused:
                del streams[name]
        if episode["seed"] is not None:  # what was before a seeded reset is the system's entropy
            del episode["streams_before"]
    for monitor in around["monitors"]:
        if monitor is not None:
            del monitor["episode_times"]  # wall-clock
    for episode in progress["episodes"]:
        del episode["t"]
    result = {
        "learnt": parts.learnt(agent),
        "counters": parts.counters(agent),
        "generators": parts.generators(agent),
        "replay": parts.replay(agent),
        "noise": parts.noise(agent),
        "progress": progress,
        "environments": around,
        "streams": parts.streams(agent),
    }
    result = {name: digest(value) for name, value in result.items()}
    returns, _ = evaluate_policy(
        agent, agent.env, 2, deterministic=False, return_episode_rewards=True, warn=False
    )
    return {**result, "evaluation": digest(returns)}


def in_a_fork(run: Callable[[], None]) -> int:
    """The wait status of a new process; torch is imported once, which is most of its life."""
    child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def finish(task: str, folder: Path, total: int) -> None:
    agent = train(task, folder, total)
    folder.with_suffix(".json").write_text(json.dumps(digests(agent)))


def main(task: str, folder: Path, total: int, kills: list[int]) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    assert in_a_fork(lambda: finish(task, folder / "whole", total)) == 0
    for step in kills:
        status = in_a_fork(lambda step=step: train(task, folder / "killed", total, step))
        assert os.WIFSIGNALED(status), f"expected to be killed at {step}, got status {status}"
    if kills:
        assert in_a_fork(lambda: finish(task, folder / "killed", total)) == 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), [int(step) for step in sys.argv[4:]])
