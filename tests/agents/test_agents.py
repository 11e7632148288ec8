"""What Stable-Baselines3 asks of an off-policy algorithm, asked of every agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ebrl.agents import EnergyActorCritic, SoftQ

TINY: dict[str, Any] = {
    "learning_starts": 20,
    "buffer_size": 200,
    "batch_size": 8,
    "train_freq": 1,
    "seed": 3,
}
NETS: dict[str, Any] = {"net_arch": [8]}


class Case(NamedTuple):
    """An agent and worlds of its kind of action."""

    agent: type[OffPolicyAlgorithm]
    env_id: str
    wrong_env_id: str
    settings: dict[str, Any]

    def make(self, env: Any = None, policy: str = "MlpPolicy", **arguments: Any) -> Any:
        arguments = {**TINY, "policy_kwargs": dict(NETS), **self.settings, **arguments}
        return self.agent(policy, self.env_id if env is None else env, **arguments)

    @property
    def discrete(self) -> bool:
        return self.agent is SoftQ

    @property
    def metrics(self) -> set[str]:
        shared = {"critic_loss", "ent_coef", "entropy", "energy", "soft_value"}
        ours = set() if self.discrete else {"actor_loss", "mixture_perplexity"}
        return {f"train/{name}" for name in shared | ours}


CONTINUOUS = Case(EnergyActorCritic, "Pendulum-v1", "CartPole-v1", {"candidates": 3})
MIXTURE = CONTINUOUS._replace(
    settings={"candidates": 3, "components": 3, "moves": 2, "averaging": 0}
)
NORMALISED = CONTINUOUS._replace(
    settings={
        "candidates": 3,
        "normalization": "batch",
        "target": "none",
        "policy_delay": 2,
        "averaging": 0.1,
    }
)
DISCRETE = Case(SoftQ, "CartPole-v1", "Pendulum-v1", {})
MUNCHAUSEN = DISCRETE._replace(settings={"munchausen": 0.9, "ent_coef": 0.05})

agents = pytest.mark.parametrize(
    "case",
    [CONTINUOUS, NORMALISED, DISCRETE],
    ids=["EnergyActorCritic", "normalised", "SoftQ"],
)
variants = pytest.mark.parametrize(
    "case",
    [CONTINUOUS, MIXTURE, NORMALISED, DISCRETE, MUNCHAUSEN],
    ids=["EnergyActorCritic", "mixture", "normalised", "SoftQ", "Munchausen"],
)


def weights(model: OffPolicyAlgorithm) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same_weights(model: OffPolicyAlgorithm, other: dict[str, torch.Tensor]) -> None:
    ours = weights(model)
    assert set(ours) == set(other)
    different = [name for name in ours if not torch.equal(ours[name], other[name])]
    assert not different


def assert_has_learnt(model: OffPolicyAlgorithm, before: dict[str, torch.Tensor]) -> None:
    """Every trained network moved, its targets too, and all numbers are finite."""
    after = weights(model)
    assert model._n_updates > 0
    assert all(torch.isfinite(value).all() for value in after.values())
    for prefix in ("critic.", "critic_target."):
        names = [name for name in after if name.startswith(prefix)]
        assert not names or any(not torch.equal(after[name], before[name]) for name in names)


def observations(space: spaces.Space, number: int = 7) -> Any:
    space.seed(0)
    drawn = [space.sample() for _ in range(number)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in drawn]) for key in space}
    return np.stack(drawn)


def streams(model: Any) -> list[torch.Tensor]:
    """The states of every random stream that torch code could draw from."""
    own = [generator.get_state() for generator in model.generators.values()]
    return [torch.get_rng_state(), *own]


# ---- it runs --------------------------------------------------------------------------------


@variants
@pytest.mark.parametrize(
    "arguments",
    [
        {"n_steps": 3},
        {"train_freq": (1, "episode"), "gradient_steps": 2},
        {"train_freq": 4, "gradient_steps": -1},
        {"learning_rate": lambda left: 1e-3 * left, "optimize_memory_usage": True},
        {"policy_kwargs": {**NETS, "n_critics": 3, "activation_fn": torch.nn.SiLU}},
        {"policy_kwargs": {**NETS, "optimizer_class": torch.optim.RMSprop}},
    ],
    ids=["n_step", "episodes", "frequency", "schedule", "critics", "optimizer"],
)
def test_settings_of_stable_baselines3(case: Case, arguments: dict[str, Any]) -> None:
    if "optimize_memory_usage" in arguments:
        arguments = {**arguments, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    # an episode of Pendulum has 200 steps, and training waits for its end
    model = case.make(make_short(case.env_id), **arguments)
    before = weights(model)
    model.learn(60)
    assert_has_learnt(model, before)


def make_short(env_id: str) -> gym.Env:
    return gym.make(env_id, max_episode_steps=15)


@agents
def test_several_environments_normalised(case: Case) -> None:
    env = VecNormalize(make_vec_env(case.env_id, n_envs=2, seed=0))
    model = case.make(env, gradient_steps=2)
    before = weights(model)
    model.learn(80)
    assert_has_learnt(model, before)
    assert model.replay_buffer.n_envs == 2
    batch = observations(env.observation_space, 2)
    assert model.predict(batch)[0].shape == (2, *env.action_space.shape)


@agents
def test_dictionaries_of_observations(case: Case) -> None:
    env = SimpleMultiObsEnv(discrete_actions=case.discrete, channel_last=False)
    model = case.make(env, policy="MultiInputPolicy")
    before = weights(model)
    model.learn(40)
    assert_has_learnt(model, before)
    batch = observations(env.observation_space)
    assert model.predict(batch)[0].shape == (7, *env.action_space.shape)
    one = {key: value[0] for key, value in batch.items()}
    assert model.sample_actions(one, 4).shape == (4, *env.action_space.shape)


@agents
@pytest.mark.parametrize("channel_first", [False, True])
def test_images(case: Case, channel_first: bool) -> None:
    env = FakeImageEnv(
        action_dim=4,
        screen_height=36,
        screen_width=36,
        discrete=case.discrete,
        channel_first=channel_first,
    )
    model = case.make(env, policy="CnnPolicy", buffer_size=50)
    before = weights(model)
    model.learn(24)
    assert_has_learnt(model, before)
    batch = observations(env.observation_space)
    assert model.predict(batch)[0].shape == (7, *env.action_space.shape)


@agents
def test_hindsight_replay(case: Case) -> None:
    env = BitFlippingEnv(n_bits=4, continuous=not case.discrete, max_steps=4)
    model = case.make(
        env,
        policy="MultiInputPolicy",
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2},
    )
    before = weights(model)
    model.learn(60)
    assert_has_learnt(model, before)


@agents
def test_callbacks(case: Case, tmp_path: Path) -> None:
    evaluation = EvalCallback(
        Monitor(make_short(case.env_id)),
        n_eval_episodes=2,
        eval_freq=20,
        best_model_save_path=str(tmp_path / "best"),
        log_path=str(tmp_path),
        verbose=0,
    )
    checkpoints = CheckpointCallback(25, str(tmp_path / "every"))
    case.make().learn(50, callback=[evaluation, checkpoints])
    found = np.load(tmp_path / "evaluations.npz")
    assert found["timesteps"].tolist() == [20, 40]
    assert np.isfinite(found["results"]).all()
    assert len(list((tmp_path / "every").iterdir())) == 2
    assert case.agent.load(tmp_path / "best" / "best_model.zip").num_timesteps in (20, 40)


@variants
def test_tensorboard(case: Case, tmp_path: Path) -> None:
    model = case.make(make_short(case.env_id), tensorboard_log=str(tmp_path))
    model.learn(60, log_interval=1)
    (run,) = tmp_path.iterdir()
    assert run.name == f"{case.agent.__name__}_1"
    events = EventAccumulator(str(run))
    events.Reload()
    written = set(events.Tags()["scalars"])
    assert case.metrics | {"rollout/ep_rew_mean", "train/learning_rate"} <= written
    for name in case.metrics:
        assert np.isfinite([event.value for event in events.Scalars(name)]).all()


# ---- it is reproducible -----------------------------------------------------------------------


@variants
def test_the_same_seed_gives_the_same_weights(case: Case) -> None:
    first, second = (case.make().learn(60) for _ in range(2))
    assert_same_weights(second, weights(first))
    np.testing.assert_array_equal(first.replay_buffer.actions, second.replay_buffer.actions)
    other = case.make(seed=4).learn(60)
    assert not np.array_equal(first.replay_buffer.actions, other.replay_buffer.actions)


@variants
def test_greedy_prediction_draws_no_random_number(case: Case) -> None:
    model = case.make().learn(40)
    batch = observations(model.observation_space)
    before = streams(model)
    first, second = (model.predict(batch, deterministic=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before, streams(model), strict=True))


@variants
def test_sampled_prediction_draws_from_the_acting_stream_alone(case: Case) -> None:
    model = case.make().learn(40)
    batch = observations(model.observation_space)
    acting = model.generators["acting"]
    start = acting.get_state()
    untouched = [torch.get_rng_state(), np.random.get_state(legacy=False)]  # noqa: NPY002
    others = {name: g.get_state() for name, g in model.generators.items() if name != "acting"}
    first = model.predict(batch)[0]
    model.sample_actions(batch[0], 5)
    assert not torch.equal(acting.get_state(), start)
    assert torch.equal(torch.get_rng_state(), untouched[0])
    now = np.random.get_state(legacy=False)  # noqa: NPY002
    np.testing.assert_equal(now, untouched[1])
    for name, state in others.items():
        assert torch.equal(model.generators[name].get_state(), state)
    acting.set_state(start)
    np.testing.assert_array_equal(model.predict(batch)[0], first)


class Look(BaseCallback):
    """Asks for greedy actions while the agent learns."""

    def _on_step(self) -> bool:
        self.model.predict(observations(self.training_env.observation_space), deterministic=True)
        return True


@variants
def test_looking_at_greedy_actions_does_not_change_the_training(case: Case) -> None:
    plain, watched = case.make().learn(60), case.make().learn(60, callback=Look())
    assert_same_weights(watched, weights(plain))


# ---- it is kept -------------------------------------------------------------------------------


@variants
def test_saved_and_loaded_it_predicts_the_same(case: Case, tmp_path: Path) -> None:
    model = case.make().learn(60)
    batch = observations(model.observation_space)
    greedy = model.predict(batch, deterministic=True)[0]
    model.save(tmp_path / "agent")
    loaded = case.agent.load(tmp_path / "agent")
    np.testing.assert_array_equal(loaded.predict(batch, deterministic=True)[0], greedy)
    assert_same_weights(loaded, weights(model))
    assert torch.equal(loaded.policy.temperature, model.policy.temperature)
    if model.ent_coef == "auto":
        assert torch.equal(loaded.log_ent_coef, model.log_ent_coef)
        (ours,), (theirs,) = (
            one.ent_coef_optimizer.state_dict()["state"].values() for one in (loaded, model)
        )
        assert torch.equal(ours["exp_avg_sq"], theirs["exp_avg_sq"])
    assert loaded.num_timesteps == 60
    energies = [one.energy(batch[0], actions(case, model)) for one in (model, loaded)]
    np.testing.assert_array_equal(*energies)


def actions(case: Case, model: OffPolicyAlgorithm) -> np.ndarray:
    return np.array([0, 1, 1]) if case.discrete else observations(model.action_space, 3)


@variants
def test_a_loaded_agent_goes_on_learning(case: Case, tmp_path: Path) -> None:
    model = case.make().learn(60)
    model.save(tmp_path / "agent")
    loaded = case.agent.load(tmp_path / "agent", env=gym.make(case.env_id))
    before, temperature = weights(loaded), loaded.policy.temperature.clone()
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps == 100
    assert_has_learnt(loaded, before)
    if loaded.ent_coef == "auto":  # the optimiser's tensor and the policy's still agree
        assert not torch.equal(loaded.policy.temperature, temperature)
        torch.testing.assert_close(loaded.log_ent_coef.exp()[0].detach(), loaded.policy.temperature)


@agents
def test_dictionaries_are_kept_too(case: Case, tmp_path: Path) -> None:
    env = SimpleMultiObsEnv(discrete_actions=case.discrete)
    model = case.make(env, policy="MultiInputPolicy").learn(30)
    model.save(tmp_path / "agent")
    loaded = case.agent.load(tmp_path / "agent", env=env)
    batch = observations(model.observation_space)
    np.testing.assert_array_equal(
        loaded.predict(batch, deterministic=True)[0], model.predict(batch, deterministic=True)[0]
    )


# ---- it refuses -------------------------------------------------------------------------------


@agents
def test_wrong_action_spaces_are_refused(case: Case) -> None:
    with pytest.raises(AssertionError, match="action spaces"):
        case.make(case.wrong_env_id)


@agents
def test_a_batch_of_observations_is_one_after_the_other(case: Case) -> None:
    model = case.make()
    batch = observations(model.observation_space)
    drawn = model.sample_actions(batch, 3)  # (batch, 3, ...)
    assert drawn.shape == (len(batch), *model.sample_actions(batch[0], 3).shape)
    energies = model.energy(batch, drawn)
    assert energies.shape == drawn.shape[:2]
    each = [model.energy(one, some) for one, some in zip(batch, drawn, strict=True)]
    np.testing.assert_allclose(energies, each, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=f"expected actions of shape \\({len(batch)}, "):
        model.energy(batch, drawn[0])


@agents
def test_the_energy_of_one_action_is_one_number(case: Case) -> None:
    model = case.make()
    observation = observations(model.observation_space)[0]
    action, _ = model.predict(observation)
    assert model.energy(observation, action).shape == ()
    (same,) = model.energy(observation, np.asarray(action)[None])
    assert model.energy(observation, action) == pytest.approx(same, abs=1e-6)
