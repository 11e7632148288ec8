"""Demonstrations in and out of files, and cloning them: both of two modes, in their shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ebrl.agents import EnergyActorCritic, ImplicitCloning
from ebrl.agents.demonstrations import Demonstrations, fill, learn_offline, load, save
from ebrl.storage import StorageError


class Fork(gym.Env[np.ndarray, np.ndarray]):
    """One step: go left or right of an obstacle ahead, at x in [-1, 1]."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-2, 2, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(1, np.float32), float(abs(action[0]) > 0.5), True, False, {}


def forks(n: int = 2_000, right: float = 0.75) -> Demonstrations:
    """Demonstrations that go right in so many cases: around +1 or -1 with deviation .1."""
    random = np.random.default_rng(0)
    seen = random.uniform(-1, 1, (n, 1)).astype(np.float32)
    side = np.where(random.random((n, 1)) < right, 1.0, -1.0)
    actions = (side + 0.1 * random.standard_normal((n, 1))).astype(np.float32)
    no, yes = np.zeros(n, bool), np.ones(n, bool)
    return Demonstrations(seen, actions, np.ones(n, np.float32), np.zeros_like(seen), yes, no)


def cloning(**changes: Any) -> ImplicitCloning:
    options = {"components": 4, "candidates": 16, "learning_rate": 1e-2, "seed": 0, **changes}
    options["policy_kwargs"] = {"net_arch": [64, 64], **changes.get("policy_kwargs", {})}
    return ImplicitCloning("MlpPolicy", Fork(), batch_size=128, **options)


def test_an_energy_clones_both_modes_in_their_shares() -> None:
    agent = cloning(learning_rate=3e-3)
    fill(agent, forks())
    agent.learn(1_000)
    seen = np.linspace(-0.9, 0.9, 7, dtype=np.float32)
    sides = [(agent.sample_actions(one, 500) > 0).mean() for one in seen[:, np.newaxis]]
    assert abs(np.mean(sides) - 0.75) < 0.06  # learning: seeds differ by .03
    actions = agent.sample_actions(np.zeros(1, np.float32), 2_000)[:, 0]
    assert (np.abs(np.abs(actions) - 1) < 0.4).mean() > 0.98
    assert abs(actions[actions > 0].std() - 0.1) < 0.03
    everywhere = np.linspace(-1.99, 1.99, 200, dtype=np.float32)[:, np.newaxis]
    density = np.exp(-agent.energy(np.zeros(1, np.float32), everywhere).astype(float))
    near = np.abs(np.abs(everywhere[:, 0]) - 1) < 0.4
    assert density[near].sum() > 0.97 * density.sum()  # the energy knows what lies between, too


@pytest.mark.slow
def test_the_greedy_action_is_one_of_the_modes_and_a_gaussians_is_between() -> None:
    energy, gaussian = cloning(), cloning(components=1, acting_candidates=1, moves=0)
    for agent, hits in ((energy, True), (gaussian, False)):
        fill(agent, forks(right=0.5))
        agent.learn(200)
        action, _ = agent.predict(np.zeros(1, np.float32), deterministic=True)
        assert bool(abs(action[0]) > 0.5) == hits


@pytest.mark.slow
@pytest.mark.parametrize("side", [0.5, 1.0], ids=["inside", "at the bounds"])
def test_actions_that_repeat_exactly_are_cloned(side: float) -> None:
    """Their likelihood is unbounded, but for the smallest deviation of the proposal."""
    forked = forks(500, right=0.5)
    exact = forked._replace(actions=(2 * side * np.sign(forked.actions)).astype(np.float32))
    agent = cloning(acting_candidates=1, moves=0, candidates=1, learning_rate=3e-3)
    fill(agent, exact)
    agent.learn(500)
    seen = np.linspace(-1, 1, 20, dtype=np.float32)[:, np.newaxis]
    greedy, _ = agent.predict(seen, deterministic=True)
    assert np.abs(greedy) == pytest.approx(2 * side, abs=0.05)
    drawn = agent.sample_actions(seen, 50)
    assert np.abs(drawn) == pytest.approx(2 * side, abs=0.2)
    assert 0.3 < (drawn > 0).mean() < 0.7


def test_a_file_gives_the_agent_back(tmp_path: Path) -> None:
    agent = cloning()
    fill(agent, forks(200))
    agent.learn(5)
    agent.save(tmp_path / "agent")
    again = ImplicitCloning.load(tmp_path / "agent")
    seen = np.zeros(1, np.float32)
    assert np.array_equal(
        agent.predict(seen, deterministic=True)[0], again.predict(seen, deterministic=True)[0]
    )


def test_demonstrations_survive_a_file(tmp_path: Path) -> None:
    demonstrations = forks(50)
    save(tmp_path / "forks.npz", demonstrations)
    for one, other in zip(load(tmp_path / "forks.npz"), demonstrations, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_a_replay_holds_scaled_actions_and_knows_which_episodes_were_cut() -> None:
    agent = SAC("MlpPolicy", Fork(), buffer_size=100)
    demonstrations = forks(3)._replace(
        terminations=np.array([True, False, False]), truncations=np.array([False, True, False])
    )
    fill(agent, demonstrations)
    replay = agent.replay_buffer
    assert replay is not None
    assert replay.size() == 3
    assert np.allclose(replay.actions[:3, 0], demonstrations.actions / 2)
    bootstrapped = replay._get_samples(np.arange(3)).dones[:, 0].tolist()
    assert bootstrapped == [1.0, 0.0, 0.0]


def test_each_environment_has_a_stretch_of_the_recording() -> None:
    agent = SAC("MlpPolicy", DummyVecEnv([Fork, Fork]), buffer_size=100)
    demonstrations = forks(7)._replace(terminations=np.zeros(7, bool))
    fill(agent, demonstrations)
    replay = agent.replay_buffer
    assert replay is not None
    assert replay.pos == 3
    halves = demonstrations.observations[:6].reshape(2, 3).T
    assert np.array_equal(replay.observations[:3, :, 0], halves)
    # The agent's own steps follow: a stretch is cut where it ends.
    assert replay.dones[:3].tolist() == replay.timeouts[:3].tolist() == [[0, 0], [0, 0], [1, 1]]


class Screen(gym.Env[np.ndarray, int]):
    """Images, with their channels last."""

    observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = spaces.Discrete(2)


def test_images_have_their_channels_last_as_the_environment_gives_them() -> None:
    agent = DQN("CnnPolicy", Screen(), buffer_size=10)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 36, 40, 3), np.uint8)
    no, actions = np.zeros(4, bool), random.integers(0, 2, 4)
    fill(agent, Demonstrations(images, actions, np.zeros(4), images, no, no))
    replay = agent.replay_buffer
    assert replay is not None
    assert np.array_equal(replay.observations[:4, 0], images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("algorithm", [SAC, EnergyActorCritic])
def test_any_off_policy_agent_learns_offline_and_steps_no_environment(algorithm: Any) -> None:
    env = VecNormalize(DummyVecEnv([Fork]), norm_reward=False)
    agent = algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0)
    fill(agent, forks(300))
    before = agent.replay_buffer.size()
    learn_offline(agent, 7)
    assert agent.num_timesteps == agent._n_updates == 7
    assert agent.replay_buffer.size() == before
    assert env.obs_rms.mean == pytest.approx(forks(300).observations.mean(), abs=0.01)


def test_an_offline_dqn_updates_its_target() -> None:
    agent = DQN(
        "MlpPolicy", "CartPole-v1", target_update_interval=10, policy_kwargs={"net_arch": []}
    )
    seen, no = np.random.default_rng(0).uniform(-1, 1, (50, 4)), np.zeros(50, bool)
    fill(agent, Demonstrations(seen, np.zeros(50, int), np.ones(50), seen[::-1], no, no))
    before = [value.clone() for value in agent.q_net_target.parameters()]
    learn_offline(agent, 9)
    assert all(map(torch.equal, agent.q_net_target.parameters(), before))
    learn_offline(agent, 1)
    assert not any(map(torch.equal, agent.q_net_target.parameters(), before))


def test_each_training_has_a_log_of_its_own_whose_end_is_written(tmp_path: Path) -> None:
    for _ in range(2):
        agent = cloning(tensorboard_log=str(tmp_path))
        fill(agent, forks(200))
        agent.learn(3).learn(2, reset_num_timesteps=False)
        assert agent.num_timesteps == 5
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["ImplicitCloning_1", "ImplicitCloning_2"]
    events = EventAccumulator(str(tmp_path / names[0]))
    events.Reload()
    assert [each.step for each in events.Scalars("train/energy_loss")] == [3, 5]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": np.zeros((4, 2), np.float32)}, "expected actions of the environment's space"),
        ({"actions": np.full((4, 1), 3, np.float32)}, "expected actions in Box"),
        ({"rewards": np.zeros(3)}, "as many rows of each"),
        ({"observations": np.full((4, 1), np.nan)}, "expected finite observations"),
        ({"observations": np.full((4, 1), "left")}, "expected numbers in observations, got <U4"),
        ({"observations": {"x": np.zeros((4, 1))}}, "observations with one array, .* the keys x"),
        ({"rewards": np.zeros((4, 1))}, r"expected rewards of shape \(n,\), got \(4, 1\)"),
        ({"rewards": np.zeros(4, complex)}, "expected numbers in rewards, got complex128"),
    ],
)
def test_demonstrations_of_another_task_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StorageError, match=said):
        fill(cloning(), forks(4)._replace(**changes))


def test_what_is_no_demonstration_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", **{name: np.array([{}]) for name in Demonstrations._fields})
    (tmp_path / "text.npz").write_text("no zip")
    for name, said in [("other", "expected the arrays"), ("pickle", "npz"), ("text", "npz")]:
        with pytest.raises(StorageError, match=said):
            load(tmp_path / f"{name}.npz")
    save(tmp_path / "words.npz", forks(3)._replace(terminations=np.array(["no", "no", "yes"])))
    with pytest.raises(StorageError, match="expected true or false in terminations"):
        load(tmp_path / "words.npz")
    with pytest.raises(ValueError, match="expected demonstrations in the replay"):
        cloning().learn(1)
    with pytest.raises(StorageError, match="has room, got 11: raise buffer_size"):
        fill(cloning(buffer_size=10), forks(11))
    agent = cloning(buffer_size=10)
    fill(agent, forks(7))
    with pytest.raises(StorageError, match="expected 1 to 3 transitions, for which"):
        fill(agent, forks(4))
    with pytest.raises(ValueError, match="cloning keeps no running statistics"):
        cloning(policy_kwargs={"proposal_normalization": "batch"})
