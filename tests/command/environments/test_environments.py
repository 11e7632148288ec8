"""Where a run's environments are stepped, and what is wrapped around them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from ebrl.agents.checkpoints import Checkpoints, restore
from ebrl.agents.replayable import Replayable
from ebrl.agents.vector_environments import FromVectorEnv
from ebrl.command import main
from ebrl.command.configs.agent_config import read
from ebrl.command.environments.building import (
    evaluation_environments,
    training_environment,
    vectorised,
)
from ebrl.command.environments.watched import Subprocesses, Watched, WatchedVector
from ebrl.command.errors import EnvironmentFailure, UsageError

WRAPPERS = [
    {"class_path": "gymnasium.wrappers.TimeAwareObservation"},
    {"class_path": "gymnasium.wrappers.TimeLimit", "init_args": {"max_episode_steps": 4}},
]


def config(folder: Path, **changes: Any) -> Path:
    agent = {
        "class_path": "stable_baselines3.DQN",
        "init_args": {"policy": "MlpPolicy", "env": "CartPole-v1", "learning_starts": 4},
    }
    content = {
        "agent": agent,
        "total_timesteps": 12,
        "evaluate_every": 1_000,
        "evaluation_episodes": 1,
        "evaluation_steps": 5,
        "checkpoint_every": 4,
        "run": str(folder / "run"),
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("vec", "kind"),
    [
        ("dummy", DummyVecEnv),
        pytest.param("subproc", SubprocVecEnv, marks=pytest.mark.slow),
        ("vector", FromVectorEnv),
    ],
)
def test_the_config_says_where_environments_are_stepped(
    vec: str, kind: type, tmp_path: Path
) -> None:
    env = vectorised("Acrobot-v1", read(config(tmp_path, vec=vec, n_envs=2)).settings)
    assert isinstance(env, kind)
    env.seed(0)
    first = env.reset()
    expected = DummyVecEnv([lambda: gym.make("Acrobot-v1")] * 2)
    expected.seed(0)
    assert np.array_equal(first, expected.reset())
    for _ in range(3):
        mine, theirs = env.step(np.array([0, 1])), expected.step(np.array([0, 1]))
        assert all(np.array_equal(*pair) for pair in zip(mine[:3], theirs[:3], strict=True))
    env.close()


def test_a_vector_environment_of_its_own_is_checkpointed(tmp_path: Path) -> None:
    numbers = {"n_envs": 2, "total_timesteps": 40, "evaluate_every": 40, "evaluation_episodes": 1}
    options = [f"--{name}={number}" for name, number in numbers.items()]
    run = tmp_path / "run"
    with pytest.warns(UserWarning, match="counts it twice|not Replayable"):
        assert main(["train", "cartpole", "--vec=vector", f"--run={run}", *options]) == 0
    assert [*(run / "checkpoints").iterdir()]


def test_wrappers_are_for_all_and_some_for_training_alone(tmp_path: Path) -> None:
    clip = {"class_path": "gymnasium.wrappers.ClipReward", "init_args": {"max_reward": 0.5}}
    path = config(tmp_path, wrappers=WRAPPERS, training_wrappers=[clip])
    configuration = read(path)
    training = vectorised("CartPole-v1", configuration.settings)
    evaluation = evaluation_environments(configuration, 1)
    for env, reward in ((training, 0.5), (evaluation, 1.0)):
        env.seed(0)
        assert env.reset().shape == (1, 5)  # the time is observed
        assert env.step(np.array([0]))[1] == reward
    dones = [bool(training.step(np.array([step % 2]))[2][0]) for step in range(3)]
    assert dones == [False, False, True]  # a limit of four steps


@pytest.mark.parametrize(
    ("wrapper", "said"),
    [
        ({"class_path": "gymnasium.wrappers.TimeLimt"}, "TimeLimit"),
        ({"class_path": "gymnasium.wrappers.TimeLimit"}, "does not fit"),
        ({"class_path": "gymnasium.spaces.Discrete", "init_args": {}}, "does not fit"),
        ({"name": "TimeLimit"}, "expected class_path and init_args"),
    ],
)
def test_a_wrapper_that_is_none_is_one_line(
    wrapper: dict[str, Any], said: str, tmp_path: Path
) -> None:
    settings = read(config(tmp_path, wrappers=[wrapper]), trust=True).settings
    with pytest.raises(UsageError, match=said):
        vectorised("CartPole-v1", settings)


def test_observations_without_numbers_are_not_normalised(tmp_path: Path) -> None:
    configuration = read(config(tmp_path, normalize="observations"))
    arguments = {**configuration.agent_arguments, "env": "FrozenLake-v1"}
    with pytest.raises(UsageError, match="normalize: expected a Box or a Dict"):
        training_environment(configuration._replace(agent_arguments=arguments))


class Screen(gym.Env[np.ndarray, int]):
    """Images, with their channels last."""

    observation_space = spaces.Box(0, 255, (36, 37, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros((36, 37, 3), np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros((36, 37, 3), np.uint8), 1.0, False, True, {}


gym.register("Environments/Screen-v0", entry_point=Screen)


def test_rewards_of_images_are_normalised(tmp_path: Path) -> None:
    path = config(tmp_path, normalize="rewards")
    content = yaml.safe_load(path.read_text())
    arguments = {"policy": "CnnPolicy", "env": "Environments/Screen-v0", "buffer_size": 20}
    content["agent"]["init_args"] = {**arguments, "learning_starts": 100}
    path.write_text(yaml.safe_dump(content))
    assert main(["train", str(path)]) == 0


def test_a_run_of_somebody_else_wraps_by_known_classes_alone(tmp_path: Path) -> None:
    read(config(tmp_path, wrappers=WRAPPERS))
    writes = {"class_path": "gymnasium.wrappers.RecordVideo", "init_args": {"video_folder": "x"}}
    with pytest.raises(UsageError, match="--trust"):
        read(config(tmp_path, wrappers=[writes]))


@pytest.mark.slow
def test_a_run_with_a_process_for_each_environment_resumes(tmp_path: Path) -> None:
    ends = []
    for vec in ("dummy", "subproc"):
        folder = tmp_path / vec
        folder.mkdir()
        assert (
            main(["train", str(config(folder, vec=vec, n_envs=2)), "--total_timesteps", "8"]) == 0
        )
        assert main(["resume", str(folder / "run"), "--total_timesteps", "16"]) == 0
        ends.append(json.loads((folder / "run/evaluations.json").read_text())[-1]["returns"])
    assert ends[0] == ends[1]


# ---- failures ----------------------------------------------------------------------------------


def failing(kind: str) -> gym.Env:
    """CartPole that fails at its fourth step; defined here, processes get its code."""

    class Failing(gym.Wrapper):
        steps = 0

        def step(self, action: int) -> tuple[Any, Any, bool, bool, dict]:
            observation, _, *rest = self.env.step(action)
            self.steps += 1
            if self.steps == 4 and kind == "raises":
                raise OSError("the arm is stuck \udcff")
            if self.steps == 4 and kind == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            broken = self.steps == 4 and kind not in ("raises", "dies")
            wrong = {"nan": float("nan"), "text": "one", "rows": np.ones(3)}
            if broken and kind == "wide":
                observation = np.zeros(5)
            return observation, wrong.get(kind, 1.0) if broken else 1.0, *rest

    return Failing(gym.make("CartPole-v1"))


FAILURES = {
    "raises": "Broken-v0 raised OSError at step 4 of an episode: the arm is stuck",
    "nan": "Broken-v0: the reward at step 4 of the episode is not finite",
    "text": "Broken-v0: the reward at step 4 of the episode is no numbers",
    "rows": r"Broken-v0: the reward at step 4 of the episode has shape \(3,\)",
    "wide": r"Broken-v0: the observation at step 4 of the episode has shape \(5,\), \(4,\) was",
}


def broken(kind: str) -> gym.Env:
    return Monitor(Replayable(Watched(failing(kind), "Broken-v0")))


@pytest.mark.parametrize("kind", FAILURES)
def test_whatever_an_environment_does_is_said_with_its_name_and_step(kind: str) -> None:
    env = DummyVecEnv([partial(broken, kind)])
    env.reset()
    for _ in range(3):
        env.step(np.array([0]))
    with pytest.raises(EnvironmentFailure, match=FAILURES[kind]):
        env.step(np.array([0]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raises", "nan", "dies"])
def test_a_failure_in_a_process_loses_no_training(kind: str, tmp_path: Path) -> None:
    said = FAILURES.get(kind, "a process of Broken-v0 ended")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # processes cannot import tests
    env = Subprocesses([partial(broken, kind)] * 2, "Broken-v0")
    agent = DQN("MlpPolicy", env, learning_starts=2, buffer_size=50)
    checkpoints = Checkpoints(tmp_path, every=1_000)
    with pytest.raises(EnvironmentFailure, match=said) as raised:
        agent.learn(50, callback=checkpoints)
    assert ("the arm is stuck" in raised.value.traceback) == (kind == "raises")
    checkpoints.write_broken_off()
    other = DQN("MlpPolicy", DummyVecEnv([partial(broken, "")] * 2), buffer_size=50)
    with pytest.warns(UserWarning, match="new episodes start"):
        assert restore(other, tmp_path).num_timesteps == agent.num_timesteps > 0
    env.close()


def test_a_vector_environment_that_fails_is_named() -> None:
    class Nan(gym.vector.VectorWrapper):
        def step(self, actions: Any) -> Any:
            observations, rewards, *rest = self.env.step(actions)
            return observations, rewards * np.nan, *rest

    env = WatchedVector(Nan(gym.make_vec("CartPole-v1", 2, "sync")), "Broken-v0")
    env.reset()
    with pytest.raises(EnvironmentFailure, match="Broken-v0: a reward at step 1 of an episode"):
        env.step(np.array([0, 0]))


# ---- Ray ---------------------------------------------------------------------------------------


def mortal() -> gym.Env:
    """An environment whose process dies at action 1; defined here, Ray sends its code along."""

    class Mortal(gym.Env[np.ndarray, int]):
        observation_space = spaces.Box(-1, 100, (1,))
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
            super().reset(seed=seed)
            self.steps = 0
            return np.zeros(1, np.float32), {}

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
            if action:
                os.kill(os.getpid(), signal.SIGKILL)
            self.steps += 1
            return np.full(1, self.steps, np.float32), 1.0, self.steps == 5, False, {}

    return Monitor(Mortal())


@pytest.fixture
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_an_environment_that_dies_is_started_again_and_its_episode_truncated(
    ray: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    from ebrl.command.environments.ray_environments import RayVecEnv

    env = RayVecEnv([mortal] * 2)
    env.seed(0)
    assert env.reset().tolist() == [[0], [0]]
    env.step(np.array([0, 0]))
    seen, rewards, dones, infos = env.step(np.array([0, 1]))
    assert seen.tolist() == [[2], [0]]
    assert rewards.tolist() == [1, 0]
    assert dones.tolist() == [False, True]
    assert infos[1]["TimeLimit.truncated"]
    assert infos[1]["terminal_observation"].tolist() == [1]
    assert "environment 1 died; it is started again" in capfd.readouterr().err
    for _ in range(3):
        seen, rewards, dones, infos = env.step(np.array([0, 0]))
    assert seen.tolist() == [[0], [3]]
    assert dones.tolist() == [True, False]
    assert infos[0]["terminal_observation"].tolist() == [5]
    assert infos[0]["episode"]["r"] == 5
    assert env.env_is_wrapped(Monitor) == [True, True]
    env.close()
