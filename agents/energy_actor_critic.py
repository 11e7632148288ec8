"""EnergyActorCritic: a soft actor-critic whose critic is the policy's energy.

`pi(a|s) ∝ exp(-E(a|s)/alpha)` with `E = -Q`. A proposal q with an exact density draws candidates,
their importance gives the soft value of the next observation,

    log w_m = Q'(s', a_m)/alpha - log q(a_m|s'),    V(s') = alpha log (1/M) Σ_m exp(log w_m),

and the proposal follows the energy by the reverse KL divergence. With one candidate and one
component V is `Q' - alpha log q` and the agent is SAC (Haarnoja et al. 2018).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from ebrl.agents.energy_policy import CnnPolicy, EnergyCritic, EnergyPolicy, MultiInputPolicy
from ebrl.agents.proposal import (
    Divergence,
    MixtureProposal,
    TanhMixture,
    perplexity,
    reverse_kl,
)
from ebrl.agents.soft_agent import Batch, Observation, SoftAgent, descend
from ebrl.estimators import SoftValue, soft_value

OF_THE_AGENT = ("components", "moves", "acting_candidates")  # arguments of the policy


class UpdateNoise(NamedTuple):
    """All the randomness of one update."""

    proposal: Tensor  # (batch, components, action_dim), normal
    candidates: Tensor  # (batch, candidates, action_dim), normal
    offset: Tensor  # (batch, 1), uniform


class UpdateReport(NamedTuple):
    """What the last update saw; averaged and read by the host only when the logs are written."""

    critic_loss: Tensor
    divergence: Divergence
    soft: SoftValue  # of the next observations

    def metrics(self) -> dict[str, Tensor]:
        return {
            "critic_loss": self.critic_loss,
            "actor_loss": self.divergence.loss,
            "ent_coef": self.divergence.temperature,
            "entropy": self.divergence.entropy,
            "energy": self.divergence.energy,
            "soft_value": self.soft.value,
            "effective_sample_size": self.soft.effective_sample_size,
            "mixture_perplexity": perplexity(self.divergence.weights),
        }


class EnergyActorCritic(SoftAgent):
    """A native Stable-Baselines3 algorithm for continuous actions.

    What SAC has not:

    :param candidates: draws of the proposal in the soft value of the next observation
    :param components: Gaussians in the proposal's mixture
    :param moves: steps of MALA on the energy when acting
    :param acting_candidates: draws resampled by importance when acting; `candidates` if None
    :param initial_ent_coef: where an automatic temperature starts

    Everything else is named and defaults as in `stable_baselines3.SAC`. `ent_coef` is the
    temperature alpha, in units of reward; it is tuned so that the proposal's entropy,
    `-E_q log q`, meets `target_entropy`, `-action_dim` by default.
    """

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
    critic_target: EnergyCritic

    def __init__(
        self,
        policy: str | type[EnergyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        candidates: int = 4,
        components: int = 1,
        moves: int = 2,
        acting_candidates: int | None = None,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: float | Literal["auto"] = "auto",
        initial_ent_coef: float = 1.0,
        target_update_interval: int = 1,
        target_entropy: float | Literal["auto"] = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
        )
        self.candidates, self.components, self.moves = candidates, components, moves
        self.acting_candidates = acting_candidates
        self.ent_coef, self.initial_ent_coef = ent_coef, initial_ent_coef
        self.target_entropy, self.target_update_interval = target_entropy, target_update_interval
        self._check_parameters()
        if _init_setup_model:
            self._setup_model()

    def _check_parameters(self) -> None:
        entropy = self.target_entropy
        if entropy != "auto" and (isinstance(entropy, str) or not math.isfinite(entropy)):
            raise ValueError(f"expected target_entropy to be 'auto' or finite, got {entropy!r}")
        if taken := [name for name in OF_THE_AGENT if name in self.policy_kwargs]:
            raise ValueError(
                f"expected policy_kwargs without {taken}: give them to the agent, "
                f"{type(self).__name__}(..., {taken[0]}={self.policy_kwargs[taken[0]]!r})"
            )
        super()._check_parameters()

    def _setup_model(self) -> None:
        users = self.policy_kwargs  # what is saved, and given again when loading
        self.policy_kwargs = self._policy_arguments()
        super()._setup_model()
        self.policy_kwargs = users
        if self.target_entropy == "auto":
            self.target_entropy = -float(get_action_dim(self.action_space))
        self._report: UpdateReport | None = None

    def _policy_arguments(self) -> dict[str, Any]:
        """Return the policy's arguments: the user's, and those that are given to the agent."""
        own = (self.components, self.moves, self.acting_candidates or self.candidates)
        return {**self.policy_kwargs, **dict(zip(OF_THE_AGENT, own, strict=True))}

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return actions in the environment's units and scaled, as Stable-Baselines3 does.

        Only the moves made here adapt the sampler's step size; those of `predict` do not.
        """
        if self.num_timesteps < learning_starts:
            random = np.array([self.action_space.sample() for _ in range(n_envs)])
            scaled = self.policy.scale_action(random)
        else:
            assert self._last_obs is not None  # set by `learn`
            self.policy.set_training_mode(False)
            observation, _ = self.policy.obs_to_tensor(self._last_obs)
            sampled = self.policy.sample(observation, adapt=True).squeeze(1).cpu().numpy()
            scaled = sampled.reshape(n_envs, *self.action_space.shape)
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _draw(self, rewards: Tensor) -> UpdateNoise:
        generator, batch = self.generators["training"], rewards.shape[0]
        dimension = self.proposal.dimension

        def normal(count: int) -> Tensor:
            return torch.randn(
                batch, count, dimension, generator=generator, device=generator.device
            )

        return UpdateNoise(
            proposal=normal(self.components),
            candidates=normal(self.candidates),
            offset=torch.rand(batch, 1, generator=generator, device=generator.device),
        )

    def _update(self, batch: Batch) -> None:
        """Do one update: critics, proposal, temperature, all at the temperature before."""
        noise = self._draw(batch.rewards)
        alpha = self.policy.temperature.clone()
        target, soft = self._target(batch, noise, alpha)
        energies = self.critic.given(batch.observations).member_values(batch.actions)
        critic_loss = 0.5 * (energies + target).square().mean(-1).sum()  # E = -Q
        descend(self.critic, critic_loss)

        energy = self.critic.given(batch.observations, "max")
        divergence = reverse_kl(self.proposal(batch.observations), noise.proposal, energy, alpha)
        descend(self.proposal, divergence.loss)
        divergence = divergence.detached()
        self._update_temperature(divergence.entropy, float(self.target_entropy))
        self._report = UpdateReport(critic_loss.detach(), divergence, soft)

    @torch.no_grad()
    def _target(self, batch: Batch, noise: UpdateNoise, alpha: Tensor) -> tuple[Tensor, SoftValue]:
        """Return the soft Bellman target `(batch,)` and the next observations' soft value."""
        mixture: TanhMixture = self.proposal(batch.next_observations)
        free = mixture.systematic(noise.offset, noise.candidates)
        energy = self.critic_target.given(batch.next_observations, "max")(torch.tanh(free))
        soft = soft_value(energy, mixture.log_density(free, noise.candidates), alpha)
        discount = self.gamma if batch.discounts is None else batch.discounts.squeeze(-1)
        alive = 1 - batch.dones.squeeze(-1)
        return batch.rewards.squeeze(-1) + alive * discount * soft.value, soft

    def _metrics(self) -> dict[str, Tensor]:
        return {} if self._report is None else self._report.metrics()

    def dump_logs(self) -> None:
        if self.policy.acceptance is not None:
            self.logger.record("sampler/acceptance", self.policy.acceptance.mean().item())
            self.logger.record("sampler/step_size", float(self.policy.sampler.step_size))
        super().dump_logs()

    def sample_actions(self, observation: Observation, n: int) -> np.ndarray:
        """Draw `(n, action_dim)` actions for one observation, in the environment's units."""
        tensor = self._one(observation)
        actions = self.policy.sample(tensor, n)[0].cpu().numpy()
        return self.policy.unscale_action(actions.reshape(n, *self.policy.action_space.shape))

    def energy(self, observation: Observation, actions: np.ndarray) -> np.ndarray:
        """Return `-mean Q` of `(n, action_dim)` actions for one observation, `(n,)`, as reward.

        Actions are in the environment's units.
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
