"""EnergyActorCritic: its step size, energies of actions, what it refuses."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ebrl.agents import EnergyActorCritic
from ebrl.agents.energy_actor_critic import UpdateNoise
from ebrl.agents.scaled_rewards import RunningReturns
from ebrl.agents.soft_agent import Due, Transitions

TINY: dict[str, Any] = {"learning_starts": 20, "buffer_size": 200, "batch_size": 8, "seed": 1}


def build(env: gym.Env | str = "Pendulum-v1", **arguments: Any) -> EnergyActorCritic:
    arguments = {**TINY, "policy_kwargs": {"net_arch": [8]}, **arguments}
    return EnergyActorCritic("MlpPolicy", env, **arguments)


# ---- the step size ----------------------------------------------------------------------------


def test_predicting_leaves_the_step_size_alone() -> None:
    agent = build(moves=3).learn(40)
    adaptation = agent.policy.sampler.adaptation
    assert adaptation is not None
    before = {name: value.clone() for name, value in adaptation.state_dict().items()}
    assert before["updates"] == 60  # three moves of each of 20 actions
    agent.predict(np.zeros((16, 3), np.float32))
    agent.sample_actions(np.zeros(3, np.float32), 5)
    assert all(torch.equal(v, before[name]) for name, v in adaptation.state_dict().items())


class Draw(BaseCallback):
    """Asks for random actions while the agent learns."""

    def _on_step(self) -> bool:
        self.model.predict(np.full((8, 3), 5.0, np.float32))
        return True


def test_only_acting_adapts_while_training() -> None:
    adaptation = build(moves=3).learn(40, callback=Draw()).policy.sampler.adaptation
    assert adaptation is not None
    assert adaptation.updates == 60


# ---- energies of actions ----------------------------------------------------------------------


class Shaped(gym.Env):
    """Actions of any shape; an episode is one step."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, *shape: int):
        self.action_space = spaces.Box(-2.0, 2.0, shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple:
        assert action.shape == self.action_space.shape
        return np.zeros(1, np.float32), -float(np.square(action).sum()), True, False, {}


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_actions_of_any_shape(shape: tuple[int, ...]) -> None:
    agent = build(Shaped(*shape)).learn(40)
    observation = np.zeros(1, np.float32)
    actions = agent.sample_actions(observation, 5)
    assert actions.shape == (5, *shape)
    assert agent.predict(observation)[0].shape == shape
    energies = agent.energy(observation, actions)
    assert energies.shape == (5,)
    np.testing.assert_allclose(agent.energy(observation, actions[3:]), energies[3:], rtol=1e-5)
    assert agent.energy(observation, actions[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(), (1,), (5, 1), (5, 2, 1)])
def test_actions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    agent = build(Shaped(2))
    with pytest.raises(ValueError, match=r"of shape \(..., 2\), got \("):
        agent.energy(np.zeros(1, np.float32), np.zeros(shape, np.float32))


# ---- normalised critics -----------------------------------------------------------------------


NORMALISED: dict[str, Any] = {"normalization": "batch", "target": "none", "candidates": 4}


def update(agent: EnergyActorCritic, due: Due) -> tuple[Transitions, UpdateNoise]:
    """Do one update of an agent that has acted; return what it saw."""
    batch, noise = agent._transitions(agent.replay_buffer.sample(8)), agent._draw(8)
    agent._update(batch, noise, due)
    return batch, noise


def test_both_moments_enter_the_statistics_and_of_the_candidates_the_first() -> None:
    agent = build(**NORMALISED, ent_coef=0.3).learn(20)
    proposal = copy.deepcopy(agent.proposal)
    batch, noise = update(agent, Due(policy=False, target=False))
    mixture = proposal(batch.next_observations)
    first = torch.tanh(mixture.systematic(noise.offset, noise.candidates))[:, 0]
    energy = agent.critic.energy
    for one, rows in (
        (energy.x_normalization, torch.cat([batch.actions, first])),
        (
            energy.condition_normalization,
            torch.cat([batch.observations, batch.next_observations]),
        ),
    ):
        expected = 0.01 * rows.mean(0).expand(2, 1, -1)
        torch.testing.assert_close(one.running_mean, expected, rtol=1e-4, atol=1e-7)
        assert one.running_batches == 1


def test_candidates_share_the_statistics_of_their_batch() -> None:
    # The same action four times: its energies are one number, whichever of them entered.
    agent = build(**NORMALISED).learn(20)
    batch = agent._transitions(agent.replay_buffer.sample(8))
    repeated = torch.rand(8, 1, 1).expand(8, 4, 1)
    _, after = agent._energies(batch, repeated)
    torch.testing.assert_close(after, after[:, :1].expand(8, 4))
    assert not after.requires_grad


def test_acting_and_improving_leave_the_statistics_alone() -> None:
    agent = build(**NORMALISED, moves=2).learn(40)
    before = {name: value.clone() for name, value in agent.critic.named_buffers()}
    agent.predict(np.zeros((5, 3), np.float32))
    agent.policy.set_training_mode(True)
    batch = agent._transitions(agent.replay_buffer.sample(8))
    agent._improve(batch, agent._draw(8), agent.policy.temperature)
    assert all(torch.equal(value, before[name]) for name, value in agent.critic.named_buffers())


def test_the_policy_is_updated_once_in_policy_delay_updates() -> None:
    agent = build(policy_delay=3, learning_starts=0)
    agent.set_logger(configure(None, []))
    agent.learn(12)
    moved = []
    for _ in range(6):
        before = agent.proposal.head.weight.clone(), agent.policy.temperature.clone()
        critic = agent.critic.energy.head.weight.clone()
        agent.train(1, batch_size=8)
        assert not torch.equal(agent.critic.energy.head.weight, critic)
        now = agent.proposal.head.weight, agent.policy.temperature
        assert torch.equal(now[0], before[0]) == torch.equal(now[1], before[1])
        moved.append(not torch.equal(now[0], before[0]))
    assert moved == [False, False, True] * 2
    assert agent._n_updates % 3 == 0
    assert "actor_loss" in agent._metrics


def test_without_a_target_there_is_no_second_critic() -> None:
    agent = build(target="none").learn(40)
    assert agent.critic_target is None
    assert not [name for name in agent.policy.state_dict() if name.startswith("critic_target")]


def test_the_proposals_statistics_move_when_it_is_improved() -> None:
    agent = build(proposal_normalization="batch", ent_coef=0.3).learn(20)
    first = agent.proposal.trunk[0]
    batch, _ = update(agent, Due(policy=False, target=False))
    agent.predict(np.zeros((5, 3), np.float32))
    assert first.running_batches == 0
    batch, _ = update(agent, Due(policy=True, target=False))
    assert first.running_batches == 1
    expected = 0.01 * batch.observations.mean(0, keepdim=True)
    torch.testing.assert_close(first.running_mean, expected)


@pytest.mark.parametrize("target", ["none", "average"])
def test_unit_weights_stay_of_norm_1(target: str) -> None:
    agent = build(normalization="batch", target=target, unit_weights=True, learning_rate=0.1)
    agent.learn(40)
    energy = agent.critic.energy
    first = torch.cat([energy.layers[0].weight, energy.condition_layer.weight], 1)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(2, 8))
    assert agent.critic.energy.head.weight.norm() != 1


# ---- scaled rewards -----------------------------------------------------------------------------


class Rewarded(gym.Env):
    """Episodes of three steps with rewards near `scale`, by the action and the observation."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, scale: float):
        self.scale = scale

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        self.seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.seen

    def step(self, action: np.ndarray) -> tuple:
        reward = self.scale * (1 + float(self.seen[0]) - float(action[0]) ** 2)
        self.steps += 1
        return self._observe(), reward, self.steps == 3, False, {}


SCALED: dict[str, Any] = {"normalization": "batch", "target": "none", "scale_rewards": True}


def test_in_other_units_of_reward_the_training_is_the_same() -> None:
    # Sums that are 64 times as large round alike. Adam's epsilon and the step of MALA alone know
    # the unit.
    one, other = (
        build(Rewarded(unit), ent_coef=0.5 * unit, moves=0, **SCALED).learn(60)
        for unit in (1.0, 64.0)
    )
    observation, actions = np.array([0.3, -0.2], np.float32), np.linspace(-1, 1, 5)[:, None]
    np.testing.assert_allclose(
        other.energy(observation, actions), 64 * one.energy(observation, actions), rtol=1e-3
    )
    for name, value in one.policy.state_dict().items():
        if name not in ("temperature", "critic.energy.output_scale"):
            torch.testing.assert_close(other.policy.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_the_scale_is_the_deviation_of_the_discounted_returns() -> None:
    agent = build(Rewarded(5.0), gamma=0.9, **SCALED).learn(60)
    rewards = agent.replay_buffer.rewards[:60].reshape(-1, 3).astype(float)
    first, second, third = rewards.T
    returns = np.concatenate([first, second + 0.9 * first, third + 0.9 * second + 0.81 * first])
    assert agent.returns.scale() == pytest.approx(returns.std(), rel=1e-6)
    assert agent.critic.output_scale.item() == pytest.approx(returns.std(), rel=1e-6)
    np.testing.assert_array_equal(agent.returns.current, 0)  # the last episode has ended


@pytest.mark.parametrize(("reward", "scale"), [(0.0, 1.0), (0.5, 0.05)])
def test_returns_that_are_all_the_same(reward: float, scale: float) -> None:
    returns = RunningReturns(2)
    for _ in range(10):
        returns.update(np.full(2, reward), np.array([True, True]), 0.99)
    assert returns.scale() == pytest.approx(scale)


def test_a_saved_agent_keeps_its_scale(tmp_path: Path) -> None:
    agent = build(Rewarded(50.0), **SCALED).learn(50)
    agent.save(tmp_path / "agent")
    loaded = EnergyActorCritic.load(tmp_path / "agent", env=Rewarded(50.0))
    assert loaded.returns.scale() == agent.returns.scale()
    observation, actions = np.zeros(2, np.float32), np.zeros((1, 1))
    assert loaded.energy(observation, actions) == agent.energy(observation, actions)
    loaded.learn(3, reset_num_timesteps=False)
    assert loaded.returns.moments[0] == agent.returns.moments[0] + 3


def test_rewards_are_not_scaled_twice() -> None:
    plain = DummyVecEnv([lambda: Rewarded(1.0)])
    build(VecNormalize(plain, norm_reward=False), **SCALED).learn(30)
    with pytest.raises(ValueError, match="rewards that are scaled once, got scale_rewards=True"):
        build(VecNormalize(plain), **SCALED).learn(1)


# ---- the average of the proposal --------------------------------------------------------------


def test_averaging_changes_how_the_agent_acts_and_not_how_it_learns() -> None:
    plain = build(policy_delay=2, averaging=0).learn(60)
    averaged = build(policy_delay=2, averaging=0.5).learn(60)
    learnt = averaged.policy.state_dict()
    for name, tensor in plain.policy.state_dict().items():
        torch.testing.assert_close(learnt[name], tensor, rtol=0, atol=0)
    observations = np.eye(3, dtype=np.float32)
    for deterministic in (True, False):
        plain.policy.generator.manual_seed(0)
        averaged.policy.generator.manual_seed(0)
        one, _ = plain.predict(observations, deterministic=deterministic)
        other, _ = averaged.predict(observations, deterministic=deterministic)
        assert np.abs(one - other).min() > 1e-4


def test_the_average_is_that_of_the_proposals_updates() -> None:
    agent = build(policy_delay=1, averaging=0.2).learn(21)  # one update
    policy, eta = agent.policy, 1 / 0.2
    assert policy.averaged_proposal is not None
    average = policy.proposal.head.weight.detach().clone()
    for updates in range(2, 12):
        torch.testing.assert_close(policy.averaged_proposal.head.weight, average)
        agent.train(1, 8)
        share = (eta + 1) / (updates + eta)  # Shamir and Zhang 2013
        average = (1 - share) * average + share * policy.proposal.head.weight.detach()
    assert policy.proposal_updates == 11


def test_the_average_has_weights_of_its_own() -> None:
    agent = build(averaging=0.2)
    average = agent.policy.averaged_proposal
    assert average is not None
    own = {id(parameter) for parameter in average.parameters()}
    assert own.isdisjoint(id(each) for each in agent.proposal.parameters())
    assert not any(each.requires_grad for each in average.parameters())


def test_a_part_of_a_policy_leaves_the_average_as_it_is() -> None:
    agent = build().learn(40)
    seen = agent.policy.proposal_updates.item()
    assert seen > 0
    part = {"policy": {"temperature": torch.tensor(0.5)}}
    agent.set_parameters(part, exact_match=False)
    assert agent.policy.proposal_updates.item() == seen
    assert agent.policy.temperature.item() == 0.5


# ---- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidates": 0}, "expected candidates >= 1, got 0"),
        ({"batch_size": 64.0}, "expected batch_size to be a whole number, got 64.0"),
        ({"train_freq": 0}, "expected train_freq of at least one step, got 0"),
        ({"train_freq": (0, "episode")}, "expected train_freq of at least one step"),
        ({"target_entropy": None}, "expected target_entropy to be 'auto' or finite, got None"),
        ({"target_entropy": 5.0}, "target_entropy below 0.693 nats, that of uniform actions"),
        ({"acting_candidates": 0}, "expected acting_candidates >= 1"),
        ({"moves": -1}, "expected moves >= 0, got -1"),
        ({"target_update_interval": 0}, "expected target_update_interval >= 1"),
        ({"policy_delay": 0}, "expected policy_delay >= 1"),
        ({"averaging": 1.5}, "expected averaging between 0 and 1, got 1.5"),
        ({"averaging": math.nan}, "expected averaging between 0 and 1, got nan"),
        ({"adam_beta1": 1.0}, "expected adam_beta1 from 0 to below 1, got 1.0"),
        ({"target": "copy"}, "expected target 'average' or 'none', got 'copy'"),
        ({"normalization": "group"}, "expected normalization 'batch', 'layer' or None"),
        ({"proposal_normalization": "group"}, "expected normalization 'batch', 'layer' or None"),
        (
            {"unit_weights": True, "normalization": None},
            "expected normalization='batch' for unit_weights=True, got None",
        ),
        ({"target_entropy": math.inf}, "expected target_entropy to be 'auto' or finite, got inf"),
        ({"policy_kwargs": {"moves": 0}}, r"without \['moves'\]: .*\(\.\.\., moves=0\)"),
        ({"policy_kwargs": {"components": 3}}, r"without \['components'\]"),
        ({"policy_kwargs": {"acting_candidates": 3}}, r"without \['acting_candidates'\]"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_actions_stay_in_their_space_after_rounding() -> None:
    env = gym.make("Pendulum-v1").unwrapped
    env.action_space = spaces.Box(np.float32(-0.81103367), np.float32(0.8621366), (1,))
    agent = build(env)
    with torch.no_grad():  # every action at the upper bound
        for network in (agent.proposal, agent.policy.averaged_proposal):
            parameters = list(network.parameters())
            parameters[-1].fill_(1e3)
    seen = np.zeros((5, 3), np.float32)
    actions, _ = agent.predict(seen, deterministic=True)
    drawn = agent.sample_actions(seen[0], 5)
    assert all(action in env.action_space for action in (*actions, *drawn))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 10, (1,), np.int64), "expected actions of floats, got a Box of int64"),
        (
            spaces.Box(np.float32([0, 0]), np.float32([1, 0])),
            "expected low < high for every coordinate",
        ),
        (spaces.Box(-3e38, 3e38, (1,)), "expected bounds whose difference is finite in float32"),
    ],
    ids=["integers", "a point", "too wide"],
)
def test_actions_that_cannot_be_scaled_are_refused(space: spaces.Box, message: str) -> None:
    env = gym.make("Pendulum-v1").unwrapped
    env.action_space = space
    with pytest.raises(ValueError, match=message):
        EnergyActorCritic("MlpPolicy", env)


def test_weights_without_a_scale_are_refused_where_rewards_are_scaled() -> None:
    with pytest.raises(RuntimeError, match=r"Missing key.*output_scale"):
        build(scale_rewards=True).set_parameters(build().get_parameters())


def test_any_optimiser_with_betas_has_the_agents() -> None:
    agent = build(adam_beta1=0.3, policy_kwargs={"optimizer_class": torch.optim.AdamW})
    assert agent.critic.optimizer.defaults["betas"] == (0.3, 0.999)


def test_policy_kwargs_stay_the_users() -> None:
    agent = build(moves=1, components=3, acting_candidates=5)
    assert agent.policy_kwargs == {"net_arch": [8]}
    policy = agent.policy
    assert (policy.moves, policy.components, policy.acting_candidates) == (1, 3, 5)
