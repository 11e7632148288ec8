"""Agents as files: what is saved comes back, and what a file cannot hold is asked for."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load as load_safetensors
from saved_agents import (
    TINY,
    SavedDQN,
    SavedSAC,
    assert_same,
    cartpole,
    observations,
    pendulum,
    schedule,
)
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from stable_baselines3.her import GoalSelectionStrategy, HerReplayBuffer
from torch import nn

from ebrl import storage
from ebrl.agents import EnergyActorCritic
from ebrl.agents.checkpoints import restore, save_checkpoint
from ebrl.agents.environments import seen_by
from ebrl.agents.replayable import Replayable
from ebrl.storage import StorageError


class SimpleLinearSchedule:
    """As `rl_zoo3.utils` has it."""

    __module__ = "rl_zoo3.utils"

    def __init__(self, initial_value: float) -> None:
        self.initial_value = initial_value

    def __call__(self, remaining: float) -> float:
        return remaining * self.initial_value


# ---- what is saved comes back ----------------------------------------------------------------


def test_an_agent_comes_back_without_its_environment(tmp_path: Path) -> None:
    model = pendulum().learn(60)
    model.generators["acting"].manual_seed(5)
    torch.rand(3, generator=model.generators["acting"])
    model.save(tmp_path / "pendulum")
    assert [path.name for path in tmp_path.iterdir()] == ["pendulum.zip"]

    loaded = SavedSAC.load(str(tmp_path / "pendulum"))
    seen = observations(model.observation_space)
    np.testing.assert_array_equal(
        model.predict(seen, deterministic=True)[0], loaded.predict(seen, deterministic=True)[0]
    )
    assert_same(model.get_parameters(), loaded.get_parameters())
    assert_same(model.log_ent_coef.detach(), loaded.log_ent_coef.detach())
    assert (loaded.num_timesteps, loaded._n_updates) == (60, model._n_updates)
    assert (loaded.observation_space, loaded.action_space) == (
        model.observation_space,
        model.action_space,
    )
    assert loaded.policy_kwargs["activation_fn"] is nn.Tanh
    assert torch.equal(
        torch.rand(4, generator=loaded.generators["acting"]),
        torch.rand(4, generator=model.generators["acting"]),
    )


def test_an_agent_goes_on_learning_as_the_one_that_was_saved(tmp_path: Path) -> None:
    model = cartpole().learn(60)
    model.save(tmp_path / "cartpole.zip")
    loaded = SavedDQN.load(tmp_path / "cartpole.zip", env=gym.make("CartPole-v1"))
    again = SavedDQN.load(tmp_path / "cartpole.zip", env=gym.make("CartPole-v1"))
    assert loaded.exploration_rate == model.exploration_rate
    for one in (loaded, again):
        one.set_random_seed(4)
        one.learn(40, reset_num_timesteps=False)
        assert one.num_timesteps == 100
    assert_same(loaded.get_parameters(), again.get_parameters())


@pytest.mark.parametrize(
    "arguments",
    [
        {"train_freq": (2, "step"), "gradient_steps": 2, "tau": 0.5},
        {"n_steps": 3},
        {"ent_coef": 0.2},
        {"ent_coef": "auto_0.1", "target_entropy": -2.0},
        {"stats_window_size": 7, "verbose": 0, "gamma": 0.5},
        {"policy_kwargs": {"features_extractor_class": FlattenExtractor, "net_arch": [8, 8]}},
        {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "net_arch": {"pi": [4], "qf": [5]}}},
        {"use_sde": True},
    ],
)
def test_constructor_arguments_come_back(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = pendulum(**arguments).learn(30)
    model.save(tmp_path / "a")
    loaded = SavedSAC.load(tmp_path / "a", env=gym.make("Pendulum-v1"))
    for name in ("train_freq", "gradient_steps", "tau", "n_steps", "ent_coef", "target_entropy"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded._stats_window_size == model._stats_window_size
    assert loaded.policy_kwargs == model.policy_kwargs
    assert type(loaded.replay_buffer) is type(model.replay_buffer)
    assert_same(model.get_parameters(), loaded.get_parameters())
    loaded.learn(30)


@pytest.mark.parametrize("n_steps", [1, 2])
@pytest.mark.parametrize("chosen", [{"n_steps": 3, "gamma": 0.9}, {}])
@pytest.mark.filterwarnings("ignore:.*a custom `replay_buffer_class`")
def test_a_replay_of_returns_that_was_chosen_comes_back(
    n_steps: int, chosen: dict[str, Any], tmp_path: Path
) -> None:
    model = pendulum(
        n_steps=n_steps, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=chosen
    )
    model.save(tmp_path / "a")
    loaded = SavedSAC.load(tmp_path / "a")
    assert type(loaded.replay_buffer) is NStepReplayBuffer
    for name in ("n_steps", "gamma"):
        assert getattr(loaded.replay_buffer, name) == getattr(model.replay_buffer, name)


@pytest.mark.filterwarnings("ignore:.*a custom `replay_buffer_class`")
def test_a_plain_replay_that_was_chosen_comes_back(tmp_path: Path) -> None:
    pendulum(n_steps=2, replay_buffer_class=ReplayBuffer).save(tmp_path / "a")
    assert type(SavedSAC.load(tmp_path / "a").replay_buffer) is ReplayBuffer


class PassingOn(SavedSAC):
    """Takes whatever its parent takes, and one thing more."""

    def __init__(self, *args: Any, bonus: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.bonus = bonus


def test_a_subclass_that_passes_its_arguments_on(tmp_path: Path) -> None:
    model = PassingOn("MlpPolicy", "Pendulum-v1", bonus=0.5, gamma=0.7, **TINY)
    model.save(tmp_path / "a")
    loaded = PassingOn.load(tmp_path / "a", tau=0.1)
    assert (loaded.bonus, loaded.gamma, loaded.tau) == (0.5, 0.7, 0.1)
    assert_same(loaded.get_parameters(), model.get_parameters())
    with pytest.raises(TypeError, match="unknown argument 'gama'; did you mean 'gamma'"):
        PassingOn.load(tmp_path / "a", gama=0.5)


def test_dictionary_and_image_observations(tmp_path: Path) -> None:
    for policy, env in (
        ("MultiInputPolicy", SimpleMultiObsEnv()),
        ("CnnPolicy", FakeImageEnv(screen_height=36, screen_width=36)),
    ):
        model = SavedDQN(policy, env, **TINY)
        model.save(tmp_path / policy)
        loaded = SavedDQN.load(tmp_path / policy)
        seen = observations(env.observation_space)
        np.testing.assert_array_equal(
            model.predict(seen, deterministic=True)[0], loaded.predict(seen, deterministic=True)[0]
        )


def test_hindsight_replay(tmp_path: Path) -> None:
    env = BitFlippingEnv(n_bits=4, continuous=True, max_steps=4)
    goals = {"n_sampled_goal": 2, "goal_selection_strategy": GoalSelectionStrategy.FINAL}
    chosen = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": goals}
    SavedSAC("MultiInputPolicy", env, **TINY, **chosen).save(tmp_path / "her")
    loaded = SavedSAC.load(tmp_path / "her", env=env)
    assert isinstance(loaded.replay_buffer, HerReplayBuffer)
    assert loaded.replay_buffer.n_sampled_goal == 2
    assert loaded.replay_buffer.goal_selection_strategy is GoalSelectionStrategy.FINAL
    blind = SavedSAC.load(tmp_path / "her")
    blind.predict(observations(env.observation_space))
    with pytest.raises(ValueError, match=r"give it when loading: load\(path, env=env\)"):
        blind.set_env(env)


def test_arguments_replace_stored_ones(tmp_path: Path) -> None:
    pendulum().save(tmp_path / "a")
    assert SavedSAC.load(tmp_path / "a", gamma=0.5, learning_rate=schedule).gamma == 0.5
    with pytest.raises(TypeError, match="unknown argument 'gama'; did you mean 'gamma'"):
        SavedSAC.load(tmp_path / "a", gama=0.5)


def test_options_of_the_optimisers_can_be_replaced(tmp_path: Path) -> None:
    options = {**TINY, "policy_kwargs": {"net_arch": [8]}}
    agent = EnergyActorCritic("MlpPolicy", "Pendulum-v1", **options).learn(30)
    agent.save(tmp_path / "a")
    changes: dict[str, Any]
    for changes, beta in (({}, 0.5), ({"adam_beta1": 0.9}, 0.9)):
        optimizer = EnergyActorCritic.load(tmp_path / "a", **changes).critic.optimizer
        assert optimizer.param_groups[0]["betas"] == (beta, 0.999)
        assert optimizer.state_dict()["state"]  # the moments are there


def test_noise_of_several_environments_fits_another_number(tmp_path: Path) -> None:
    noise = NormalActionNoise(np.zeros(1), np.ones(1))
    envs = make_vec_env("Pendulum-v1", 3)
    SavedSAC("MlpPolicy", envs, action_noise=noise, **TINY).learn(30).save(tmp_path / "a")
    loaded = SavedSAC.load(tmp_path / "a", env=make_vec_env("Pendulum-v1", 2))
    loaded.learn(10, reset_num_timesteps=False)
    assert len(loaded.action_noise.noises) == 2


def test_evaluation_callback_saves_the_best(tmp_path: Path) -> None:
    best = EvalCallback(
        Monitor(gym.make("CartPole-v1")),
        n_eval_episodes=1,
        eval_freq=20,
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    cartpole().learn(40, callback=best)
    assert SavedDQN.load(tmp_path / "best_model").num_timesteps in (20, 40)


def test_the_file_is_safetensors_in_a_zip(tmp_path: Path) -> None:
    model = pendulum()
    model.save(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        tensors = load_safetensors(archive.read(storage.ENTRY))
    assert any(torch.equal(one, model.actor.mu.weight) for one in tensors.values())
    facts = storage.load(tmp_path / "a.zip").facts
    assert (facts["kind"], facts["algorithm"]) == ("agent", "SavedSAC")


class OfAConfig(int):
    """An integer as a parser of configs gives it."""


def test_numbers_of_a_config_come_back_as_plain_ones(tmp_path: Path) -> None:
    pendulum(seed=OfAConfig(3), policy_kwargs={"net_arch": [OfAConfig(8)]}).save(tmp_path / "a")
    loaded = SavedSAC.load(tmp_path / "a")
    assert (type(loaded.seed), loaded.seed) == (int, 3)
    assert loaded.policy_kwargs["net_arch"] == [8]
    assert type(loaded.policy_kwargs["net_arch"][0]) is int


SCHEDULES = [LinearSchedule(1e-3, 1e-5, 0.5), ConstantSchedule(1e-3), SimpleLinearSchedule(2e-3)]


@pytest.mark.parametrize("given", [*SCHEDULES, FloatSchedule(SCHEDULES[0])])
def test_schedules_come_back_by_themselves(given: Any, tmp_path: Path) -> None:
    pendulum(learning_rate=given).save(tmp_path / "a")
    loaded = SavedSAC.load(tmp_path / "a").lr_schedule
    for remaining in (1.0, 0.7, 0.3, 0.0):
        assert loaded(remaining) == pytest.approx(given(remaining), rel=1e-12)


def test_action_noises_come_back_by_themselves(tmp_path: Path) -> None:
    mean, deviation = np.array([0.1]), np.array([0.2])
    for noise in (
        NormalActionNoise(mean, deviation, dtype=np.float64),
        OrnsteinUhlenbeckActionNoise(mean, deviation, theta=0.3, dt=0.1, initial_noise=mean),
    ):
        pendulum(action_noise=noise).save(tmp_path / "a")
        loaded = SavedSAC.load(tmp_path / "a").action_noise
        np.random.seed(0)  # noqa: NPY002, the stream that these draw from
        expected = [noise() for _ in range(3)]
        np.random.seed(0)  # noqa: NPY002
        np.testing.assert_array_equal([loaded() for _ in range(3)], expected)


class Forgetful(SavedSAC):
    """Takes an argument that it does not keep."""

    def __init__(self, *args: Any, bonus: float, **kwargs: Any):
        super().__init__(*args, **kwargs)


def test_an_argument_that_is_no_attribute_is_named_and_given_again(tmp_path: Path) -> None:
    model = Forgetful("MlpPolicy", "Pendulum-v1", bonus=0.5, **TINY)
    with pytest.warns(UserWarning, match="a file cannot hold bonus; give it to load again"):
        model.save(tmp_path / "a")
    with pytest.raises(StorageError, match=r"cannot hold bonus=.*load\(\.\.\., bonus=\.\.\.\)"):
        Forgetful.load(tmp_path / "a")
    assert_same(Forgetful.load(tmp_path / "a", bonus=0.5).get_parameters(), model.get_parameters())


@pytest.mark.parametrize("number", [7, 0.5, -math.inf, np.int64(7), np.float32(0.5)])
def test_a_private_number_that_a_callback_left_comes_back(number: Any, tmp_path: Path) -> None:
    model = cartpole()
    model._seen = number
    model._n_updates = np.int64(3)
    model.save(tmp_path / "a")
    again = SavedDQN.load(tmp_path / "a")
    assert (again._seen, again._n_updates) == (number, 3)


def test_environments_may_count_themselves_in_numpy(tmp_path: Path) -> None:
    class Counted(VecEnvWrapper):
        def reset(self) -> VecEnvObs:
            self.num_envs = np.int64(self.num_envs)
            return self.venv.reset()

        def step_wait(self) -> VecEnvStepReturn:
            return self.venv.step_wait()

    def environments() -> VecEnv:
        counted = Counted(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2))
        counted.reset()
        return counted

    model = SavedDQN("MlpPolicy", environments(), **TINY).learn(30)
    assert isinstance(model.num_timesteps, np.integer)
    model.save(tmp_path / "a")
    assert SavedDQN.load(tmp_path / "a", env=environments()).num_timesteps == model.num_timesteps
    save_checkpoint(tmp_path / "run.zip", model)
    fresh = SavedDQN("MlpPolicy", environments(), **TINY)
    with pytest.warns(UserWarning, match="new episodes start"):
        restored = restore(fresh, tmp_path / "run.zip")
    assert restored.num_timesteps == model.num_timesteps


def test_a_stream_holds_an_agent() -> None:
    model, stream = cartpole(), io.BytesIO()
    model.save(stream)
    assert_same(SavedDQN.load(stream).get_parameters(), model.get_parameters())
    with pytest.raises(StorageError, match="the stream: expected SavedSAC, got SavedDQN"):
        SavedSAC.load(stream)


def test_parameters_are_set_from_a_file(tmp_path: Path) -> None:
    model, other = pendulum(), pendulum(seed=2)
    with torch.no_grad():
        model.log_ent_coef.fill_(-1.5)
    model.save(tmp_path / "a")
    other.set_parameters(tmp_path / "a")
    assert_same(model.get_parameters(), other.get_parameters())
    assert other.log_ent_coef.item() == -1.5
    with pytest.raises(StorageError, match="expected a tensor of shape"):
        pendulum(policy_kwargs={"net_arch": [9]}).set_parameters(tmp_path / "a")


def test_arguments_are_left_out_and_kept_as_the_caller_says(tmp_path: Path) -> None:
    model = cartpole(gamma=0.5)
    model.save(tmp_path / "a", exclude=["gamma", "verbose"])
    assert SavedDQN.load(tmp_path / "a").gamma == 0.99
    model.save(tmp_path / "a", exclude=["gamma"], include=["gamma", "num_timesteps"])
    assert SavedDQN.load(tmp_path / "a").gamma == 0.5
    with pytest.raises(ValueError, match="got 'replay_buffer', which no file holds"):
        model.save(tmp_path / "a", include=["replay_buffer"])


def test_custom_objects_replace_what_they_name(tmp_path: Path) -> None:
    cartpole().save(tmp_path / "a")
    custom = {"learning_rate": 0.25, "lr_schedule": schedule, "clip_range": schedule}
    loaded = SavedDQN.load(tmp_path / "a", custom_objects=custom, force_reset=False)
    assert loaded.lr_schedule(1.0) == 0.25
    wide = spaces.Box(-np.inf, np.inf, (4,))
    custom = {"observation_space": wide}
    assert SavedDQN.load(tmp_path / "a", custom_objects=custom).observation_space == wide


def test_the_versions_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cartpole().save(tmp_path / "a")
    SavedDQN.load(tmp_path / "a", print_system_info=True)
    said = capsys.readouterr().out
    assert "CURRENT SYSTEM INFO" in said
    assert said.count(f"PyTorch: {torch.__version__}") == 2


class InADict(gym.ObservationWrapper):
    """Observations under two keys."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict(
            {"place": spaces.Box(-9, 9, (2,)), "speed": spaces.Box(-9, 9, (2,))}
        )

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {"place": observation[::2], "speed": observation[1::2]}


@pytest.mark.parametrize("keys", [None, ["speed"]])
def test_running_statistics_come_with_the_agent(keys: list[str] | None, tmp_path: Path) -> None:
    plain = DummyVecEnv([lambda: (InADict if keys else gym.Wrapper)(gym.make("CartPole-v1"))])
    policy = "MultiInputPolicy" if keys else "MlpPolicy"
    around = VecNormalize(plain, norm_obs_keys=keys, clip_obs=2.0, clip_reward=np.inf)
    model = SavedDQN(policy, around, **TINY).learn(30)
    model.save(tmp_path / "a")

    seen = around.get_original_obs()
    blind = SavedDQN.load(tmp_path / "a")
    assert_same(blind.normalize_observation(seen), around.normalize_obs(seen))
    loaded = SavedDQN.load(tmp_path / "a", env=plain)
    assert_same(loaded.get_vec_normalize_env().normalize_obs(seen), around.normalize_obs(seen))
    assert_same(loaded.get_vec_normalize_env().ret_rms.mean, around.ret_rms.mean)
    blind.set_env(plain)
    assert_same(blind.get_vec_normalize_env().normalize_obs(seen), around.normalize_obs(seen))
    own = VecNormalize(plain, norm_obs_keys=keys)
    assert SavedDQN.load(tmp_path / "a", env=own).get_vec_normalize_env() is own
    blind.save(tmp_path / "b")  # and they stay with it
    assert_same(SavedDQN.load(tmp_path / "b").statistics, blind.statistics)


def test_without_statistics_observations_stay_as_they_are(tmp_path: Path) -> None:
    cartpole().save(tmp_path / "a")
    seen = observations(cartpole().observation_space)
    assert SavedDQN.load(tmp_path / "a").normalize_observation(seen) is seen


def test_images_inside_a_normaliser_are_seen_with_their_channels_first() -> None:
    plain = DummyVecEnv([lambda: FakeImageEnv(screen_height=36, screen_width=36)])
    inside = VecTransposeImage(plain)
    around = VecNormalize(inside)
    kwargs = {"normalize_images": False}
    agent = SavedDQN("CnnPolicy", around, policy_kwargs=kwargs, **TINY)
    around.reset()
    shown = plain.reset()  # (1, 36, 36, 1)
    expected = around.normalize_obs(inside.transpose_observations(shown))
    assert expected.shape == (1, 1, 36, 36)
    assert_same(seen_by(agent, shown), expected)
    assert_same(agent.normalize_observation(shown), expected)
    assert_same(seen_by(agent, shown[0]), expected[0])


# ---- parts of an observation, in an order of their own ------------------------------------------


class InOrder(gym.Env):
    """Observations under two keys that are not in the order of the alphabet."""

    def __init__(self, keys: tuple[str, str] = ("speed", "place")) -> None:
        self.observation_space = spaces.Dict([(key, spaces.Box(-1, 1, (2,))) for key in keys])
        self.action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        return self._seen(), 0.0, False, bool(self.np_random.random() < 0.1), {}

    def _seen(self) -> dict[str, np.ndarray]:
        shown = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return {"speed": shown[:2], "place": shown[2:]}


def test_a_dictionary_keeps_its_order(tmp_path: Path) -> None:
    agent = EnergyActorCritic("MultiInputPolicy", InOrder(), seed=0, buffer_size=50)
    agent.save(tmp_path / "a")
    seen = {"speed": np.ones(2, np.float32), "place": np.zeros(2, np.float32)}
    expected, _ = agent.predict(seen, deterministic=True)
    for env in (None, InOrder(), InOrder(("place", "speed"))):
        loaded = EnergyActorCritic.load(tmp_path / "a", env=env)
        assert list(loaded.observation_space) == ["speed", "place"]
        np.testing.assert_array_equal(loaded.predict(seen, deterministic=True)[0], expected)


def test_a_checkpoint_of_another_order_is_refused(tmp_path: Path) -> None:
    made: dict[str, Any] = {"seed": 0, "buffer_size": 50, "learning_starts": 1_000}
    agent = EnergyActorCritic("MultiInputPolicy", Replayable(InOrder()), **made).learn(12)
    save_checkpoint(tmp_path / "a.zip", agent)
    other = EnergyActorCritic("MultiInputPolicy", Replayable(InOrder(("place", "speed"))), **made)
    with pytest.raises(StorageError, match=r"in the order \['place', 'speed'\]"):
        restore(other, tmp_path / "a.zip")


# ---- the average of a proposal, and the scale of rewards ----------------------------------------


def energy_agent(**arguments: Any) -> EnergyActorCritic:
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "buffer_size": 200, "seed": 0}
    return EnergyActorCritic("MlpPolicy", "Pendulum-v1", **{**small, **arguments})


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_agents_that_average_and_others_take_each_others_weights(
    share: float, tmp_path: Path
) -> None:
    stored = energy_agent(averaging=share, batch_size=8, learning_starts=20).learn(40)
    stored.save(tmp_path / "a")
    seen = np.eye(3, dtype=np.float32)
    loaded = EnergyActorCritic.load(tmp_path / "a", averaging=0.2 - share)
    from_file, from_dict, loose = (energy_agent(averaging=0.2 - share, seed=3) for _ in range(3))
    from_file.set_parameters(tmp_path / "a")
    from_dict.set_parameters(stored.get_parameters())
    loose.set_parameters(tmp_path / "a", exact_match=False)
    newest = EnergyActorCritic.load(tmp_path / "a", averaging=0)
    expected, _ = newest.predict(seen, deterministic=True)
    for agent in (loaded, from_file, from_dict, loose):
        assert_same(agent.policy.proposal.state_dict(), stored.policy.proposal.state_dict())
        np.testing.assert_array_equal(agent.predict(seen, deterministic=True)[0], expected)


def test_rewards_are_scaled_on_as_the_critics_that_were_set(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"scale_rewards": True, "batch_size": 8, "learning_starts": 20}
    stored = energy_agent(**arguments).learn(60)
    stored.save(tmp_path / "a")
    scale = float(stored.critic.output_scale)
    other, loose = energy_agent(**arguments), energy_agent(**arguments)
    other.set_parameters(stored.get_parameters())
    loose.set_parameters(tmp_path / "a", exact_match=False)
    for agent in (other, loose):
        assert agent.returns is not None
        assert agent.returns.scale() == pytest.approx(scale, rel=1e-6)
        agent.learn(1)
        assert agent.returns.scale() == pytest.approx(scale, rel=0.01)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.Adafactor, {}),
        (torch.optim.Rprop, {}),
        (torch.optim.SGD, {"dampening": -0.1}),
    ],
)
def test_agents_with_other_optimisers_come_back(
    optimizer: type, options: dict[str, Any], tmp_path: Path
) -> None:
    chosen = {"net_arch": [8], "optimizer_class": optimizer, "optimizer_kwargs": options}
    agent = energy_agent(policy_kwargs=chosen, batch_size=8, learning_starts=10).learn(20)
    agent.save(tmp_path / "a")
    loaded = EnergyActorCritic.load(tmp_path / "a", env=gym.make("Pendulum-v1"))
    assert_same(loaded.get_parameters(), agent.get_parameters())
