"""SoftQ: soft Q-learning over finitely many actions, in which only the energy is approximate.

`pi(a|s) = exp(-E(a|s)/alpha) / Z` with `E = -Q`. Sums over the actions are exact, so the policy
needs no proposal and the soft value no candidates (Haarnoja et al. 2017, equations 3 to 6):

    V'(s') = alpha log Σ_a exp(Q'(s', a)/alpha),    y = r + gamma V'(s').

Munchausen learning (Vieillard, Pietquin and Geist 2020, equation 2) adds
`munchausen * max(alpha log pi'(a|s), munchausen_clip)` to the reward. Its fixed point is the soft
optimum at the temperature `(1 - munchausen) alpha`, wherever the clip is not met.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import LinearSchedule
from torch import Tensor

from ebrl.networks.normalization import Normalization
from ebrl.ranges import check_at_least

from .soft_agent import Due, Observation, SoftAgent, Transitions
from .soft_q_policy import (
    DiscreteCritic,
    SoftQCnnPolicy,
    SoftQMultiInputPolicy,
    SoftQPolicy,
    boltzmann,
)
from .views import View


class SoftQ(SoftAgent):
    """A Stable-Baselines3 algorithm for discrete actions.

    The policy explores by its entropy. If one of DQN's `exploration_*` arguments is given, training
    adds DQN's random actions, and the other two have DQN's defaults. The agent acts by the mean of
    the critics and backs up their smallest Q, which counters overestimation but is biased where Q
    is noisy. There are two critics unless `policy_kwargs={"n_critics": 1}`. Returns over
    `n_steps > 1` omit the entropy and the Munchausen term of the steps in between. Arguments that
    are not listed have the names of `stable_baselines3.DQN`.

    Args:
        tau: How far the target network moves after every `target_update_interval` updates; 1 copies
            the critic. By default 0.05, and 1 as in DQN where an interval is given.
        ent_coef: The temperature alpha, in units of reward. "auto" tunes it so that the policy's
            exact entropy, averaged over the replayed observations, meets `target_entropy`.
        initial_ent_coef: Where an automatic temperature starts.
        target_entropy: A fraction of `log |A|`, the entropy of the uniform policy. Near 1 the
            temperature grows without end; 0.3 to 0.6 is safe.
        normalization: Normalisation of the critics: "batch", "layer" or None.
        target: Which critic values the next observation. "average" is the target network. "none" is
            the critic itself, with joint batch statistics of this and the next step.
        scale_rewards: Learn in units of the running deviation of the discounted return. Energies
            and temperatures stay in units of reward.
        munchausen: Weight of the log-policy in the reward, from 0 (none) to below 1; 0.9 in the
            paper.
        munchausen_clip: Floor of `alpha log pi`, below 0 and in units of reward.
        exploration_fraction: The part of the training in which epsilon falls; 0.1 in DQN.
        exploration_initial_eps: Epsilon at first; 1.0 in DQN.
        exploration_final_eps: Epsilon from then on; 0.05 in DQN.
        max_grad_norm: Largest norm of a gradient; none by default.
        compile: Run each update as one compiled program, which takes tens of seconds to make. It
            needs a C++ compiler and torch's Adam.
        precision: Precision of the products in an update. "bfloat16" keeps weights and optimisers
            in float32.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": SoftQPolicy,
        "CnnPolicy": SoftQCnnPolicy,
        "MultiInputPolicy": SoftQMultiInputPolicy,
    }
    given_to_policy = ("normalization", "scale_rewards", "target")
    policy: SoftQPolicy
    action_space: spaces.Discrete
    critic: DiscreteCritic
    critic_target: DiscreteCritic | None

    def __init__(
        self,
        policy: str | type[SoftQPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1_000,
        batch_size: int = 64,
        tau: float | None = None,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 2,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: float | str = "auto",
        initial_ent_coef: float = 1.0,
        target_entropy: float = 0.3,
        normalization: Normalization | None = None,
        target: Literal["average", "none"] = "average",
        scale_rewards: bool = False,
        munchausen: float = 0.0,
        munchausen_clip: float = -1.0,
        target_update_interval: int = 1,
        exploration_fraction: float | None = None,
        exploration_initial_eps: float | None = None,
        exploration_final_eps: float | None = None,
        max_grad_norm: float | None = None,
        compile: bool = False,
        precision: Literal["float32", "bfloat16"] = "float32",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        if tau is None:
            tau = 0.05 if target_update_interval == 1 else 1.0
        super().__init__(
            policy, env, learning_rate, buffer_size, learning_starts, batch_size, tau, gamma,
            train_freq, gradient_steps, None, replay_buffer_class, replay_buffer_kwargs,
            optimize_memory_usage, n_steps, policy_kwargs, stats_window_size, tensorboard_log,
            verbose, device, seed=seed, sde_support=False, support_multi_env=True,
            supported_action_spaces=(spaces.Discrete,),
        )  # fmt: skip
        self.ent_coef, self.initial_ent_coef = ent_coef, initial_ent_coef
        self.target_entropy, self.target_update_interval = target_entropy, target_update_interval
        self.normalization, self.target = normalization, target
        self.scale_rewards = scale_rewards
        self.munchausen, self.munchausen_clip = munchausen, munchausen_clip
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self.exploration_rate = 0.0
        self.max_grad_norm = max_grad_norm
        self.compile, self.precision = compile, precision
        self._begin(_init_setup_model)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if isinstance(self.target_entropy, str) or not 0 < self.target_entropy < 1:
            raise ValueError(
                "expected target_entropy between 0 and 1, a fraction of log |A|, "
                f"got {self.target_entropy!r}"
            )
        if not 0 <= self.munchausen < 1:
            raise ValueError(f"expected munchausen >= 0 and < 1, got {self.munchausen}")
        for name in ("initial_eps", "final_eps", "fraction"):
            value = getattr(self, f"exploration_{name}")
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"expected exploration_{name} between 0 and 1, got {value}")
        if self.exploration_fraction == 0:
            raise ValueError("expected exploration_fraction > 0, got 0")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"expected max_grad_norm > 0, got {self.max_grad_norm}")
        if not self.munchausen_clip < 0:
            raise ValueError(f"expected munchausen_clip < 0, got {self.munchausen_clip}")

    def _setup_model(self) -> None:
        super()._setup_model()
        names = ("initial_eps", "final_eps", "fraction")
        given = [getattr(self, f"exploration_{name}") for name in names]
        self._epsilon: LinearSchedule | None = None
        if any(one is not None for one in given):
            pairs = zip(given, (1.0, 0.05, 0.1), strict=True)
            self._epsilon = LinearSchedule(*(usual if one is None else one for one, usual in pairs))
            self.exploration_rate = self._epsilon(1.0)

    def _on_step(self) -> None:
        super()._on_step()
        if self._epsilon is not None:
            self.exploration_rate = float(self._epsilon(self._current_progress_remaining))
            self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """As Stable-Baselines3, with a random action with probability `exploration_rate`."""
        actions, stored = super()._sample_action(learning_starts, action_noise, n_envs)
        if self._epsilon is not None and self.num_timesteps >= learning_starts:
            stream = self.generators["acting"]
            chance = torch.rand(n_envs, generator=stream, device=stream.device)
            count = int(self.action_space.n)
            random = torch.randint(count, (n_envs,), generator=stream, device=stream.device)
            explores = (chance < self.exploration_rate).cpu().numpy()
            actions = stored = np.where(explores, random.cpu().numpy(), actions)
        return actions, stored

    @property
    def q_net(self) -> View:
        """The critics, called as DQN's network: Q of every action, `(batch, actions)`."""
        return self.policy.q_net

    @property
    def q_net_target(self) -> View:
        """The critics that are backed up, called as DQN's target network."""
        return self.policy.q_net_target

    def _update(self, batch: Transitions, noise: Any, due: Due) -> dict[str, Tensor]:
        """Do one update of the critics and the temperature."""
        energies, after = self._energies(batch)
        alpha = self.policy.temperature.clone()
        current = boltzmann(energies.detach().mean(0), alpha)
        entropy = current.entropy.mean()
        self._update_temperature(entropy, self.target_entropy * math.log(energies.shape[-1]))

        before = energies
        if self.munchausen > 0 and self.critic_target is not None:
            before = self.critic_target(batch.observations)
        target, value = self._target(batch, before, after, alpha)  # (batch,)
        index = batch.actions.expand(energies.shape[0], -1, -1)
        taken = energies.gather(-1, index).squeeze(-1)  # (members, batch)
        loss = self._bellman_loss(taken, target)
        self._descend("critic", loss, self.max_grad_norm)
        if due.target:
            self._update_target()
        return {
            "critic_loss": loss.detach(),
            "ent_coef": alpha,
            "entropy": entropy,
            "energy": (alpha * current.entropy - current.soft_value).mean(),  # as V = α H - E
            "soft_value": value.mean(),
        }

    def _energies(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """Return the energies of all actions now and next, `(members, batch, actions)` each.

        Those at the next observations have no graph. Without a target network, one pass over both
        steps gives both, with joint batch statistics.
        """
        extract = self.critic.features_extractor
        if self.critic_target is not None:
            with torch.no_grad():
                after = self.critic_target(batch.next_observations)
            return self.critic.batch_energies(extract(batch.observations)), after
        with torch.no_grad():
            next_features = extract(batch.next_observations)
        features = torch.cat([extract(batch.observations), next_features])
        now, after = self.critic.batch_energies(features).chunk(2, 1)
        return now, after.detach()

    @torch.no_grad()
    def _target(
        self, batch: Transitions, energies: Tensor, energies_after: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the soft Bellman target and the next observations' soft value, `(batch,)` each.

        The target has the Munchausen term if there is one.

        Args:
            batch: A batch of the replay.
            energies: Energies by the critics that are backed up, `(members, batch, actions)`.
            energies_after: Those at the next observations, likewise.
            alpha: The temperature, 0-dim.
        """
        after = boltzmann(energies_after.amax(0), alpha)
        target = batch.rewards + batch.discounts * after.soft_value
        if self.munchausen > 0:
            before = boltzmann(energies.amax(0), alpha)
            log_taken = before.log_probabilities.gather(-1, batch.actions).squeeze(-1)
            target += self.munchausen * (alpha * log_taken).clamp_min(self.munchausen_clip)
        return target, after.soft_value

    def sample_actions(self, observation: Observation, n: int) -> np.ndarray:
        """Draw `(n,)` action indices for an observation, `(batch, n)` for a batch of them.

        Raises:
            ValueError: For a negative n.
        """
        check_at_least(0, n=n)
        tensor, batched = self._seen(observation)
        actions = self.policy.sample(tensor, n).cpu().numpy()
        return actions if batched else actions[0]

    def energy(self, observation: Observation, actions: np.ndarray | None = None) -> np.ndarray:
        """Return `-mean Q` of action indices `(*more,)` for an observation, in units of reward.

        Without `actions`, return that of every action, `(actions,)`. For a batch of observations,
        actions and energies have a leading batch axis.

        Raises:
            ValueError: For actions that are no indices, or not one row for each observation.
        """
        tensor, batched = self._seen(observation)
        energies = self.policy.energies(tensor).cpu().numpy()  # (batch, actions)
        if actions is None:
            return energies if batched else energies[0]
        index, (size, count) = np.asarray(actions), energies.shape
        if not np.issubdtype(index.dtype, np.integer) or ((index < 0) | (index >= count)).any():
            raise ValueError(f"expected action indices from 0 to {count - 1}, got {actions}")
        if not batched:
            return energies[0][index]
        if index.shape[:1] != (size,):
            raise ValueError(f"expected actions of shape ({size}, ...), got {index.shape}")
        return np.take_along_axis(energies, index.reshape(size, -1), 1).reshape(index.shape)

    def policy_probabilities(self, observation: Observation) -> np.ndarray:
        """Return the probability of every action, `(actions,)` or `(batch, actions)`."""
        tensor, batched = self._seen(observation)
        probabilities = self.policy.probabilities(tensor).cpu().numpy()
        return probabilities if batched else probabilities[0]
