"""A run that was stopped goes on to the same end, to the bit; damage and bad fits are refused."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.envs import BitFlippingEnv, SimpleMultiObsEnv
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her import HerReplayBuffer

from ebrl.agents.checkpoints import Checkpoints, restore, save_checkpoint
from ebrl.agents.replayable import Replayable
from ebrl.rolling import checkpoints_in
from ebrl.storage import StorageError

PROGRAM = Path(__file__).with_name("interrupted_training.py")
spec = importlib.util.spec_from_file_location("interrupted_training", PROGRAM)
assert spec is not None
assert spec.loader is not None
training = importlib.util.module_from_spec(spec)
spec.loader.exec_module(training)

TINY: dict[str, Any] = {"learning_starts": 20, "buffer_size": 100, "batch_size": 8, "seed": 1}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
OTHERS = (
    training.td3,
    training.soft_q,
    training.normalised_soft_q,
    training.energy_actor_critic,
    training.normalised,
)


def cartpole(**arguments: Any) -> DQN:
    arguments = {**TINY, "policy_kwargs": {"net_arch": [8]}, **arguments}
    return DQN("MlpPolicy", Replayable(gym.make("CartPole-v1")), **arguments)


# ---- the promise ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "total"),
    [
        ("dqn", 240),
        pytest.param("sac", 260, marks=pytest.mark.slow),
        pytest.param("td3", 750, marks=pytest.mark.slow),
    ],
)
def test_killed_five_times_it_ends_as_if_never_interrupted(
    task: str, total: int, tmp_path: Path
) -> None:
    kills = sorted(random.Random(task).sample(range(20, total), 5))
    subprocess.run(
        [sys.executable, PROGRAM, task, tmp_path, str(total), *map(str, kills)],
        check=True,
        timeout=300,
        env=ONE_THREAD,
    )
    whole, killed = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("whole", "killed"))
    assert killed == whole


@pytest.mark.slow
@pytest.mark.parametrize("task", ["dqn", "sac"])
def test_killed_from_outside_at_any_time(task: str, tmp_path: Path) -> None:
    total, draw = 3_000, random.Random(task)
    command = [sys.executable, PROGRAM, task]
    subprocess.run([*command, tmp_path / "a", str(total)], check=True, env=ONE_THREAD)
    killed, folder = 0, tmp_path / "b" / "whole"
    while not folder.with_suffix(".json").exists():
        before = checkpoints_in(folder)
        run = subprocess.Popen(
            [*command, tmp_path / "b", str(total)], env=ONE_THREAD, start_new_session=True
        )
        if killed < 5:
            while checkpoints_in(folder) == before and run.poll() is None:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.5))
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                killed += 1
        assert run.wait() in (0, -signal.SIGKILL)
    assert killed == 5
    whole = tmp_path / "a" / "whole.json"
    assert folder.with_suffix(".json").read_text() == whole.read_text()


def her(**replay: Any) -> SAC:
    env = BitFlippingEnv(n_bits=4, continuous=True, max_steps=4)
    arguments = {**TINY, "replay_buffer_class": HerReplayBuffer, "policy_kwargs": {"net_arch": [8]}}
    return SAC("MultiInputPolicy", Replayable(env), **arguments, replay_buffer_kwargs=replay)


def dictionary() -> DQN:
    np.random.seed(0)  # noqa: NPY002, it draws its pictures when it is built
    env = Replayable(SimpleMultiObsEnv(random_start=False))
    return DQN("MultiInputPolicy", env, **TINY, policy_kwargs={"net_arch": [8]})


def memory_saving() -> DQN:
    return cartpole(
        optimize_memory_usage=True, replay_buffer_kwargs={"handle_timeout_termination": False}
    )


def two_environments() -> DQN:
    env = DummyVecEnv([lambda: Replayable(gym.make("CartPole-v1"))] * 2)
    return DQN("MlpPolicy", env, **TINY, policy_kwargs={"net_arch": [8]}, gradient_steps=-1)


@pytest.mark.parametrize("build", [her, dictionary, memory_saving, two_environments, *OTHERS])
def test_every_kind_of_replay_and_environment_goes_on(
    build: Callable[[], OffPolicyAlgorithm], tmp_path: Path
) -> None:
    whole = training.digests(build().learn(180, callback=Checkpoints(tmp_path, 60, keep=9)))
    resumed = build()
    restored = restore(resumed, checkpoints_in(tmp_path)[-1])
    assert restored.notes == []
    assert (restored.total_timesteps, restored.num_timesteps) == (180, resumed.num_timesteps)
    resumed.learn(180 - resumed.num_timesteps, reset_num_timesteps=False)
    assert training.digests(resumed) == whole


def test_writing_checkpoints_changes_nothing(tmp_path: Path) -> None:
    often = training.digests(cartpole().learn(120, callback=Checkpoints(tmp_path, 7)))
    assert often == training.digests(cartpole().learn(120))


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0", "Acrobot-v1"]
)
@pytest.mark.parametrize("seed", [None, 5])
def test_an_episode_runs_again(env_id: str, seed: int | None) -> None:
    env, again = Replayable(gym.make(env_id)), Replayable(gym.make(env_id))
    env.action_space.seed(0)
    env.reset(seed=3)
    env.reset(seed=seed)
    for _ in range(6):
        env.step(env.action_space.sample())
    episode = env.episode()
    assert episode is not None
    assert again.replay(episode)
    action = env.action_space.sample()
    np.testing.assert_equal(again.step(action), env.step(action))
    np.testing.assert_equal(again.reset(), env.reset())
    assert again.unwrapped.np_random.random() == env.unwrapped.np_random.random()


# ---- damage ---------------------------------------------------------------------------------


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path: Path) -> None:
    whole = training.digests(cartpole().learn(92, callback=Checkpoints(tmp_path, 40)))
    newest, before = checkpoints_in(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-100])
    agent = cartpole()
    with pytest.warns(UserWarning, match=f"passed over an unreadable checkpoint: .*{newest.name}"):
        restored = restore(agent, tmp_path)
    assert restored.path == before
    agent.learn(
        92 - agent.num_timesteps,
        callback=Checkpoints(tmp_path, 40),
        reset_num_timesteps=False,
    )
    assert training.digests(agent) == whole
    assert restore(cartpole(), tmp_path).path == newest  # written again, whole


def test_no_whole_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint-\*\.zip, got none"):
        restore(cartpole(), tmp_path)
    (tmp_path / "checkpoint-000000000007.zip").write_bytes(b"")
    with pytest.raises(StorageError, match=r"no checkpoint can be read; passed over"):
        restore(cartpole(), tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    agent = cartpole(buffer_size=5_000)
    callback = Checkpoints(tmp_path, 40)
    agent.learn(44, callback=callback)
    names = sorted(os.listdir(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not write .*checkpoint-0+80\.zip"):
            agent.learn(60, callback=callback, reset_num_timesteps=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == names
    assert restore(cartpole(buffer_size=5_000), tmp_path).num_timesteps == 44


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.mark),))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "checkpoint-000000000040.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Bomb(mark)))
    with pytest.raises(StorageError, match=r"a zip with data\.pkl"):
        restore(cartpole(), path)
    torch.save({"policy": Bomb(mark)}, path)
    with pytest.raises(StorageError):
        restore(cartpole(), tmp_path)
    assert not mark.exists()


# ---- agents that do not fit ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy_kwargs": {"net_arch": [9]}}, r"expected a tensor of shape \(9, 4\)"),
        ({"buffer_size": 101}, r"expected a ReplayBuffer of .* \[101"),
        ({"n_steps": 2}, "expected a NStepReplayBuffer"),
    ],
)
def test_an_agent_built_otherwise_is_refused(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "a.zip", cartpole().learn(30))
    with pytest.raises(StorageError, match=f"the agent is configured differently: .*{message}"):
        restore(cartpole(**arguments), tmp_path / "a.zip")


def test_another_algorithm_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.zip", cartpole().learn(30))
    agent = SAC("MlpPolicy", Replayable(gym.make("Pendulum-v1")), **TINY)
    with pytest.raises(StorageError, match="expected a checkpoint of SAC, got one of 'DQN'"):
        restore(agent, tmp_path / "a.zip")


def test_another_number_of_environments_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.zip", two_environments().learn(40))
    with pytest.raises(StorageError, match=r"configured differently: .*expected a ReplayBuffer of"):
        restore(cartpole(), tmp_path / "a.zip")


def test_an_on_policy_algorithm_is_refused(tmp_path: Path) -> None:
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    with pytest.raises(TypeError, match="expected an off-policy algorithm, got PPO"):
        agent.learn(8, callback=Checkpoints(tmp_path, 5))


def test_a_replay_that_no_file_holds_is_refused_before_the_first_step(tmp_path: Path) -> None:
    agent = her(copy_info_dict=True)
    with pytest.raises(TypeError, match="use HerReplayBuffer with copy_info_dict=False"):
        agent.learn(100, callback=Checkpoints(tmp_path, 50))
    assert agent.num_timesteps == 0


# ---- the callback ---------------------------------------------------------------------------


def test_keeps_the_newest(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-000000000010.zip.1.tmp").write_bytes(b"of a killed run")
    cartpole().learn(100, callback=Checkpoints(tmp_path, 20, keep=3))
    assert sorted(os.listdir(tmp_path)) == [
        f"checkpoint-{steps:012d}.zip" for steps in (60, 80, 100)
    ]


def test_a_request_to_stop_writes_first_and_the_run_goes_on(tmp_path: Path) -> None:
    callback = Checkpoints(tmp_path, 1_000)

    class StopAt(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 53:
                callback.request(stop=True)
            return True

    with pytest.raises(KeyboardInterrupt):
        cartpole().learn(120, callback=[StopAt(), callback])
    agent = cartpole()
    restored = restore(agent, tmp_path)
    assert (restored.num_timesteps, restored.total_timesteps) == (56, 120)  # a rollout is 4 steps
    agent.learn(120 - agent.num_timesteps, reset_num_timesteps=False)
    assert training.digests(agent) == training.digests(cartpole().learn(120))


def test_a_request_is_granted_at_the_next_rollout(tmp_path: Path) -> None:
    callback = Checkpoints(tmp_path, 1_000)

    class Ask(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 30:
                callback.request()
                with pytest.raises(RuntimeError, match="a rollout is under way"):
                    callback.write()
            return True

    cartpole().learn(40, callback=[callback, Ask()])
    assert [path.name[-6:-4] for path in checkpoints_in(tmp_path)] == ["40", "32"]


class StopAt(BaseCallback):
    def _on_step(self) -> bool:
        return self.num_timesteps < 30


def test_a_step_half_done_is_not_written(tmp_path: Path) -> None:
    cartpole().learn(100, callback=[Checkpoints(tmp_path, 20), StopAt()])
    assert [path.name[-6:-4] for path in checkpoints_in(tmp_path)] == ["20"]


def test_callbacks_go_on_counting(tmp_path: Path) -> None:
    def evaluation() -> EvalCallback:
        return EvalCallback(gym.make("CartPole-v1"), n_eval_episodes=1, eval_freq=30, verbose=0)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not wrapped with a.*Monitor")
        first = evaluation()
        cartpole().learn(50, callback=[first, Checkpoints(tmp_path, 40)])
        agent, second = cartpole(), evaluation()
        resumed = restore(agent, tmp_path)
        agent.learn(
            1,
            callback=[second, Checkpoints(tmp_path, 40, resumed=resumed)],
            reset_num_timesteps=False,
        )
    assert first.n_calls == 52  # whole rollouts
    assert second.n_calls == 56
    assert second.best_mean_reward == first.best_mean_reward
    assert second.eval_freq == 30


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected every >= 1 and keep >= 1, got 0 and 2"):
        Checkpoints(tmp_path, 0)
