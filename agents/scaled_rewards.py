"""Rewards in units of the running deviation of the discounted return.

Critics then have targets of the order of 1, whatever the rewards are. The scale is the critics' own
output scale: energies, temperatures and the replay stay in units of reward.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from .policy_arguments import PolicyArguments

ASSUMED = 1_000  # returns that a scale is taken to come from


class RunningReturns:
    """The discounted returns so far, `G <- gamma G + r`, and the moments of all of them.

    Args:
        n_envs: Environments that step together.
    """

    current: np.ndarray  # (n_envs,), of the running episodes
    moments: Tensor  # (3,), of all G: their number, mean, and sum of squared differences from it

    def __init__(self, n_envs: int) -> None:
        self.current = np.zeros(n_envs)
        self.moments = torch.zeros(3, dtype=torch.float64)

    def assume(self, scale: float) -> None:
        """Take over a scale that others learnt, as if from `ASSUMED` returns of mean 0."""
        self.moments.copy_(torch.tensor([ASSUMED, 0.0, ASSUMED * scale**2], dtype=torch.float64))

    def restart(self) -> None:
        """Begin new episodes."""
        self.current[:] = 0

    def update(self, rewards: np.ndarray, dones: np.ndarray, gamma: float) -> None:
        """Update with one step of every environment (Chan et al. 1983, equation 2.1)."""
        self.current = gamma * self.current + rewards
        before, mean, squares = self.moments.tolist()
        count = before + len(rewards)
        shift = float(self.current.mean()) - mean
        squares += float(np.square(self.current - self.current.mean()).sum())
        squares += shift**2 * before * len(rewards) / count
        self.moments.copy_(
            torch.tensor([count, mean + shift * len(rewards) / count, squares], dtype=torch.float64)
        )
        self.current[np.asarray(dones, dtype=bool)] = 0

    def scale(self) -> float:
        """Return the standard deviation of the returns, or 1 while all of them are 0.

        It is at least a tenth of their root mean square, so that returns that hardly differ do not
        give a tiny scale.
        """
        count, mean, squares = self.moments.tolist()
        variance = squares / max(count, 1)
        return max(variance, 0.01 * (variance + mean**2)) ** 0.5 or 1.0


class ScaledRewards(PolicyArguments):
    """An algorithm whose critics may be scaled by the deviation of its returns."""

    critic: Any  # a subclass names its own
    critic_target: Any  # likewise
    scale_rewards: bool = False
    returns: RunningReturns | None = None

    def _setup_model(self) -> None:
        super()._setup_model()
        self.returns = RunningReturns(self.n_envs) if self.scale_rewards else None

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        reset_num_timesteps: bool = True,
        *rest: Any,
    ) -> Any:
        """As Stable-Baselines3.

        Raises:
            ValueError: For a `VecNormalize` that scales the rewards as well.
        """
        around = self.get_vec_normalize_env()
        if self.returns is not None and around is not None and around.norm_reward:
            raise ValueError(
                "expected rewards that are scaled once, got scale_rewards=True and a VecNormalize "
                "with norm_reward=True: use one of them"
            )
        if self.returns is not None and (reset_num_timesteps or self._last_obs is None):
            self.returns.restart()
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *rest)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        if self.returns is not None:
            self.returns.update(reward, dones, self.gamma)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def set_parameters(self, *arguments: Any, **named: Any) -> None:
        """As Stable-Baselines3; the reward scale goes on from the output scale of the critics."""
        super().set_parameters(*arguments, **named)
        if self.returns is None or self.critic.output_scale is None:
            return
        scale = float(self.critic.output_scale)
        if not math.isclose(scale, self.returns.scale(), rel_tol=1e-6):
            self.returns.assume(scale)

    def _scale_critics(self) -> None:
        """Set the output scale of the critics to the present scale."""
        if self.returns is None:
            return
        scale = self.returns.scale()
        for critic in (self.critic, self.critic_target):
            if critic is not None:
                critic.output_scale.fill_(scale)

    def _bellman_loss(self, energies: Tensor, target: Tensor) -> Tensor:
        """Return half the squared residuals in units of the scale, summed over critics.

        Args:
            energies: Energies by each critic, `(members, batch)`, in units of reward.
            target: The target of Q, `(batch,)`.
        """
        residual = energies + target  # E = -Q
        if self.critic.output_scale is not None:
            residual = residual / self.critic.output_scale
        return 0.5 * residual.square().mean(-1).sum()
