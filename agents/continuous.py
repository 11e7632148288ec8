"""What agents with continuous actions share: draws from their energy, and the energy itself."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from ebrl.ranges import check_at_least

from .energy_critic import EnergyCritic
from .energy_policy import CnnPolicy, EnergyPolicy, MultiInputPolicy, with_average
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

    def _setup_model(self) -> None:
        check_actions(self.action_space)
        super()._setup_model()

    def _parameters_of(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """As `Saving`; the policy gets an average where this agent's has one."""
        parameters = super()._parameters_of(parameters)
        if not isinstance(parameters.get("policy"), dict):  # which the check that follows refuses
            return parameters
        averaged = self.policy.averaged_proposal is not None
        return {**parameters, "policy": with_average(parameters["policy"], averaged)}

    @property
    def actor(self) -> View:  # type: ignore[override]  # SB3 has an attribute
        """The proposal, under Stable-Baselines3's name for what acts."""
        return self.policy.actor

    def sample_actions(self, observation: Observation, n: int) -> np.ndarray:
        """Draw n actions for an observation, `(n, *action shape)`, in the environment's units.

        For a batch of observations, the result is `(batch, n, *action shape)`.

        Raises:
            ValueError: For a negative n.
        """
        check_at_least(0, n=n)
        tensor, batched = self._seen(observation)
        actions = self.policy.sample(tensor, n).cpu().numpy()  # (batch, n, dimension)
        shape = (*actions.shape[:2], *self.policy.action_space.shape)
        actions = self.policy.unscale_action(actions.reshape(shape))
        return actions if batched else actions[0]

    def energy(self, observation: Observation, actions: np.ndarray) -> np.ndarray:
        """Return the mean energies of actions `(*more, *action shape)`, `(*more,)`.

        For a batch of observations, actions and energies have a leading batch axis. Actions are in
        the environment's units. Energies are in the unit of the temperature: reward (`-mean Q`) for
        `EnergyActorCritic`, nats for `ImplicitCloning`.

        Raises:
            ValueError: For actions of another shape.
        """
        tensor, batched = self._seen(observation)
        actions, shape = np.asarray(actions), self.action_space.shape
        more = actions.shape[: max(actions.ndim - len(shape), 0)]
        count = len(next(iter(tensor.values())) if isinstance(tensor, dict) else tensor)
        if actions.shape[len(more) :] != shape or (batched and more[:1] != (count,)):
            lead = f"({count}, ..., " if batched else "(..., "
            expected = f"{lead}{', '.join(map(str, shape))})"
            raise ValueError(f"expected actions of shape {expected}, got {actions.shape}")
        scaled = self.policy.scale_action(actions)
        rows = torch.as_tensor(scaled, dtype=torch.float32, device=self.device)
        rows = rows.reshape(count, math.prod(more) // count, self.proposal.dimension)
        with torch.no_grad():
            return self.policy.critic.given(tensor)(rows).cpu().numpy().reshape(more)


def check_actions(space: spaces.Box) -> None:
    """Raise `ValueError` for actions that cannot be scaled to [-1, 1] and back."""
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"expected actions of floats, got a Box of {space.dtype}: round them in a "
            "gymnasium.ActionWrapper, or make them Discrete"
        )
    with np.errstate(over="ignore"):
        wide = space.high - space.low
    if not np.isfinite(wide).all():
        raise ValueError(
            f"expected bounds whose difference is finite in {space.dtype}, got {space.low} and "
            f"{space.high}: use gymnasium.wrappers.RescaleAction"
        )
    if not (space.low < space.high).all():
        raise ValueError(
            f"expected low < high for every coordinate of an action, got {space.low} and "
            f"{space.high}: leave the constant ones out in a gymnasium.ActionWrapper"
        )
