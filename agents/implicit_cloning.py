"""ImplicitCloning: behaviour cloning as an energy, by ranking noise contrast.

`pi(a|s) ∝ exp(-E(a|s))` is fitted to demonstrations: the energy identifies the demonstrated action
among candidates from a proposal q,

    L = -log softmax_j(-E(a_j|s) - log q(a_j|s))_demonstrated.

Candidates of a learned mixture of Gaussians alone would lie at the modes, and leave the energy flat
elsewhere. Therefore a share of the candidates is uniform, and q is the density of both together.

Implicit behavioural cloning (Florence et al. 2021) leaves out `log q`, and its optimum is biased
towards what the candidates lack; with it the optimum is the demonstrator's policy for any q (R-NCE,
Singh, Tu and Sindhwani 2023). The candidates are independent draws, since dependent ones betray
which of them is the demonstration. The proposal is trained beside it by maximum likelihood.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch import Tensor

from .continuous import ContinuousAgent
from .demonstrations import learn_offline
from .energy_policy import EnergyPolicy
from .proposal import TanhMixture, perplexity
from .soft_agent import Due, Transitions

DEFAULTS = {  # of the policy
    "activation_fn": torch.nn.SiLU,  # a smooth energy
    "n_critics": 1,
    # The likelihood of actions that repeat exactly has no other bound.
    "log_deviation_bounds": (-4.0, 2.0),
}
ADAPT_EVERY, ADAPTED = 10, 32  # updates; observations that the sampler's step size is fitted to
EDGE = 1 - 1e-3  # bound of demonstrated actions, since tanh reaches 1 only at infinity


class CloningNoise(NamedTuple):
    """All the randomness of one update."""

    candidates: Tensor  # (batch, candidates, action_dim), normal
    component: Tensor  # (batch, candidates), uniform
    anywhere: Tensor  # (batch, candidates, action_dim), uniform in [-1, 1]^d
    chosen: Tensor  # (batch, candidates, 1) bool: which candidates are the uniform ones


class ImplicitCloning(ContinuousAgent):
    """An energy of actions that clones demonstrations; a Stable-Baselines3 algorithm.

    Fill the replay with `ebrl.agents.demonstrations.fill`. Each timestep of `learn` is one update
    on the replay, without a step in the environment. The agent acts as `EnergyActorCritic` does:
    draws of the proposal are resampled and moved by the energy. With `acting_candidates=1` and
    `moves=0` the proposal acts alone: behaviour cloning by a Gaussian or a mixture density.

    Arguments that are not listed have the names of `stable_baselines3.SAC`.

    Args:
        candidates: Draws of the proposal for each demonstrated action.
        uniform_share: Share of the candidates that are uniform over the actions, above 0.
        components: Gaussians in the proposal's mixture.
        acting_candidates: Draws that are resampled by their importance when acting.
        moves: Steps of MALA on the energy when acting.
        normalization: Normalisation of the energy: "layer" or None.
    """

    given_to_policy = ("components", "moves", "acting_candidates", "normalization", "target")
    # The energy is in nats, and there is no target network.
    ent_coef = initial_ent_coef = 1.0
    target, target_update_interval = "none", 1
    compile, precision, scale_rewards = False, "float32", False

    def __init__(
        self,
        policy: str | type[EnergyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        batch_size: int = 256,
        candidates: int = 32,
        uniform_share: float = 0.5,
        components: int = 8,
        acting_candidates: int = 16,
        moves: int = 4,
        normalization: Literal["layer"] | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
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
            learning_starts=0,
            batch_size=batch_size,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
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
        self.acting_candidates, self.normalization = acting_candidates, normalization
        self.uniform_share = uniform_share
        if not 0 < uniform_share < 1:
            raise ValueError(f"expected 0 < uniform_share < 1, got {uniform_share}")
        if normalization not in (None, "layer"):
            raise ValueError(f"expected normalization 'layer' or None, got {normalization!r}")
        if (policy_kwargs or {}).get("proposal_normalization") == "batch":
            raise ValueError(
                "expected proposal_normalization 'layer' or None, got 'batch': cloning keeps no "
                "running statistics"
            )
        self._begin(_init_setup_model)

    def _policy_arguments(self) -> dict[str, Any]:
        users = self.policy_kwargs
        defaults = {name: value for name, value in DEFAULTS.items() if name not in users}
        return {**defaults, **super()._policy_arguments()}

    def learn(  # one log, named after the class
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> ImplicitCloning:
        """Take `total_timesteps` updates on the demonstrations in the replay.

        `log_interval` counts episodes, of which there are none: it has no effect.

        Raises:
            ValueError: If the replay is empty.
        """
        learn_offline(
            self, total_timesteps, callback, tb_log_name, progress_bar, reset_num_timesteps
        )
        return self

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update energy and proposal, and regularly adapt the step size of the moves."""
        super().train(gradient_steps, batch_size)
        if self.moves > 0 and self._n_updates % ADAPT_EVERY < gradient_steps:
            assert self.replay_buffer is not None  # made by _setup_model
            samples = self.replay_buffer.sample(ADAPTED, env=self._vec_normalize_env)
            self.policy.set_training_mode(False)
            self.policy.sample(samples.observations, adapt=True)

    def _draw(self, batch_size: int) -> CloningNoise:
        stream = self.generators["training"]
        shape = (batch_size, self.candidates, self.proposal.dimension)
        options: dict[str, Any] = {"generator": stream, "device": stream.device}
        return CloningNoise(
            candidates=torch.randn(shape, **options),
            component=torch.rand(*shape[:2], **options),
            anywhere=2 * torch.rand(shape, **options) - 1,
            chosen=torch.rand(*shape[:2], 1, **options) < self.uniform_share,
        )

    def _update(self, batch: Transitions, noise: CloningNoise, due: Due) -> dict[str, Tensor]:
        """Do one update of the energy and of the proposal."""
        demonstrated = _inside(batch.actions).unsqueeze(1)
        mixture: TanhMixture = self.proposal(batch.observations)
        proposal_loss = -mixture.log_density(demonstrated).mean()
        with torch.no_grad():
            drawn = mixture.draw(noise.component, noise.candidates)
            drawn = torch.where(noise.chosen, _inside(noise.anywhere), drawn)
            free = torch.cat([demonstrated, drawn], 1)  # (batch, 1 + candidates, action_dim)
            learnt = mixture.log_density(free) + math.log(1 - self.uniform_share)
            uniform = math.log(self.uniform_share) - free.shape[-1] * math.log(2)
            log_density = torch.logaddexp(learnt, torch.full_like(learnt, uniform))
        energy = self.critic.given_preprocessed(batch.observations)(torch.tanh(free))
        log_odds = -energy - log_density
        energy_loss = -torch.log_softmax(log_odds, 1)[:, 0].mean()
        self._descend("critic", energy_loss)
        self._descend("proposal", proposal_loss)
        self.policy.average_proposal()
        below = log_odds[:, 1:] < log_odds[:, :1]  # the energy ranks them below the demonstration
        return {
            "energy_loss": energy_loss.detach(),
            "proposal_loss": proposal_loss.detach(),
            "ranked_below": below.float().mean(),
            "mixture_perplexity": perplexity(mixture.log_weights.detach().exp()).mean(),
        }


def _inside(actions: Tensor) -> Tensor:
    """Return the actions before the tanh; those at a bound are moved inside by 1 - EDGE."""
    return torch.atanh(actions.clamp(-EDGE, EDGE))
