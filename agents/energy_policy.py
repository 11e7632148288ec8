"""The policy of `EnergyActorCritic`: `E(a|s) = -Q(s, a)`, sampled at a temperature."""

from __future__ import annotations

import copy
from functools import partialmethod
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from ebrl.energies import Energy
from ebrl.estimators import soft_value
from ebrl.kernels import MALA
from ebrl.kernels.draws import pick, take
from ebrl.networks.normalization import Normalization
from ebrl.sampling import DualAveraging, Sampler, Samples
from ebrl.spaces import Box

from .acting import Acting
from .energy_critic import EnergyCritic
from .optimization import has_betas, tail_weight, with_fused
from .proposal import MixtureProposal, TanhMixture
from .views import View

MINIMUM_WEIGHT = 0.1  # lighter components are hardly trained: the greedy action ignores them


class EnergyPolicy(Acting, BasePolicy):
    """A proposal, energy critics and their moving averages, and the sampler of actions.

    Actions are drawn from `exp(-E(a|s)/temperature)`: `acting_candidates` draws of the proposal are
    resampled by their importance, then moved by `moves` steps of MALA. The algorithm sets
    `temperature`, which is saved with the weights; acting draws from `generator`.
    Arguments that are not listed are those of Stable-Baselines3's policies.

    Args:
        components: Gaussians in the proposal's mixture.
        acting_candidates: Draws of the proposal for each action.
        moves: Steps of MALA for each action.
        normalization: Normalisation of the critics: "batch", "layer" or None.
        proposal_normalization: Normalisation of the proposal, likewise.
        scale_rewards: Give the critics an output scale. The algorithm sets its value.
        target: "average" keeps a moving average of the critics, "none" does not.
        adam_beta1: First decay rate of an optimiser with betas, such as Adam, unless
            `optimizer_kwargs` has betas.
        averaging: Outside of training, act with the proposal's weights averaged over about this
            last share of its updates (see `tail_weight`); 0 uses the newest weights.
        log_deviation_bounds: Bounds to which the proposal's log standard deviations are clamped.
        epsilon: Constant inside the logarithm of tanh's Jacobian: 0 is exact, SB3 has 1e-6.
        n_critics: Number of critics in the ensemble.
    """

    action_space: spaces.Box
    features_extractor_class: type[BaseFeaturesExtractor]
    temperature: Tensor  # 0-dim
    critic_target: EnergyCritic | None
    averaged_proposal: MixtureProposal | None
    proposal_updates: Tensor  # 0-dim, those that the average has seen

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        components: int = 1,
        acting_candidates: int = 1,
        moves: int = 0,
        normalization: Normalization | None = None,
        proposal_normalization: Normalization | None = None,
        scale_rewards: bool = False,
        target: Literal["average", "none"] = "average",
        adam_beta1: float = 0.9,
        averaging: float = 0.0,
        log_deviation_bounds: tuple[float, float] = (-20.0, 2.0),
        epsilon: float = 0.0,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        share_features_extractor: bool = False,
    ):
        if not 0 <= averaging <= 1:
            raise ValueError(f"expected averaging between 0 and 1, got {averaging!r}")
        optimizer_kwargs = with_fused(optimizer_class, optimizer_kwargs)
        if has_betas(optimizer_class):
            optimizer_kwargs = {"betas": (adam_beta1, 0.999), **optimizer_kwargs}
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
            normalize_images=normalize_images,
        )
        self.net_arch = [256, 256] if net_arch is None else net_arch
        self.activation_fn, self.n_critics = activation_fn, n_critics
        self.share_features_extractor = share_features_extractor
        self.components, self.acting_candidates, self.moves = components, acting_candidates, moves
        self.normalization, self.proposal_normalization = normalization, proposal_normalization
        self.scale_rewards, self.target = scale_rewards, target
        self.adam_beta1, self.averaging = adam_beta1, averaging
        self.log_deviation_bounds, self.epsilon = log_deviation_bounds, epsilon
        self.acceptance: Tensor | None = None  # of the last moves
        self.register_buffer("temperature", torch.ones(()))
        self.sampler = Sampler(
            MALA(),
            Box(-1.0, 1.0, walls="tanh"),
            steps=moves,
            step_size=0.01,
            adaptation=DualAveraging(),
        )
        self._build()
        self._make_optimizers(lr_schedule(1))

    def _make_optimizers(self, learning_rate: float) -> None:
        settings: dict[str, Any] = {"lr": learning_rate, **self.optimizer_kwargs}
        for network in (self.proposal, self.critic):
            learnt = dict(network.named_parameters())
            if network is self.critic and self.share_features_extractor:  # the proposal trains it
                learnt = {k: v for k, v in learnt.items() if "features_extractor" not in k}
            network.optimizer = self.optimizer_class(learnt.values(), **settings)

    def _build(self) -> None:
        actor_arch, critic_arch = get_actor_critic_arch(self.net_arch)
        shared: dict[str, Any] = {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "activation_fn": self.activation_fn,
            "normalize_images": self.normalize_images,
        }
        self.proposal = MixtureProposal(
            **shared,
            features_extractor=self.make_features_extractor(),
            net_arch=actor_arch,
            components=self.components,
            normalization=self.proposal_normalization,
            log_deviation_bounds=self.log_deviation_bounds,
            epsilon=self.epsilon,
        )
        self.averaged_proposal = None
        if self.averaging > 0:
            self.averaged_proposal = copy.deepcopy(self.proposal).requires_grad_(False).eval()
            self.register_buffer("proposal_updates", torch.zeros(()))

        def make_critic(extractor: BaseFeaturesExtractor) -> EnergyCritic:
            return EnergyCritic(
                **shared,
                features_extractor=extractor,
                net_arch=critic_arch,
                members=self.n_critics,
                normalization=self.normalization,
                scaled=self.scale_rewards,
            )

        sharing = self.share_features_extractor
        own = self.proposal.features_extractor if sharing else self.make_features_extractor()
        self.critic, self.critic_target = make_critic(own), None
        if self.target == "average":
            self.critic_target = make_critic(self.make_features_extractor())
            self.critic_target.load_state_dict(self.critic.state_dict())
            self.critic_target.requires_grad_(False).set_training_mode(False)

    def set_training_mode(self, mode: bool) -> None:
        if mode == self.training:  # avoids a visit to every module
            return
        self.proposal.set_training_mode(mode)
        self.critic.set_training_mode(mode)
        self.training = mode

    def train(self, mode: bool = True) -> EnergyPolicy:
        """As `torch.nn.Module`; averages stay in evaluation mode."""
        super().train(mode)
        for average in (self.averaged_proposal, self.critic_target):
            if average is not None:
                average.eval()
        return self

    @torch.no_grad()
    def average_proposal(self) -> None:
        """Let the average of the proposal follow one of its updates."""
        if self.averaged_proposal is None:
            return
        self.proposal_updates.add_(1)
        weight = tail_weight(self.averaging, self.proposal_updates)
        averaged, learnt = self.averaged_proposal, self.proposal
        for average, new in zip(averaged.parameters(), learnt.parameters(), strict=True):
            average.add_((new - average) * weight)
        for running, newest in zip(averaged.buffers(), learnt.buffers(), strict=True):
            running.copy_(newest)

    @property
    def acting_proposal(self) -> MixtureProposal:
        """The proposal that acts outside of training."""
        return self.proposal if self.averaged_proposal is None else self.averaged_proposal

    @property
    def actor(self) -> View:
        """The proposal with the signature of SB3's actors: `actor(observation, deterministic)`."""
        return View(self.proposal, self._predict)

    def preprocess(self, observation: PyTorchObs) -> PyTorchObs:
        """Return observations as the networks take them: pixels in [0, 1], one-hot categories."""
        return preprocess_obs(observation, self.observation_space, self.normalize_images)

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Return scaled actions `(batch, action_dim)`."""
        if deterministic:
            return self.greedy(observation)
        return self.sample(observation).squeeze(1)

    def greedy(self, observation: PyTorchObs) -> Tensor:
        """Return the mean of lowest energy among the components that carry weight.

        It is deterministic, and differentiable with respect to the observation.
        """
        observation = self.preprocess(observation)
        mixture = self.acting_proposal(observation)
        means = torch.tanh(mixture.mean)  # (batch, components, action_dim)
        if self.components == 1:
            return means.squeeze(1)
        weights = mixture.log_weights.exp()
        least = weights.amax(-1, keepdim=True).clamp_max(MINIMUM_WEIGHT)
        with torch.no_grad():
            energy = self.critic.given_preprocessed(observation)(means)
            lowest = energy.masked_fill(weights < least, torch.inf).argmin(-1)
        return take(means, lowest)

    @torch.no_grad()
    def sample(self, observation: PyTorchObs, n: int = 1, adapt: bool = False) -> Tensor:
        """Draw scaled actions `(batch, n, action_dim)`, independent given the observation.

        With `adapt`, as in training, the newest proposal draws and the sampler's step size adapts.
        """
        observation = self.preprocess(observation)
        mixture = (self.proposal if adapt else self.acting_proposal)(observation)
        batch, total = mixture.mean.shape[0], n * self.acting_candidates
        free = self._propose(mixture, batch, total)  # (batch, n * candidates, action_dim)
        actions = torch.tanh(free)
        if self.acting_candidates == 1 and self.moves == 0:
            return actions
        energy = self.critic.given_preprocessed(observation)
        if self.acting_candidates > 1:
            groups = (batch, n, self.acting_candidates)
            weights = soft_value(
                energy(actions).view(groups),
                mixture.log_density(free).view(groups),
                self.temperature,
            ).weights
            uniform = torch.rand(batch, n, generator=self.generator, device=free.device)
            actions = take(actions.unflatten(1, groups[1:]), pick(weights, uniform))
        if self.moves > 0:
            actions = self.move(energy, actions, adapt).x
        return actions

    def move(self, energy: Energy, actions: Tensor, adapt: bool) -> Samples:
        """Move actions by MALA at the temperature; `sampler.adaptation` keeps the step size."""
        samples = self.sampler.sample(
            energy, actions, generator=self.generator, temperature=self.temperature, adapt=adapt
        )
        if adapt:
            self.acceptance = samples.info.acceptance
        return samples

    def _propose(self, mixture: TanhMixture, batch: int, count: int) -> Tensor:
        """Draw `(batch, count, action_dim)` before the tanh, independently of each other."""
        device = mixture.mean.device
        normal = torch.randn(
            batch, count, mixture.mean.shape[-1], generator=self.generator, device=device
        )
        if self.components == 1:
            return mixture.one_each(normal)
        uniform = torch.rand(batch, count, generator=self.generator, device=device)
        return mixture.draw(uniform, normal)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Return actions of [-1, 1] in the environment's units, rounded within its bounds."""
        actions = super().unscale_action(scaled_action)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            components=self.components,
            acting_candidates=self.acting_candidates,
            moves=self.moves,
            normalization=self.normalization,
            proposal_normalization=self.proposal_normalization,
            scale_rewards=self.scale_rewards,
            target=self.target,
            adam_beta1=self.adam_beta1,
            averaging=self.averaging,
            log_deviation_bounds=self.log_deviation_bounds,
            epsilon=self.epsilon,
            n_critics=self.n_critics,
            share_features_extractor=self.share_features_extractor,
            lr_schedule=self._dummy_schedule,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
        )
        return data


def with_average(weights: dict[str, Tensor], averaged: bool) -> dict[str, Tensor]:
    """Return a policy's weights with or without the average of its proposal.

    An average that is missing begins at the proposal.
    """
    has = "proposal_updates" in weights
    if has == averaged:
        return weights
    if has:
        of_average = ("averaged_proposal.", "proposal_updates")
        return {name: one for name, one in weights.items() if not name.startswith(of_average)}
    learnt = {name: one for name, one in weights.items() if name.startswith("proposal.")}
    if not learnt:  # weights without a proposal: leave the average alone
        return weights
    average = {f"averaged_{name}": one.clone() for name, one in learnt.items()}
    return {**weights, **average, "proposal_updates": torch.zeros(())}


class CnnPolicy(EnergyPolicy):
    """`EnergyPolicy` for images, with SB3's `NatureCNN`."""

    __init__ = partialmethod(EnergyPolicy.__init__, features_extractor_class=NatureCNN)


class MultiInputPolicy(EnergyPolicy):
    """`EnergyPolicy` for dictionaries of observations, with SB3's `CombinedExtractor`."""

    __init__ = partialmethod(EnergyPolicy.__init__, features_extractor_class=CombinedExtractor)
