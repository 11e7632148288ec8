"""What soft agents share: seeds, the temperature, optimisers, and what the logs mean."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from ebrl.agents import EnergyActorCritic, SoftQ, energy_actor_critic
from ebrl.agents.optimization import in_layout_of
from ebrl.agents.proposal import Divergence, reverse_kl
from ebrl.agents.soft_agent import Due, SoftAgent

TINY: dict[str, Any] = {"learning_starts": 20, "buffer_size": 200, "batch_size": 8, "seed": 1}
NETS: dict[str, Any] = {"net_arch": [8]}
Build = Callable[..., SoftAgent]


def continuous(**arguments: Any) -> EnergyActorCritic:
    arguments = {**TINY, "policy_kwargs": dict(NETS), "components": 2, **arguments}
    return EnergyActorCritic("MlpPolicy", "Pendulum-v1", **arguments)


def discrete(**arguments: Any) -> SoftQ:
    arguments = {**TINY, "policy_kwargs": dict(NETS), **arguments}
    return SoftQ("MlpPolicy", "CartPole-v1", **arguments)


both = pytest.mark.parametrize("build", [continuous, discrete], ids=["EnergyActorCritic", "SoftQ"])


def draws(agent: SoftAgent) -> np.ndarray:
    """Forty actions of the policy, each for one observation."""
    shape = agent.observation_space.shape
    assert shape is not None
    return agent.predict(np.full((40, *shape), 0.1, np.float32))[0]


# ---- optimisers -------------------------------------------------------------------------------


def from_its_own_vector(agent: SoftAgent) -> SoftAgent:
    agent.policy.load_from_vector(agent.policy.parameters_to_vector())
    return agent


def without_gradients(agent: SoftAgent) -> SoftAgent:
    agent.policy.zero_grad()
    return agent


@both
@pytest.mark.parametrize("call", [from_its_own_vector, without_gradients, copy.deepcopy])
def test_training_goes_on_after_calls_that_move_the_parameters(
    build: Build, call: Callable[[SoftAgent], SoftAgent]
) -> None:
    plain, other = build().learn(40), build().learn(40)
    other, before = call(other), plain.policy.parameters_to_vector()
    for agent in (plain, other):
        agent.set_random_seed(2)
        agent.learn(40, reset_num_timesteps=False)
    assert not np.array_equal(plain.policy.parameters_to_vector(), before)
    np.testing.assert_array_equal(
        other.policy.parameters_to_vector(), plain.policy.parameters_to_vector()
    )


class Frozen(FlattenExtractor):
    """A layer that is not trained."""

    def __init__(self, space: spaces.Space):
        super().__init__(space)
        self.layer = nn.Linear(self.features_dim, self.features_dim).requires_grad_(False)

    def forward(self, observations: Tensor) -> Tensor:
        return self.layer(super().forward(observations))


@both
def test_optimisers_are_the_users_and_leave_frozen_weights_alone(build: Build) -> None:
    chosen = {"optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}}
    agent = build(policy_kwargs={**NETS, **chosen, "features_extractor_class": Frozen})
    networks = [getattr(agent, name) for name in agent.trained]
    before = [network.features_extractor.layer.weight.clone() for network in networks]
    agent.learn(40)
    for network, frozen in zip(networks, before, strict=True):
        assert type(network.optimizer) is torch.optim.AdamW
        (group,) = network.optimizer.param_groups
        assert group["weight_decay"] == 0.1
        assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}
        assert torch.equal(network.features_extractor.layer.weight, frozen)


# ---- seeds ------------------------------------------------------------------------------------


@both
def test_a_seed_sets_the_agents_own_streams(build: Build) -> None:
    agent = build(seed=None)
    agent.set_random_seed(3)
    states = [generator.get_state() for generator in agent.generators.values()]
    assert len({tuple(state.tolist()) for state in states}) == len(states)
    first = draws(agent)
    agent.set_random_seed(3)
    np.testing.assert_array_equal(draws(agent), first)
    fresh = build(seed=3)
    fresh.policy.load_state_dict(agent.policy.state_dict())
    np.testing.assert_array_equal(draws(fresh), first)


@both
def test_a_policy_alone_draws_from_torchs_stream(build: Build, tmp_path: Path) -> None:
    build().policy.save(tmp_path / "policy")
    policy = type(build().policy).load(tmp_path / "policy")
    seen = np.zeros((20, *policy.observation_space.shape), np.float32)

    def drawn(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        return type(policy).load(tmp_path / "policy").predict(seen)[0]

    assert np.array_equal(drawn(1), drawn(1))
    assert not np.array_equal(drawn(1), drawn(2))


@both
def test_a_seed_given_to_load_wins_over_the_stored_streams(build: Build, tmp_path: Path) -> None:
    agent = build()
    agent.save(tmp_path / "agent")
    stored = draws(agent)
    np.testing.assert_array_equal(draws(type(agent).load(tmp_path / "agent")), stored)
    agent.set_random_seed(7)
    np.testing.assert_array_equal(draws(type(agent).load(tmp_path / "agent", seed=7)), draws(agent))
    anew = [draws(type(agent).load(tmp_path / "agent", seed=None)) for _ in range(2)]
    assert not np.array_equal(*anew)


# ---- the temperature ----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("before", [0.2, "auto"])
def test_a_temperature_given_to_load_wins_over_the_stored_one(
    build: Build, before: Any, tmp_path: Path
) -> None:
    agent = build(ent_coef=before).learn(40)
    agent.save(tmp_path / "agent")
    assert agent.policy.temperature != 0.9
    loaded = type(agent).load(tmp_path / "agent", env=agent.get_env(), ent_coef=0.9)
    assert loaded.policy.temperature.item() == pytest.approx(0.9)
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.policy.temperature.item() == pytest.approx(0.9)


@both
@pytest.mark.parametrize("fixed", [0.2, 0.0])
def test_tuning_starts_from_a_temperature_that_was_fixed(
    build: Build, fixed: float, tmp_path: Path
) -> None:
    agent = build(ent_coef=fixed).learn(40)
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", env=agent.get_env(), ent_coef="auto")
    assert torch.equal(loaded.policy.temperature, agent.policy.temperature)
    torch.testing.assert_close(loaded.log_ent_coef.exp()[0], agent.policy.temperature)
    assert loaded.ent_coef_optimizer.state_dict()["state"] == {}
    for mine, other in zip(loaded.policy.parameters(), agent.policy.parameters(), strict=True):
        assert torch.equal(mine, other)
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.policy.temperature != agent.policy.temperature
    loaded.save(tmp_path / "tuned")  # and goes on from there
    again = type(agent).load(tmp_path / "tuned")
    assert torch.equal(again.log_ent_coef, loaded.log_ent_coef)


@both
def test_parameters_of_another_agent_leave_the_temperature(build: Build) -> None:
    agent = build(ent_coef=0.2)
    agent.set_parameters(build(ent_coef=0.9, seed=2).get_parameters())
    assert agent.policy.temperature.item() == pytest.approx(0.2)


@both
@pytest.mark.parametrize("through", ["dict", "file"])
def test_a_temperature_that_comes_with_parameters_goes_on(
    build: Build, through: str, tmp_path: Path
) -> None:
    other = build(initial_ent_coef=4.0, seed=2)
    other.save(tmp_path / "other")
    agent = build()
    if through == "dict":
        agent.set_parameters(other.get_parameters())
    else:
        agent.set_parameters(tmp_path / "other", exact_match=False)
    assert agent.policy.temperature.item() == pytest.approx(4.0)
    agent.learn(30)
    assert agent.policy.temperature.item() == pytest.approx(4.0, rel=0.1)
    fixed = build(ent_coef=0.2)
    fixed.set_parameters(tmp_path / "other", exact_match=False)
    assert fixed.policy.temperature.item() == pytest.approx(0.2)


@both
@pytest.mark.parametrize("value", [math.inf, math.nan, -0.1, "auto_x", "auto_0", "auto0.5", "warm"])
def test_impossible_temperatures_are_refused(build: Build, value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected (initial_)?ent_coef"):
        build(ent_coef=value)


@both
@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0])
def test_impossible_starts_of_a_temperature_are_refused(build: Build, value: float) -> None:
    with pytest.raises(ValueError, match="expected initial_ent_coef finite and above 0"):
        build(initial_ent_coef=value)


@both
def test_a_target_entropy_that_is_no_number_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match=r"expected target_entropy .*, got 'foo'"):
        build(target_entropy="foo")


# ---- logs -------------------------------------------------------------------------------------


def test_the_logged_energy_and_soft_value_of_exact_sums() -> None:
    agent = discrete(ent_coef=0.5)
    agent.learn(20)
    batch = agent._transitions(agent.replay_buffer.sample(8))
    energies = agent.policy.energies(batch.observations)
    expected = (torch.softmax(-energies / 0.5, -1) * energies).sum(-1).mean()
    with torch.no_grad():
        after = -agent.critic_target(batch.next_observations).amax(0)
    logged = agent._update(batch, (), Due(policy=True, target=False))
    torch.testing.assert_close(logged["energy"], expected)
    torch.testing.assert_close(
        logged["soft_value"], 0.5 * torch.logsumexp(after / 0.5, -1).mean(), rtol=1e-4, atol=1e-6
    )


def test_the_logged_energy_and_entropy_of_a_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Divergence] = []

    def recorded(*arguments: Any) -> Divergence:
        found.append(reverse_kl(*arguments))
        return found[-1]

    monkeypatch.setattr(energy_actor_critic, "reverse_kl", recorded)
    agent = continuous(ent_coef=0.5, components=3)
    with torch.no_grad():  # so that the components' weights are far from equal
        agent.proposal.head.bias += torch.tensor([-1.0, 0, 4, 0, 0, 0, 1, 0, 0])
    agent.learn(20)
    batch = agent._transitions(agent.replay_buffer.sample(8))
    logged = agent._update(batch, agent._draw(8), Due(policy=True, target=False))
    divergence = found[-1].detached()
    expected = (divergence.weights * divergence.energies).sum(-1).mean()
    torch.testing.assert_close(logged["energy"], expected)
    assert logged["energy"] != divergence.energies.mean()
    torch.testing.assert_close(
        logged["actor_loss"], logged["energy"] - logged["ent_coef"] * logged["entropy"]
    )


@both
def test_the_log_is_named_after_the_class(build: Build, tmp_path: Path) -> None:
    agent = build(tensorboard_log=str(tmp_path))
    agent.learn(1)
    agent.learn(1, tb_log_name="other")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{type(agent).__name__}_1", "other_1"}


def test_a_fused_step_reads_a_gradient_of_another_layout_as_it_is_meant() -> None:
    gradient = torch.arange(12.0).view(3, 4)
    steps = []
    for layout in (gradient, gradient.T.contiguous().T):
        parameter = nn.Parameter(torch.zeros(3, 4))
        parameter.grad = in_layout_of(parameter, layout)
        torch.optim.SGD([parameter], lr=1.0, fused=True).step()
        steps.append(parameter.detach())
    assert torch.equal(steps[0], -gradient)
    assert torch.equal(steps[1], -gradient)


# ---- training that begins again -----------------------------------------------------------------


class Clock(gym.Env):
    """Observes the step of the episode, over ten; every reward is 1."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        shown = np.full(1, self.steps / 10, np.float32)
        return shown, 1.0, False, self.steps == 10, {}


def test_returns_do_not_reach_across_the_reset_of_another_training() -> None:
    agent = EnergyActorCritic("MlpPolicy", Clock(), n_steps=3, learning_starts=99, gamma=0.5)
    agent.learn(6).learn(4)  # the second one resets after the sixth step
    assert isinstance(agent.replay_buffer, NStepReplayBuffer)
    sample = agent.replay_buffer._get_samples(np.array([4]))
    assert sample.next_observations.item() == pytest.approx(0.6)
    assert sample.rewards.item() == pytest.approx(1 + 0.5)
    assert sample.dones.item() == 0
    agent.learn(2, reset_num_timesteps=False)  # goes on in the same episode
    sample = agent.replay_buffer._get_samples(np.array([8]))
    assert sample.next_observations.item() == pytest.approx(0.5)


# ---- options of optimisers ----------------------------------------------------------------------


class OwnAdam(torch.optim.Adam):
    """Passes its options on."""

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, **options)


def test_optimisers_get_the_options_that_they_take() -> None:
    def options(build: Build, kind: type, **given: Any) -> dict[str, Any]:
        chosen = {**NETS, "optimizer_class": kind, "optimizer_kwargs": given}
        group: dict[str, Any] = build(policy_kwargs=chosen).critic.optimizer.param_groups[0]
        return group

    assert options(continuous, OwnAdam)["betas"][0] == 0.5
    assert options(continuous, OwnAdam, betas=(0.7, 0.9))["betas"] == (0.7, 0.9)
    assert "betas" not in options(continuous, torch.optim.SGD)
    for build in (continuous, discrete):
        assert options(build, torch.optim.Adam)["fused"]
        assert options(build, torch.optim.Adam, foreach=True)["foreach"]


@both
def test_an_agent_of_a_fixed_temperature_takes_the_parameters_of_a_tuned_one(build: Build) -> None:
    tuned, fixed = build(ent_coef="auto"), build(ent_coef=0.3, seed=1)
    fixed.set_parameters(tuned.get_parameters())
    for mine, other in zip(fixed.policy.parameters(), tuned.policy.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_without_time_limits_another_training_writes_no_end() -> None:
    """Where transitions stand alone; it would be an end of the environment's."""
    plain = continuous(replay_buffer_kwargs={"handle_timeout_termination": False})
    plain.learn(25).learn(25)  # of an episode of 200
    assert plain.replay_buffer.dones.sum() == 0
    limited = continuous().learn(25).learn(25).replay_buffer
    assert limited.dones[24] == limited.timeouts[24] == 1 == limited.dones.sum()
