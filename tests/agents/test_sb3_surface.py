"""Names, arguments and habits of Stable-Baselines3 that its users and their tools rely on."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_agents import SMALL, both, continuous, discrete
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import FlattenExtractor

from ebrl.agents import EnergyActorCritic, SoftQ

# ---- temperatures ---------------------------------------------------------------------------


@both
def test_temperatures_are_written_as_sac_writes_them(build: Any) -> None:
    assert build(ent_coef="auto_0.1").ent_coef_tensor.item() == pytest.approx(0.1)
    assert build(ent_coef="0.2").ent_coef_tensor.item() == pytest.approx(0.2)
    assert build(ent_coef=0.3).ent_coef_tensor.item() == pytest.approx(0.3)


@both
def test_without_a_temperature_it_learns_and_acts_greedily(build: Any) -> None:
    agent = build(ent_coef=0.0, train_freq=1).learn(40)
    for parameter in agent.policy.parameters():
        assert parameter.isfinite().all()
    if build is discrete:
        seen = agent.observation_space.sample()
        sampled = {int(agent.predict(seen)[0]) for _ in range(20)}
        assert sampled == {int(agent.predict(seen, deterministic=True)[0])}


# ---- SAC's and DQN's arguments ----------------------------------------------------------------


def test_gsde_is_left_out_with_a_word_of_what_to_use() -> None:
    continuous(use_sde=False, sde_sample_freq=4, use_sde_at_warmup=True)
    with pytest.warns(UserWarning, match=r"use_sde=True is ignored.*OrnsteinUhlenbeck"):
        continuous(use_sde=True)
    given = {"net_arch": [8], "log_std_init": -3, "use_expln": False, "clip_mean": 2.0}
    assert continuous(policy_kwargs=given).policy_kwargs == {"net_arch": [8]}
    assert len(given) == 4  # the caller's own


@both
def test_networks_without_hidden_layers_learn(build: Any) -> None:
    agent = build(policy_kwargs={"net_arch": []})
    before = [parameter.clone() for parameter in agent.critic.parameters()]
    agent.learn(30)
    moved = zip(before, agent.critic.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in moved)


class Pixels(gym.ObservationWrapper):
    """A small picture of Pendulum's angle, as far as an extractor needs one."""

    def __init__(self) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.full((36, 36, 1), 127 + 100 * observation[0], np.uint8)


def test_a_shared_features_extractor_is_moved_by_the_proposal_alone() -> None:
    kwargs = {"net_arch": [8], "share_features_extractor": True}
    agent = EnergyActorCritic(
        "CnnPolicy", Pixels(), target="average", policy_kwargs=kwargs, seed=0, **SMALL
    )
    assert agent.critic.features_extractor is agent.proposal.features_extractor
    assert agent.critic_target.features_extractor is not agent.proposal.features_extractor
    shared = {id(p) for p in agent.proposal.features_extractor.parameters()}
    moved_by = [p for group in agent.critic.optimizer.param_groups for p in group["params"]]
    assert not shared & {id(p) for p in moved_by}
    before = copy.deepcopy(agent.proposal.features_extractor.state_dict())
    agent.learn(24)
    after = agent.proposal.features_extractor.state_dict()
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_epsilon_falls_as_dqns_and_its_actions_are_uniform() -> None:
    assert discrete().exploration_rate == 0.0
    agent = discrete(exploration_fraction=0.5, exploration_final_eps=0.2, learning_starts=0)
    assert agent.exploration_rate == 1.0
    agent.learn(50)
    assert agent.exploration_rate == pytest.approx(0.2)
    certain = discrete(exploration_initial_eps=1.0, exploration_final_eps=1.0, learning_starts=0)
    certain.learn(10)
    with torch.no_grad():
        certain.critic.layers[-1].bias[:, 0, 0] = -1e3  # so that the policy always takes action 0
    certain._last_obs = np.zeros((1, 4), np.float32)
    taken = [int(certain._sample_action(0)[0][0]) for _ in range(400)]
    assert abs(np.mean(taken) - 0.5) < 4 * 0.5 / 20  # four standard errors


def test_a_target_update_interval_copies_the_target_as_dqns_does() -> None:
    assert (discrete().tau, discrete(target_update_interval=10).tau) == (0.05, 1.0)
    assert discrete(target_update_interval=10, tau=0.5).tau == 0.5
    agent = discrete(target_update_interval=5, train_freq=1, learning_starts=0).learn(12)
    agent.train(-agent._n_updates % 5)
    assert agent._n_updates % 5 == 0
    for averaged, current in zip(
        agent.critic_target.parameters(), agent.critic.parameters(), strict=True
    ):
        assert torch.equal(averaged, current)


def test_the_norm_of_a_gradient_is_clipped() -> None:
    agent = discrete(max_grad_norm=1e-3).learn(30)
    norms = [parameter.grad.norm() for parameter in agent.critic.parameters()]
    assert torch.stack(norms).norm() <= 1e-3


@pytest.mark.parametrize(
    "arguments",
    [
        {"gamma": 1e3},
        {"tau": -0.5},
        {"batch_size": -1},
        {"batch_size": 2.5},
        {"buffer_size": 0},
        {"learning_rate": float("nan")},
        {"gradient_steps": None},
        {"moves": 2**63},
        {"candidates": 2**63},
        {"batch_size": np.int64(0)},
    ],
)
def test_nonsense_numbers_are_refused_before_the_first_step(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=f"expected {name}"):
        continuous(**arguments)


def test_numbers_of_numpy_are_numbers() -> None:
    agent = continuous(batch_size=np.int64(8), gamma=np.float32(0.5))
    assert (agent.batch_size, agent.gamma) == (8, 0.5)


def test_epsilon_can_be_left_out_of_a_loaded_agent(tmp_path: Path) -> None:
    options = {"exploration_final_eps": 1.0, "ent_coef": 1e-8}
    discrete(**options).learn(30).save(tmp_path / "agent")
    env = gym.make("CartPole-v1")
    agent = SoftQ.load(tmp_path / "agent", exploration_final_eps=None, env=env)
    agent._last_obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    greedy, _ = agent.predict(agent._last_obs, deterministic=True)
    assert np.array_equal(agent._sample_action(0, n_envs=50)[0], greedy)


def test_epsilon_falls_over_a_part_of_the_training() -> None:
    with pytest.raises(ValueError, match="exploration_fraction > 0"):
        discrete(exploration_fraction=0)


# ---- names of networks ------------------------------------------------------------------------


def test_networks_have_sacs_names() -> None:
    agent = continuous(components=3)
    seen, action = torch.randn(5, 3), torch.rand(5, 1) * 2 - 1
    acted = agent.policy.actor(seen, deterministic=True)
    assert torch.equal(acted, agent.policy(seen, deterministic=True))
    assert agent.actor.optimizer is agent.proposal.optimizer
    values = agent.critic(seen, action)
    assert [value.shape for value in values] == [(5, 1), (5, 1)]
    assert torch.equal(agent.critic.q1_forward(seen, action), values[0])
    one, other = agent.energy(seen[0].numpy(), 2 * action[:1].numpy()), -sum(values)[0] / 2
    np.testing.assert_allclose(one, other.detach(), rtol=1e-5)  # torques go from -2 to 2


def test_what_is_set_on_a_view_is_set_on_its_network() -> None:
    agent = continuous()
    agent.actor.note = "kept"
    assert agent.actor.note == agent.proposal.note == "kept"


def test_networks_have_dqns_names() -> None:
    agent = discrete()
    seen = torch.randn(5, 4)
    torch.testing.assert_close(agent.q_net(seen), -agent.policy.energies(seen))
    torch.testing.assert_close(agent.q_net_target(seen), agent.q_net(seen))
    assert agent.q_net.optimizer is agent.critic.optimizer
    assert set(agent.q_net.parameters()) == set(agent.critic.parameters())


# ---- training -------------------------------------------------------------------------------


class Watch(BaseCallback):
    """Keeps what the logger holds after each rollout's training."""

    def _on_training_start(self) -> None:
        self.seen: list[set[str]] = []

    def _on_step(self) -> bool:
        self.seen.append(set(self.logger.name_to_value))
        return True


@both
def test_callbacks_see_the_metrics_of_the_last_training(build: Any) -> None:
    watch = Watch()
    build(train_freq=1).learn(25, callback=watch)
    assert {"train/critic_loss", "train/ent_coef", "train/n_updates"} <= watch.seen[-1]
    assert not any(name.startswith("train/") for name in watch.seen[10])


@both
def test_a_global_seed_reproduces_an_agent_without_one(build: Any) -> None:
    def run() -> dict[str, torch.Tensor]:
        np.random.seed(3)  # noqa: NPY002, the stream that SB3's buffers draw from
        torch.manual_seed(3)
        agent = build(seed=None)
        agent.action_space.seed(3)
        agent.env.seed(3)
        return agent.learn(40).policy.state_dict()

    one, other = run(), run()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["proposal", "critic"])
def test_frozen_networks_stay(name: str) -> None:
    agent = continuous()
    network = getattr(agent, name).requires_grad_(False)
    before = copy.deepcopy(dict(network.named_parameters()))  # statistics are none, and move
    agent.learn(30)
    assert all(torch.equal(before[key], value) for key, value in network.named_parameters())


def test_frozen_layers_stay_where_units_are_scaled() -> None:
    agent = continuous(unit_weights=True)
    energy = agent.critic.energy
    first, condition = energy.layers[0], energy.condition_layer
    first.requires_grad_(False)
    before = first.weight.clone(), condition.weight.clone()
    agent.learn(30)
    assert torch.equal(before[0], first.weight)
    assert not torch.equal(before[1], condition.weight)


@both
def test_a_frozen_temperature_stays(build: Any) -> None:
    agent = build(ent_coef="auto_0.1")
    agent.log_ent_coef.requires_grad_(False)
    agent.learn(30)
    assert agent.ent_coef_tensor.item() == pytest.approx(0.1)


@pytest.mark.parametrize("components", [1, 3])
def test_the_greedy_action_has_a_gradient(components: int) -> None:
    agent = continuous(components=components)
    seen = torch.randn(2, 3, requires_grad=True)
    agent.policy(seen, deterministic=True).sum().backward()
    assert (seen.grad != 0).any()
    assert agent.predict(seen.detach().numpy(), deterministic=True)[0].shape == (2, 1)


@both
def test_hooks_of_the_networks_fire(build: Any) -> None:
    agent, fired = build(), []
    acting = getattr(agent.policy, "acting_proposal", agent.critic)
    for network in (agent.critic.features_extractor, acting):
        network.register_forward_hook(lambda module, *_: fired.append(module))
    agent.predict(agent.observation_space.sample(), deterministic=True)
    assert fired
    fired.clear()
    agent.learn(25)
    assert agent.critic.features_extractor in fired


@pytest.mark.parametrize(("ours", "theirs"), [(EnergyActorCritic, SAC), (SoftQ, DQN)])
def test_the_page_for_users_of_sb3_names_every_new_argument(ours: type, theirs: type) -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "sb3.md"
    table = page.read_text(encoding="utf-8").partition("## What is new")[2].partition("##")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    mine = [names for names, of in rows if of.strip(" `") in (ours.__name__, "both")]
    named = set(re.findall(r"`(\w+)`", " ".join(mine)))
    new, old = (set(inspect.signature(one).parameters) for one in (ours, theirs))
    assert named == new - old


class Dropped(FlattenExtractor):
    """Observations of which half are dropped in training."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(super().forward(observations), 0.5, self.training)


@both
def test_averages_do_not_train_when_the_policy_does(build: Any) -> None:
    policy_kwargs = {"net_arch": [16], "features_extractor_class": Dropped}
    agent = build(policy_kwargs=policy_kwargs, target="average")
    agent.policy.train()
    seen = torch.rand(8, *agent.observation_space.shape, generator=torch.Generator().manual_seed(0))
    for average in ("critic_target", "averaged_proposal"):
        network = getattr(agent.policy, average, None)
        assert network is None or not any(part.training for part in network.modules())
    if build is continuous:
        greedy = {agent.predict(seen.numpy(), deterministic=True)[0].tobytes() for _ in range(3)}
        assert len(greedy) == 1


@both
def test_a_learning_rate_of_numpy_is_refused_before_anything_is_built(build: Any) -> None:
    with pytest.raises(ValueError, match="expected learning_rate to be finite"):
        build(learning_rate=np.float32(1e-3))
