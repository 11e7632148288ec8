"""EnergyActorCritic: a soft actor-critic whose critic is the policy's energy.

`pi(a|s) ∝ exp(-E(a|s)/alpha)` with `E = -Q`. A proposal q with an exact density draws candidates.
Their importance weights give the soft value of the next observation,

    log w_m = Q'(s', a_m)/alpha - log q(a_m|s'),    V(s') = alpha log (1/M) Σ_m exp(log w_m),

and the proposal is fitted to the energy by the reverse KL divergence. Q' is the critic itself. It
normalises over the batch in one pass over (s, a) and (s', a'), which makes target networks
unnecessary (CrossQ, Bhatt et al. 2024). With `target="average"` Q' is an averaged critic. Then,
without normalisation and with one candidate and one component, V is `Q' - alpha log q` and the
agent is SAC (Haarnoja et al. 2018).
"""

from __future__ import annotations

import math
import warnings
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from ebrl.estimators import SoftValue, soft_value
from ebrl.networks.normalization import Normalization
from ebrl.sampling import StartError
from ebrl.training import DivergedError
from ebrl.training.watch import check_finite_weights

from .continuous import ContinuousAgent
from .energy_critic import EnergyCritic
from .energy_policy import EnergyPolicy
from .proposal import TanhMixture, perplexity, reverse_kl
from .soft_agent import Due, Transitions

# Arguments of the policy in SAC with state-dependent exploration.
OF_SDE = ("use_sde", "log_std_init", "use_expln", "clip_mean")


class UpdateNoise(NamedTuple):
    """All the randomness of one update."""

    proposal: Tensor  # (batch, components, action_dim), normal
    candidates: Tensor  # (batch, candidates, action_dim), normal
    offset: Tensor  # (batch, 1), uniform


class EnergyActorCritic(ContinuousAgent):
    """A Stable-Baselines3 algorithm for continuous actions.

    Arguments that are not listed have the names and defaults of `stable_baselines3.SAC`, but for a
    learning rate of 1e-3.

    Args:
        candidates: Draws of the proposal in the soft value of the next observation.
        components: Gaussians in the proposal's mixture.
        moves: Steps of MALA on the energy when acting.
        acting_candidates: Draws of the proposal that are resampled by their importance when acting.
        normalization: Normalisation of the critics: "batch", "layer" or None.
        proposal_normalization: Normalisation of the proposal, likewise.
        unit_weights: After each update, scale the weights into every hidden unit of the critics to
            norm 1. Requires `normalization="batch"`.
        scale_rewards: Learn in units of the running deviation of the discounted return. Energies
            and temperatures stay in units of reward.
        target: Which critic values the next observation. "average" is a moving average, as in SAC.
            "none" is the critic itself, with joint batch statistics of this and the next step;
            `tau` and `target_update_interval` then have no effect.
        policy_delay: Updates of the critics for each update of the proposal and the temperature.
        adam_beta1: First decay rate of Adam, or of another optimiser with betas, for critics and
            proposal, unless the `optimizer_kwargs` of `policy_kwargs` have betas.
        averaging: Outside of training, act with the proposal's weights averaged over about this
            last share of its updates; 0 uses the newest weights.
        ent_coef: The temperature alpha, in units of reward. "auto" tunes it so that the proposal's
            entropy, `-E_q log q`, meets `target_entropy`.
        initial_ent_coef: Where an automatic temperature starts.
        target_entropy: Target of the entropy, in nats; "auto" is `-action_dim`.
        compile: Run each update as one compiled program, which takes tens of seconds to make. It
            needs a C++ compiler and torch's Adam.
        precision: Precision of the products in an update. "bfloat16" keeps weights and optimisers
            in float32.
    """

    given_to_policy = (
        "components",
        "moves",
        "acting_candidates",
        "normalization",
        "proposal_normalization",
        "scale_rewards",
        "target",
        "adam_beta1",
        "averaging",
    )
    critic_target: EnergyCritic | None

    def __init__(
        self,
        policy: str | type[EnergyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        candidates: int = 1,
        components: int = 1,
        moves: int = 2,
        acting_candidates: int = 4,
        normalization: Normalization | None = "batch",
        proposal_normalization: Normalization | None = None,
        unit_weights: bool = False,
        scale_rewards: bool = False,
        target: Literal["average", "none"] = "none",
        policy_delay: int = 3,
        adam_beta1: float = 0.5,
        averaging: float = 0.02,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: float | str = "auto",
        initial_ent_coef: float = 1.0,
        target_update_interval: int = 1,
        target_entropy: float | Literal["auto"] = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
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
        super().__init__(
            policy, env, learning_rate, buffer_size, learning_starts, batch_size, tau, gamma,
            train_freq, gradient_steps, action_noise, replay_buffer_class, replay_buffer_kwargs,
            optimize_memory_usage, n_steps, without_sde(policy_kwargs, use_sde), stats_window_size,
            tensorboard_log, verbose, device, seed=seed, sde_support=False,
            support_multi_env=True, supported_action_spaces=(spaces.Box,),
        )  # fmt: skip
        self.candidates, self.components, self.moves = candidates, components, moves
        self.acting_candidates, self.scale_rewards = acting_candidates, scale_rewards
        self.normalization, self.proposal_normalization = normalization, proposal_normalization
        self.unit_weights, self.target, self.policy_delay = unit_weights, target, policy_delay
        self.ent_coef, self.initial_ent_coef = ent_coef, initial_ent_coef
        self.target_entropy, self.target_update_interval = target_entropy, target_update_interval
        self.adam_beta1, self.averaging = adam_beta1, averaging
        self.compile, self.precision = compile, precision
        self._begin(_init_setup_model)

    def _check_parameters(self) -> None:
        if self.unit_weights and self.normalization != "batch":
            raise ValueError(
                f"expected normalization='batch' for unit_weights=True, got {self.normalization!r}"
            )
        entropy = self.target_entropy
        if entropy != "auto" and not (isinstance(entropy, Real) and math.isfinite(entropy)):
            raise ValueError(f"expected target_entropy to be 'auto' or finite, got {entropy!r}")
        super()._check_parameters()

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.unit_weights:
            self.critic.energy.project_weights()
            if self.critic_target is not None:
                self.critic_target.energy.project_weights()
        dimension = get_action_dim(self.action_space)
        if self.target_entropy == "auto":
            self.target_entropy = -float(dimension)
        if self.target_entropy >= (most := dimension * math.log(2)):
            raise ValueError(
                f"expected a target_entropy below {most:.3g} nats, that of uniform actions in "
                f"[-1, 1], got {self.target_entropy}"
            )

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
            sampled = self._sample_finite(observation).squeeze(1).numpy()
            scaled = sampled.reshape(n_envs, *self.action_space.shape)
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _sample_finite(self, observation: Any) -> Tensor:
        """Return one action for each observation, on the CPU, adapting the sampler.

        Raises:
            DivergedError: If the networks' weights or energies are no longer finite.
        """
        try:
            actions = self.policy.sample(observation, adapt=True).cpu()
        except ValueError as error:
            self._check_weights()
            if isinstance(error, StartError):  # weights so large that the energy overflows
                raise self._diverged(f"no action can be drawn ({error})") from error
            raise
        if not actions.isfinite().all():
            raise self._diverged("an action is not finite")
        return actions

    def _check_weights(self) -> None:
        """Raise DivergedError if a weight of the policy is not finite."""
        try:
            check_finite_weights(self.policy)
        except DivergedError as error:
            raise self._diverged(str(error)) from error

    def _draw(self, batch_size: int) -> UpdateNoise:
        stream, dimension = self.generators["training"], self.proposal.dimension

        def normal(count: int) -> Tensor:
            shape = (batch_size, count, dimension)
            return torch.randn(shape, generator=stream, device=stream.device)

        return UpdateNoise(
            proposal=normal(self.components),
            candidates=normal(self.candidates),
            offset=torch.rand(batch_size, 1, generator=stream, device=stream.device),
        )

    def _update(self, batch: Transitions, noise: UpdateNoise, due: Due) -> dict[str, Tensor]:
        """Update critics, proposal and temperature, all at the temperature before the update."""
        alpha = self.policy.temperature.clone()
        critic_loss, soft = self._critic_loss(batch, noise, alpha)
        self._descend("critic", critic_loss)
        if self.unit_weights:
            self.critic.energy.project_weights(frozen=False)
        metrics = {
            "critic_loss": critic_loss.detach(),
            "soft_value": soft.value.mean(),
            "effective_sample_size": soft.effective_sample_size.mean(),
        }
        if due.policy:
            metrics |= self._improve(batch, noise, alpha)
        if due.target:
            self._update_target()
        return metrics

    def _critic_loss(
        self, batch: Transitions, noise: UpdateNoise, alpha: Tensor
    ) -> tuple[Tensor, SoftValue]:
        """Return the critics' loss, 0-dim, and the soft value of the next observations."""
        with torch.no_grad():
            mixture: TanhMixture = self.proposal(batch.next_observations)
            free = mixture.systematic(noise.offset, noise.candidates)
            log_density = mixture.log_density(free, noise.candidates)  # (batch, candidates)
        energies, after = self._energies(batch, torch.tanh(free))
        soft = soft_value(after, log_density, alpha)
        target = batch.rewards + batch.discounts * soft.value  # (batch,)
        return self._bellman_loss(energies, target), soft

    def _improve(self, batch: Transitions, noise: UpdateNoise, alpha: Tensor) -> dict[str, Tensor]:
        """Move the proposal towards the energy, and the temperature towards the entropy."""
        with torch.no_grad():  # shared features learn from the proposal alone, as in SB3
            energy = self.critic.given_preprocessed(batch.observations, "max")
        mixture = self.proposal.of_batch(batch.observations)
        divergence = reverse_kl(mixture, noise.proposal, energy, alpha)
        self._descend("proposal", divergence.loss)
        self.policy.average_proposal()
        divergence = divergence.detached()
        self._update_temperature(divergence.entropy, float(self.target_entropy))
        return {
            "actor_loss": divergence.loss,
            "ent_coef": alpha,
            "entropy": divergence.entropy,
            "energy": divergence.energy,
            "mixture_perplexity": perplexity(divergence.weights).mean(),
        }

    def _energies(self, batch: Transitions, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Return each critic's energies of the batch, and the largest of the next candidates'.

        Args:
            batch: A batch of the replay.
            candidates: Actions at the next observations, `(batch, M, action_dim)`.

        Returns:
            `(members, batch)`, and `(batch, M)` without a graph.
        """
        if self.critic_target is None:
            return self._joint_energies(batch, candidates)
        with torch.no_grad():
            later = self.critic_target.given_preprocessed(batch.next_observations, "max")
            after = later(candidates)
        energy = self.critic.given_preprocessed(batch.observations)
        return energy.batch_values(batch.actions)[0], after

    def _joint_energies(self, batch: Transitions, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Return `_energies` from one pass over this and the next step, with joint statistics.

        The first candidate of each next observation enters the statistics; the others reuse them.
        """
        extract, energy = self.critic.features_extractor, self.critic.energy
        with torch.no_grad():
            next_features = extract(batch.next_observations)
        features = torch.cat([extract(batch.observations), next_features])
        actions = torch.cat([batch.actions, candidates[:, 0]])
        energies, affines = energy.given(features).batch_values(actions)
        now, after = energies.chunk(2, -1)  # (members, batch) each
        if candidates.shape[1] == 1:
            return now, after.detach().amax(0).unsqueeze(-1)
        with torch.no_grad():
            fixed = [affine.detached() for affine in affines]
            others = energy.given(next_features).member_values(candidates[:, 1:], fixed)
            return now, torch.cat([after.unsqueeze(-1), others], -1).amax(0)

    def dump_logs(self) -> None:
        if self.policy.acceptance is not None:
            self.logger.record("sampler/acceptance", self.policy.acceptance.mean().item())
            self.logger.record("sampler/step_size", float(self.policy.sampler.step_size))
        super().dump_logs()


def without_sde(policy_kwargs: dict[str, Any] | None, use_sde: bool) -> dict[str, Any]:
    """Drop SAC's arguments of state-dependent exploration, with a warning where it is on."""
    given = policy_kwargs or {}
    if use_sde or given.get("use_sde", False):
        warnings.warn(
            "use_sde=True is ignored: this agent explores by draws from its energy; for noise "
            "correlated in time pass action_noise=OrnsteinUhlenbeckActionNoise(...)",
            stacklevel=3,
        )
    return {name: value for name, value in given.items() if name not in OF_SDE}
