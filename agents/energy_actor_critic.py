"""EnergyActorCritic: a soft actor-critic whose critic is the policy's energy.

`pi(a|s) ∝ exp(-E(a|s)/alpha)` with `E = -Q`. A proposal q with an exact density draws candidates,
their importance gives the soft value of the next observation,

    log w_m = Q'(s', a_m)/alpha - log q(a_m|s'),    V(s') = alpha log (1/M) Σ_m exp(log w_m),

and the proposal follows the energy by the reverse KL divergence. With one candidate and one
component V is `Q' - alpha log q` and the agent is SAC (Haarnoja et al. 2018).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import (
    DictReplayBufferSamples,
    GymEnv,
    MaybeCallback,
    ReplayBufferSamples,
    Schedule,
)
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor

from ebrl.agents import flat
from ebrl.agents.energy_policy import CnnPolicy, EnergyPolicy, MultiInputPolicy
from ebrl.agents.proposal import Divergence, TanhMixture, perplexity
from ebrl.agents.saving import Saving
from ebrl.estimators import SoftValue, soft_value

Self = TypeVar("Self", bound="EnergyActorCritic")
Batch = ReplayBufferSamples | DictReplayBufferSamples


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
            "energy": self.divergence.energies,
            "soft_value": self.soft.value,
            "effective_sample_size": self.soft.effective_sample_size,
            "mixture_perplexity": perplexity(self.divergence.weights),
        }


class EnergyActorCritic(Saving):
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
    policy: EnergyPolicy

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
        for name in ("candidates", "components", "acting_candidates"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"expected {name} >= 1, got {count}")
        if self.moves < 0:
            raise ValueError(f"expected moves >= 0, got {self.moves}")
        if self.target_update_interval < 1:
            raise ValueError(
                f"expected target_update_interval >= 1, got {self.target_update_interval}"
            )
        temperature = self.initial_ent_coef if self.ent_coef == "auto" else self.ent_coef
        if isinstance(temperature, str) or not temperature > 0:
            raise ValueError(
                f"expected ent_coef to be 'auto' or a temperature above 0, got {temperature!r}"
            )

    def _setup_model(self) -> None:
        self.policy_kwargs = {
            **self.policy_kwargs,
            "components": self.components,
            "acting_candidates": self.acting_candidates or self.candidates,
            "moves": self.moves,
        }
        super()._setup_model()
        self.policy.flatten(self.lr_schedule(1))
        self._seed_generators()
        self.proposal, self.critic = self.policy.proposal, self.policy.critic
        self.critic_target = self.policy.critic_target
        self._running = get_parameters_by_name(self.critic, ["running_"])
        self._running_target = get_parameters_by_name(self.critic_target, ["running_"])
        self._setup_temperature()
        self._report: UpdateReport | None = None

    def _seed_generators(self) -> None:
        """Give acting and training a stream each, so that neither disturbs the other."""
        self.generators = {name: torch.Generator(self.device) for name in ("acting", "training")}
        for offset, generator in enumerate(self.generators.values()):
            if self.seed is None:
                generator.seed()
            else:
                generator.manual_seed(2 * self.seed + offset)
        self.policy.generator = self.generators["acting"]

    def _setup_temperature(self) -> None:
        if self.target_entropy == "auto":
            self.target_entropy = -float(get_action_dim(self.action_space))
        self.log_ent_coef: Tensor | None = None
        self.ent_coef_optimizer: torch.optim.Optimizer | None = None
        if self.ent_coef == "auto":
            self.log_ent_coef = torch.full(
                (1,), float(np.log(self.initial_ent_coef)), device=self.device, requires_grad=True
            )
            self.ent_coef_optimizer = torch.optim.Adam(
                [self.log_ent_coef], lr=self.lr_schedule(1), fused=True
            )
            self.policy.temperature.fill_(self.initial_ent_coef)
        else:
            self.policy.temperature.fill_(float(self.ent_coef))

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update critics, proposal and temperature on `gradient_steps` batches of the replay."""
        self.policy.set_training_mode(True)
        optimizers = [self.proposal.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        assert self.replay_buffer is not None  # made by _setup_model
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            self._report = self._update(batch, self._draw(batch.rewards))
            self._n_updates += 1
            if self._n_updates % self.target_update_interval == 0:
                self._update_target()

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

    def _update(self, batch: Batch, noise: UpdateNoise) -> UpdateReport:
        """Do one update: critics, proposal, temperature, all at the temperature before."""
        alpha = self.policy.temperature.clone()
        value, soft = self._target(batch, noise, alpha)
        self.policy.flat["critic"].gradient.zero_()
        # Half the mean squared Bellman error, summed over the critics: E = -Q.
        critic_loss = self.critic.given(batch.observations).regress(batch.actions, -value)
        flat.step(self.critic.optimizer)

        with torch.no_grad():
            energy = self.critic.given(batch.observations, "max")
        self.policy.flat["proposal"].gradient.zero_()
        divergence = self.proposal.follow(batch.observations, noise.proposal, energy, alpha)
        flat.step(self.proposal.optimizer)
        self._update_temperature(divergence.entropy)
        return UpdateReport(critic_loss, divergence, soft)

    def _update_temperature(self, entropy: Tensor) -> None:
        """Move the temperature so that the proposal's entropy comes to the target."""
        if self.log_ent_coef is None or self.ent_coef_optimizer is None:
            return
        self.log_ent_coef.grad = (entropy - float(self.target_entropy)).reshape(1)
        flat.step(self.ent_coef_optimizer)
        self.policy.temperature.copy_(self.log_ent_coef.detach().exp().squeeze(0))

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

    def _update_target(self) -> None:
        with torch.no_grad():
            average, current = self.policy.flat["critic_target"], self.policy.flat["critic"]
            average.parameter.lerp_(current.parameter, self.tau)
            for target, running in zip(self._running_target, self._running, strict=True):
                target.copy_(running)

    def dump_logs(self) -> None:
        """Write the logs; only here does the host wait for the device."""
        if self._report is not None:
            for name, value in self._report.metrics().items():
                self.logger.record(f"train/{name}", value.mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self.policy.acceptance is not None:
            self.logger.record("sampler/acceptance", self.policy.acceptance.mean().item())
            self.logger.record("sampler/step_size", float(self.policy.sampler.step_size))
        super().dump_logs()

    def sample_actions(self, observation: np.ndarray | dict[str, np.ndarray], n: int) -> np.ndarray:
        """Draw `(n, action_dim)` actions for one observation, in the environment's units."""
        self.policy.set_training_mode(False)
        tensor, _ = self._one(observation)
        actions = self.policy.sample(tensor, n, adapt=False)[0].cpu().numpy()
        return self.policy.unscale_action(actions.reshape(n, *self.policy.action_space.shape))

    def energy(
        self, observation: np.ndarray | dict[str, np.ndarray], actions: np.ndarray
    ) -> np.ndarray:
        """Return `-mean Q` of `(n, action_dim)` actions for one observation, `(n,)`, as reward.

        Actions are in the environment's units.
        """
        self.policy.set_training_mode(False)
        tensor, _ = self._one(observation)
        scaled = self.policy.scale_action(np.asarray(actions))
        rows = torch.as_tensor(scaled, dtype=torch.float32, device=self.device).flatten(1)
        with torch.no_grad():
            return self.policy.critic.given(tensor)(rows.unsqueeze(0))[0].cpu().numpy()

    def _one(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[Any, bool]:
        tensor, vectorized = self.policy.obs_to_tensor(observation)
        if vectorized:
            raise ValueError(
                "expected one observation of the environment's observation space, got a batch of "
                "them: call once for each"
            )
        return tensor, vectorized

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "EnergyActorCritic",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )

    def _excluded_save_params(self) -> list[str]:
        aliases = ["proposal", "critic", "critic_target", "_running", "_running_target"]
        return [*super()._excluded_save_params(), *aliases, "generators", "_report"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", "proposal.optimizer", "critic.optimizer"]
        if self.ent_coef_optimizer is None:
            return state_dicts, []
        return [*state_dicts, "ent_coef_optimizer"], ["log_ent_coef"]
