"""Soft Q-learning on the chain, and its targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

from ebrl.agents import SoftQ
from ebrl.envs import ChainEnv

# on one-hot observations a linear layer is a table; the minimum of several would bias it
TABLE: dict[str, Any] = {"net_arch": [], "n_critics": 1}
DISCOUNT = 0.9


def chain_agent(temperature: float, **kwargs: Any) -> SoftQ:
    return SoftQ(
        "MlpPolicy",
        ChainEnv(),
        gamma=DISCOUNT,
        ent_coef=temperature,
        policy_kwargs=TABLE,
        seed=0,
        buffer_size=100,
        **kwargs,
    )


def some_batch(discounts: Tensor | None = None) -> ReplayBufferSamples:
    """Four transitions between states of the chain, the last of which terminates."""
    states = torch.eye(8)
    return ReplayBufferSamples(
        observations=states[[1, 2, 3, 4]],
        actions=torch.tensor([[0], [1], [1], [0]]),
        next_observations=states[[2, 3, 2, 5]],
        dones=torch.tensor([[0.0], [0.0], [0.0], [1.0]]),
        rewards=torch.tensor([[0.5], [-1.0], [0.0], [2.0]]),
        discounts=discounts,
    )


def target_q(agent: SoftQ) -> np.ndarray:
    """The target network's Q of every state and action, `(states, actions)`."""
    with torch.no_grad():
        return -agent.policy.critic_target(torch.eye(8)).amax(0).numpy().astype(np.float64)


def target_of(agent: SoftQ, batch: ReplayBufferSamples) -> np.ndarray:
    transitions = agent._transitions(batch)
    moments = transitions.observations, transitions.next_observations
    energies = (agent.critic_target(one) for one in moments)
    return agent._target(transitions, *energies, agent.policy.temperature)[0].numpy()
