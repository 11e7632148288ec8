"""What agents with continuous actions share: draws from their energy, and the energy itself."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from .energy_policy import CnnPolicy, EnergyCritic, EnergyPolicy, MultiInputPolicy
from .proposal import MixtureProposal
from .soft_agent import Observation, SoftAgent
from .views import View


class ContinuousAgent(SoftAgent):
    """A soft agent whose policy is a proposal and an energy of the action, `EnergyPolicy`."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": EnergyPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    streams = ("acting", "training")
    trained = ("proposal", "critic")
    policy: EnergyPolicy
    action_space: spaces.Box
    proposal: MixtureProposal
    critic: EnergyCritic

    @property
    def actor(self) -> View:  # type: ignore[override]  # SB3 has an attribute
        """The proposal, under Stable-Baselines3's name for what acts."""
        return self.policy.actor

    def sample_actions(self, observation: Observation, n: int) -> np.ndarray:
        """Draw `(n, action_dim)` actions for one observation, in the environment's units."""
        tensor = self._one(observation)
        actions = self.policy.sample(tensor, n)[0].cpu().numpy()
        return self.policy.unscale_action(actions.reshape(n, *self.policy.action_space.shape))

    def energy(self, observation: Observation, actions: np.ndarray) -> np.ndarray:
        """Return the mean energy of `(n, action_dim)` actions for one observation, `(n,)`.

        Actions are in the environment's units; the energy is in those of the temperature: reward
        (`-mean Q`) for an actor-critic, nats for one that clones.
        """
        tensor = self._one(observation)
        actions, shape = np.asarray(actions), self.action_space.shape
        if actions.ndim == 0 or actions.shape[1:] != shape:
            raise ValueError(
                f"expected an array of actions, each of shape {shape}, got shape {actions.shape}"
            )
        scaled = self.policy.scale_action(actions)
        rows = torch.as_tensor(scaled, dtype=torch.float32, device=self.device)
        rows = rows.reshape(-1, self.proposal.dimension)
        with torch.no_grad():
            return self.policy.critic.given(tensor)(rows.unsqueeze(0))[0].cpu().numpy()
