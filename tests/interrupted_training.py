"""Runs that are killed and go on, for test_checkpoints.py: a program, run in processes of its own.

    python interrupted_training.py TASK FOLDER TOTAL [STEP ...]

trains TASK to TOTAL steps and prints a JSON object of digests. With steps, the process kills
itself at each of them in turn (a fresh fork goes on from the last checkpoint), as `kill -9` would.
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


TASKS: dict[str, Callable[[], OffPolicyAlgorithm]] = {"dqn": dqn, "sac": sac, "td3": td3}


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
    assert agent.env is not None
    around = environments(agent.env)
    progress = parts.progress(agent)
    for monitor in around["monitors"]:
        del monitor["episode_times"]  # wall-clock
    for episode in progress["episodes"]:
        del episode["t"]
    result = {
        "learnt": parts.learnt(agent),
        "counters": parts.counters(agent),
        "replay": parts.replay(agent),
        "noise": parts.noise(agent),
        "progress": progress,
        "environments": around,
        "streams": parts.streams(agent),
    }
    result = {name: digest(value) for name, value in result.items()}
    returns, _ = evaluate_policy(
        agent, agent.env, n_eval_episodes=2, deterministic=False, return_episode_rewards=True
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


def main(task: str, folder: Path, total: int, kills: list[int]) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    for step in kills:
        status = in_a_fork(lambda step=step: train(task, folder, total, step))
        assert os.WIFSIGNALED(status), f"expected to be killed at {step}, got status {status}"
    print(json.dumps(digests(train(task, folder, total))))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), [int(step) for step in sys.argv[4:]])
