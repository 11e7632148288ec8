"""SoftQ with normalised critics, without a target network, and with scaled rewards."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ebrl.agents import SoftQ
from ebrl.agents.soft_agent import Due, Transitions
from ebrl.networks.normalization import BatchNormalization

TINY: dict[str, Any] = {"learning_starts": 20, "buffer_size": 200, "batch_size": 8, "seed": 1}
JOINT: dict[str, Any] = {"normalization": "batch", "target": "none"}


def build(**arguments: Any) -> SoftQ:
    arguments = {**TINY, "policy_kwargs": {"net_arch": [8, 6]}, **arguments}
    return SoftQ("MlpPolicy", "CartPole-v1", **arguments)


def batch_of(agent: SoftQ) -> Transitions:
    return agent._transitions(agent.replay_buffer.sample(32))


def textbook(agent: SoftQ, observations: Tensor, member: int) -> Tensor:
    """Return the energies of one critic on a batch, by torch's own normalisations."""
    critic = agent.critic

    def gains(one: nn.Module) -> tuple[Tensor, Tensor]:
        return one.weight.view(critic.members, -1)[member], one.bias.view(critic.members, -1)[
            member
        ]

    h = observations
    for k, layer in enumerate(critic.layers):
        if k > 0 and critic.normalization == "layer":
            one = critic.normalizations[k - 1]
            h = nn.functional.layer_norm(h, h.shape[1:], *gains(one), one.epsilon)
        h = torch.relu(h) if k > 0 else h
        if critic.normalization == "batch":
            one = critic.normalizations[k]
            h = nn.functional.batch_norm(h, None, None, *gains(one), True, eps=one.epsilon)
        h = h @ layer.weight[member] + layer.bias[member]
    return h


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_the_energies_of_a_batch_are_the_textbooks(normalization: Any, members: int) -> None:
    nets = {"net_arch": [8, 6], "n_critics": members}
    agent = build(normalization=normalization, learning_rate=0.05, policy_kwargs=nets).learn(60)
    batch = batch_of(agent)
    every = [textbook(agent, batch.observations, member) for member in range(members)]
    expected = torch.stack(every)
    torch.testing.assert_close(
        agent.critic.batch_energies(batch.observations), expected, rtol=1e-4, atol=1e-4
    )


def test_both_moments_are_normalised_together() -> None:
    agent = build(**JOINT, ent_coef=0.5).learn(20)
    batch = batch_of(agent)
    both = torch.cat([batch.observations, batch.next_observations])
    expected = torch.stack([textbook(agent, both, member) for member in (0, 1)])
    now, after = agent._energies(batch)
    torch.testing.assert_close(torch.cat([now, after], 1), expected, rtol=1e-4, atol=1e-4)
    assert now.requires_grad
    assert not after.requires_grad
    first = agent.critic.normalizations[0]
    assert first.running_batches == 1
    torch.testing.assert_close(first.running_mean, 0.01 * both.mean(0).expand(2, 1, -1))


def test_acting_leaves_the_statistics_alone() -> None:
    agent = build(**JOINT).learn(60)
    before = {name: value.clone() for name, value in agent.critic.named_buffers()}
    agent.policy.set_training_mode(True)
    agent.predict(np.ones((5, 4), np.float32))
    assert all(torch.equal(value, before[name]) for name, value in agent.critic.named_buffers())


def test_without_a_target_the_critic_itself_is_backed_up() -> None:
    agent = build(**JOINT, munchausen=0.5).learn(60)
    assert agent.critic_target is None
    assert not [name for name in agent.policy.state_dict() if name.startswith("critic_target")]
    seen = torch.randn(6, 4)
    torch.testing.assert_close(agent.q_net_target(seen), agent.q_net(seen))


def test_an_averaged_critic_takes_the_statistics_over() -> None:
    agent = build(normalization="batch", train_freq=1).learn(60)
    statistics = [
        (one.running_mean, average.running_mean)
        for one, average in zip(agent.critic.modules(), agent.critic_target.modules(), strict=True)
        if isinstance(one, BatchNormalization)
    ]
    assert len(statistics) == 3
    assert all(torch.equal(one, average) for one, average in statistics)


def test_in_other_units_of_reward_an_update_is_the_same() -> None:
    # 64 is a power of 2: scaled sums round alike. Adam's epsilon alone knows the unit.
    one = build(**JOINT, scale_rewards=True, ent_coef=0.5).learn(40)
    other = copy.deepcopy(one)
    assert one.returns.scale() != 1
    other.returns.moments *= torch.tensor([1.0, 64.0, 64.0**2])
    other.policy.temperature.mul_(64)
    batch = batch_of(one)
    for agent, rewards in ((one, batch.rewards), (other, 64 * batch.rewards)):
        agent._scale_critics()
        agent._update(batch._replace(rewards=rewards), (), Due(policy=True, target=True))
    seen = np.ones(4, np.float32)
    np.testing.assert_allclose(other.energy(seen), 64 * one.energy(seen), rtol=1e-4)
    for mine, scaled in zip(one.critic.parameters(), other.critic.parameters(), strict=True):
        torch.testing.assert_close(scaled, mine, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalization": "group"}, "expected normalization 'batch', 'layer' or None"),
        ({"target": "copy"}, "expected target 'average' or 'none', got 'copy'"),
        ({"policy_kwargs": {"target": "none"}}, r"SoftQ\(\.\.\., target='none'\)"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
