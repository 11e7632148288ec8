"""The policy of `SoftQ`: an energy for each action, `E(a|s) = -Q(s, a)`, sampled exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partialmethod
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from ebrl.kernels.draws import pick
from ebrl.networks.linear import EnsembleLinear, apply_after, in_full_precision
from ebrl.networks.normalization import (
    BatchNormalization,
    FeatureAffine,
    LayerNormalization,
    Normalization,
    check_normalization,
)

from .acting import Acting
from .optimization import with_fused
from .views import View

Self = TypeVar("Self", bound="DiscreteCritic")


class Boltzmann(NamedTuple):
    """The distribution `p(a) = exp(-E(a)/T) / Z` over finitely many actions."""

    soft_value: Tensor  # (*batch,), T log Z = T log Σ_a exp(-E(a)/T)
    log_probabilities: Tensor  # (*batch, actions)
    entropy: Tensor  # (*batch,), nats


def boltzmann(energies: Tensor, temperature: Tensor) -> Boltzmann:
    """Return the distribution of `energies: (*batch, actions)` at a temperature above 0.

    Energies are taken relative to the lowest: large energies over a small temperature neither
    overflow nor lose the differences between actions.
    """
    lowest = energies.amin(-1, keepdim=True)
    scaled = (lowest - energies) / temperature  # (*batch, actions), 0 for the most likely action
    log_sum = torch.logsumexp(scaled, -1, keepdim=True)
    log_probabilities = scaled - log_sum
    entropy = log_sum.squeeze(-1) - (log_probabilities.exp() * scaled).sum(-1)
    soft_value = (temperature * log_sum - lowest).squeeze(-1)
    return Boltzmann(soft_value, log_probabilities, entropy)


class DiscreteCritic(BaseModel):
    """An ensemble of networks from observations to `E_i(a|s) = -Q_i(s, a)`, in units of reward.

    The members run as one batched program on the same features. `normalization` is as in
    `MLPEnergy`; energies are multiplied by `output_scale` where the critic is `scaled`.
    """

    features_extractor: BaseFeaturesExtractor
    optimizer: torch.optim.Optimizer
    output_scale: Tensor | None  # 0-dim

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        features_extractor: BaseFeaturesExtractor,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        members: int,
        normalization: Normalization | None = None,
        scaled: bool = False,
        normalize_images: bool = True,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        self.members, self.activation = members, activation_fn()
        sizes = [features_extractor.features_dim, *net_arch, int(action_space.n)]
        pairs = list(itertools.pairwise(sizes))
        self.layers = nn.ModuleList(EnsembleLinear(members, *sizes) for sizes in pairs)
        check_normalization(normalization)
        self.normalization = normalization
        self.normalizations = nn.ModuleList()
        if normalization == "batch":  # of what enters each linear layer
            self.normalizations.extend(BatchNormalization(members, i) for i, _ in pairs)
        if normalization == "layer":  # of what enters each activation
            self.normalizations.extend(LayerNormalization(members, i) for i, _ in pairs[1:])
        self.register_buffer("output_scale", torch.ones(()) if scaled else None)

    def train(self: Self, mode: bool = True) -> Self:
        """Set the mode of the features; only `batch_energies` moves the running statistics."""
        super().train(mode)
        self.normalizations.eval()
        return self

    def forward(self, observation: PyTorchObs) -> Tensor:
        """Return the energy of every action, `(members, batch, actions)`.

        The observations are preprocessed: pixels in [0, 1], one-hot categories.
        """
        features = self.features_extractor(observation)
        return self._energies(features, lambda normalization, _: normalization.running())

    def batch_energies(self, features: Tensor) -> Tensor:
        """Return the energy of every action, normalised by the statistics of this batch.

        It moves the running statistics.

        Args:
            features: Output of `features_extractor` for the observations, `(batch, features)`.
        """
        return self._energies(features, BatchNormalization.of_batch)

    def _energies(
        self, features: Tensor, affine_of: Callable[[Any, Tensor], FeatureAffine]
    ) -> Tensor:
        """Return the energies, with what `affine_of` says that a batch normalisation does."""
        layers: list[Any] = [*self.layers]
        *hidden, head = layers
        h = features.expand(self.members, *features.shape)  # (members, batch, features)
        for k, layer in enumerate(hidden):
            h = apply_after(self._affine(k, h, affine_of), layer, h)  # (members, batch, width)
            h = self.normalizations[k](h) if self.normalization == "layer" else h
            h = self.activation(h)
        affine = self._affine(len(hidden), h, affine_of)
        energies = in_full_precision(
            lambda rows: apply_after(affine, head, rows), h, head.weight.dtype
        )
        return energies if self.output_scale is None else energies * self.output_scale

    def _affine(
        self, k: int, h: Tensor, affine_of: Callable[[Any, Tensor], FeatureAffine]
    ) -> FeatureAffine | None:
        """Return the batch normalisation of what enters a layer, `(members, batch, features)`."""
        if self.normalization != "batch":
            return None
        return affine_of(self.normalizations[k], h if len(h) > 1 else h[0])


class SoftQPolicy(Acting, BasePolicy):
    """Energy critics and their moving averages; draws actions exactly from `exp(-E/temperature)`.

    E is the mean of the critics. The algorithm sets `temperature`, which is saved with the weights;
    acting draws from `generator`. Arguments that are not listed are those of
    Stable-Baselines3's policies.

    Args:
        normalization: Normalisation of the critics: "batch", "layer" or None.
        scale_rewards: Give the critics an output scale. The algorithm sets its value.
        target: "average" keeps a moving average of the critics, "none" does not.
        n_critics: Number of critics in the ensemble.
    """

    action_space: spaces.Discrete
    features_extractor_class: type[BaseFeaturesExtractor]
    temperature: Tensor
    critic_target: DiscreteCritic | None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalization: Normalization | None = None,
        scale_rewards: bool = False,
        target: Literal["average", "none"] = "average",
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
    ):
        if n_critics < 1:
            raise ValueError(f"expected n_critics >= 1, got {n_critics}")
        if int(action_space.start) != 0:
            raise ValueError(
                f"expected actions numbered from 0, got {action_space}; wrap the environment with "
                "gymnasium.wrappers.TransformAction to shift them"
            )
        optimizer_kwargs = with_fused(optimizer_class, optimizer_kwargs)
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            normalize_images=normalize_images,
        )
        if net_arch is None:  # as in SB3's DQN: NatureCNN already ends in a layer of 512
            net_arch = [] if features_extractor_class is NatureCNN else [256, 256]
        self.net_arch, self.activation_fn, self.n_critics = net_arch, activation_fn, n_critics
        self.normalization, self.scale_rewards, self.target = normalization, scale_rewards, target
        self.register_buffer("temperature", torch.ones(()))
        self.critic, self.critic_target = self._make_critic(), None
        if target == "average":
            self.critic_target = self._make_critic()
            self.critic_target.load_state_dict(self.critic.state_dict())
            self.critic_target.requires_grad_(False).set_training_mode(False)
        self.critic.optimizer = self.optimizer_class(
            self.critic.parameters(), **{"lr": lr_schedule(1), **self.optimizer_kwargs}
        )

    def _make_critic(self) -> DiscreteCritic:
        return DiscreteCritic(
            self.observation_space,
            self.action_space,
            features_extractor=self.make_features_extractor(),
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            members=self.n_critics,
            normalization=self.normalization,
            scaled=self.scale_rewards,
            normalize_images=self.normalize_images,
        )

    @property
    def q_net(self) -> View:
        """The critics with the signature of DQN's network: their mean Q, `(batch, actions)`."""
        return View(self.critic, lambda observation: -self._mean_energies(self.critic, observation))

    @property
    def q_net_target(self) -> View:
        """The critics that are backed up, called as DQN's target network."""
        target = self.critic_target or self.critic
        return View(target, lambda observation: -self._mean_energies(target, observation))

    def _mean_energies(self, critic: DiscreteCritic, observation: PyTorchObs) -> Tensor:
        return critic(self.preprocess(observation)).mean(0)

    def train(self, mode: bool = True) -> SoftQPolicy:
        """As `torch.nn.Module`; the moving average stays in evaluation mode."""
        super().train(mode)
        if self.critic_target is not None:
            self.critic_target.eval()
        return self

    def set_training_mode(self, mode: bool) -> None:
        self.critic.set_training_mode(mode)
        self.training = mode

    def preprocess(self, observation: PyTorchObs) -> PyTorchObs:
        """Return observations as the networks take them: pixels in [0, 1], one-hot categories."""
        return preprocess_obs(observation, self.observation_space, self.normalize_images)

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Return action indices `(batch,)`: draws, or those of the lowest energy."""
        if deterministic:
            return self.energies(observation).argmin(-1)
        return self.sample(observation).squeeze(1)

    @torch.no_grad()
    def energies(self, observation: PyTorchObs) -> Tensor:
        """Return the energy of every action, `(batch, actions)`."""
        return self._mean_energies(self.critic, observation)

    @torch.no_grad()
    def probabilities(self, observation: PyTorchObs) -> Tensor:
        """Return the policy, `(batch, actions)`."""
        return torch.softmax(-self.energies(observation) / self.temperature, -1)

    @torch.no_grad()
    def sample(self, observation: PyTorchObs, n: int = 1) -> Tensor:
        """Draw action indices `(batch, n)`, independent given the observation."""
        probabilities = self.probabilities(observation)  # (batch, actions)
        uniform = torch.rand(
            probabilities.shape[0], n, generator=self.generator, device=probabilities.device
        )
        return pick(probabilities.unsqueeze(1).expand(-1, n, -1), uniform)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            n_critics=self.n_critics,
            normalization=self.normalization,
            scale_rewards=self.scale_rewards,
            target=self.target,
            lr_schedule=self._dummy_schedule,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
        )
        return data


class SoftQCnnPolicy(SoftQPolicy):
    """`SoftQPolicy` for images, with SB3's `NatureCNN`."""

    __init__ = partialmethod(SoftQPolicy.__init__, features_extractor_class=NatureCNN)


class SoftQMultiInputPolicy(SoftQPolicy):
    """`SoftQPolicy` for dictionaries of observations, with SB3's `CombinedExtractor`."""

    __init__ = partialmethod(SoftQPolicy.__init__, features_extractor_class=CombinedExtractor)
