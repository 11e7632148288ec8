"""The proposal of an agent: a mixture of Gaussians under tanh, with its exact density."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from ebrl.energies import Energy, first_order
from ebrl.networks.linear import in_full_precision
from ebrl.networks.normalization import BatchNormalization, Normalization, normalized
from ebrl.spaces import log_tanh_jacobian

Self = TypeVar("Self", bound="MixtureProposal")
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class TanhMixture(NamedTuple):
    """`a = tanh u`, `u ~ Σ_k w_k N(mean_k, deviation_k²)` with independent coordinates.

    One mixture for each observation of a batch. Densities are with respect to actions in
    [-1, 1]^d. `epsilon` is added inside the logarithm of the Jacobian: 0 is exact, SB3 has 1e-6.
    """

    log_weights: Tensor  # (batch, components), normalised
    mean: Tensor  # (batch, components, dimension)
    log_deviation: Tensor  # (batch, components, dimension)
    epsilon: float = 0.0

    def one_each(self, normal: Tensor) -> Tensor:
        """Draw `u` once from every component, by `normal: (batch, components, dimension)`.

        Of a single component, `normal: (batch, M, dimension)` gives M independent draws.

        The sum of a function of these draws, weighted by the components' weights, is an unbiased
        estimate of its expectation, and differentiable with respect to the weights, too.
        """
        return torch.addcmul(self.mean, self.log_deviation.exp(), normal)

    def systematic(self, offset: Tensor, normal: Tensor) -> Tensor:
        """Draw `u: (batch, M, dimension)`, with systematic sampling of the components.

        Component k is drawn `M w_k` times, rounded up or down. Each draw has the mixture's density;
        the draws depend on each other, which lowers the variance of their mean.

        Args:
            offset: Uniform numbers in [0, 1), `(batch, 1)`.
            normal: Standard normal numbers, `(batch, M, dimension)`.
        """
        count = normal.shape[1]
        steps = torch.arange(count, device=offset.device, dtype=offset.dtype) / count
        return self.draw((offset + steps) % 1, normal)

    def draw(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draw `u: (batch, M, dimension)`.

        Args:
            uniform: Numbers in [0, 1), which choose the components, `(batch, M)`.
            normal: Standard normal numbers, `(batch, M, dimension)`.
        """
        components = self.mean.shape[1]
        if components == 1:
            return self.one_each(normal)
        edges = self.log_weights.exp().cumsum(-1)
        chosen = torch.searchsorted(edges, uniform, right=True).clamp_(max=components - 1)
        index = chosen.unsqueeze(-1).expand(-1, -1, self.mean.shape[-1])
        mean, log_deviation = self.mean.gather(1, index), self.log_deviation.gather(1, index)
        return torch.addcmul(mean, log_deviation.exp(), normal)

    def log_density(self, free: Tensor, normal: Tensor | None = None) -> Tensor:
        """Return the log density of `a = tanh u`, `(batch, M)`, for `u: (batch, M, dimension)`.

        For a single Gaussian, `normal`, the noise that `u` was drawn with, saves standardising `u`.
        """
        if self.mean.shape[1] == 1:
            standard = self._standard(free) if normal is None else normal
            minus = torch.addcmul(self.log_deviation, standard, standard, value=0.5)
            constant = HALF_LOG_TWO_PI * standard.shape[-1]
            return -constant - (minus + self._log_det_jacobian(free)).sum(-1)
        gaussian = torch.logsumexp(self._joint(self._standard_each(free)), -1)
        return gaussian - self._log_det_jacobian(free).sum(-1)

    def _standard(self, free: Tensor) -> Tensor:
        return (free - self.mean) * torch.exp(-self.log_deviation)

    def _standard_each(self, free: Tensor) -> Tensor:
        """Return `u` standardised by every component, `(batch, M, components, dimension)`."""
        deviation = torch.exp(-self.log_deviation).unsqueeze(1)
        return (free.unsqueeze(2) - self.mean.unsqueeze(1)) * deviation

    def _joint(self, standard: Tensor) -> Tensor:
        """Return the joint log density of `u` and its component, `(batch, M, components)`."""
        minus = torch.addcmul(self.log_deviation.unsqueeze(1), standard, standard, value=0.5)
        constant = HALF_LOG_TWO_PI * standard.shape[-1]
        return self.log_weights.unsqueeze(1) - minus.sum(-1) - constant

    def _log_det_jacobian(self, free: Tensor) -> Tensor:
        if self.epsilon > 0:
            return torch.log(1 - torch.tanh(free).square() + self.epsilon)
        return log_tanh_jacobian(free)


class Divergence(NamedTuple):
    """The divergence of a proposal from `exp(-E/T)`, from one draw of each component."""

    weights: Tensor  # (batch, components), of the mixture
    log_density: Tensor  # (batch, components), of the draws
    energies: Tensor  # (batch, components), of the draws
    temperature: Tensor

    def detached(self) -> Divergence:
        """Return the same numbers without a graph."""
        return Divergence(*(field.detach() for field in self))

    @property
    def loss(self) -> Tensor:
        """The mean of `T log q + E` over the proposal, 0-dim."""
        return self.energy - self.temperature * self.entropy

    @property
    def energy(self) -> Tensor:
        """The mean energy under the proposal, `E_q E`, 0-dim."""
        return (self.weights * self.energies).sum(-1).mean()

    @property
    def entropy(self) -> Tensor:
        """The entropy of the proposal, `-E_q log q`, 0-dim."""
        return -(self.weights * self.log_density).sum(-1).mean()


def reverse_kl(
    mixture: TanhMixture, normal: Tensor, energy: Energy, temperature: Tensor
) -> Divergence:
    """Return the parts of `mean Σ_k w_k (T log q(a_k) + E(a_k))`, differentiable.

    `a_k = tanh(mean_k + deviation_k normal_k)`. This loss is `T KL(q || exp(-E/T) / Z) - T log Z`,
    differentiated through the draws.

    Args:
        mixture: One mixture for each observation.
        normal: Noise, `(batch, components, dimension)`.
        energy: The energy of actions in [-1, 1]^d, bound to the observations.
        temperature: T, 0-dim.
    """
    free = mixture.one_each(normal)
    log_density = mixture.log_density(free, normal)
    energies = first_order(energy, torch.tanh(free))  # (batch, components)
    return Divergence(mixture.log_weights.exp(), log_density, energies, temperature)


def perplexity(weights: Tensor) -> Tensor:
    """Return the effective number of components, `(batch,)`; 1 if a single one has all weight."""
    return torch.special.entr(weights).sum(-1).exp()


class MixtureProposal(BaseModel):
    """A network from observations to the `TanhMixture` over actions.

    `log_deviation_bounds` clamp the log standard deviations; SB3's are (-20, 2). `normalization` is
    as in `MLPEnergy`: "batch" acts on the features and every activation's output, "layer" on every
    activation's input.
    """

    features_extractor: BaseFeaturesExtractor
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        features_extractor: BaseFeaturesExtractor,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        components: int,
        normalization: Normalization | None = None,
        log_deviation_bounds: tuple[float, float] = (-20.0, 2.0),
        epsilon: float = 0.0,
        normalize_images: bool = True,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
        )
        self.components, self.dimension = components, get_action_dim(action_space)
        self.log_deviation_bounds, self.epsilon = log_deviation_bounds, epsilon
        features = features_extractor.features_dim
        layers = create_mlp(features, -1, net_arch, activation_fn)
        self.trunk = nn.Sequential(*normalized(layers, features, normalization)).eval()
        width = net_arch[-1] if net_arch else features
        self.head = nn.Linear(width, components * (2 * self.dimension + 1))

    def train(self: Self, mode: bool = True) -> Self:
        """Set the mode of the features; only `of_batch` moves the running statistics."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, observation: PyTorchObs) -> TanhMixture:
        """Return the mixture for each preprocessed observation."""
        return self._mixture(self.trunk(self.features_extractor(observation)))

    def of_batch(self, observation: PyTorchObs) -> TanhMixture:
        """Return what `forward` does, normalised by the statistics of this batch.

        It moves the running statistics.
        """
        h = self.features_extractor(observation)
        for layer in self.trunk:
            h = layer.of_batch(h)(h) if isinstance(layer, BatchNormalization) else layer(h)
        return self._mixture(h)

    def _mixture(self, h: Tensor) -> TanhMixture:
        head = in_full_precision(self.head, h, self.head.weight.dtype)
        each = head.view(-1, self.components, 2 * self.dimension + 1)
        mean, log_deviation, logits = each.split([self.dimension, self.dimension, 1], -1)
        logits = logits.squeeze(-1)
        one = self.components == 1
        return TanhMixture(
            log_weights=torch.zeros_like(logits) if one else torch.log_softmax(logits, -1),
            mean=mean,
            log_deviation=log_deviation.clamp(*self.log_deviation_bounds),
            epsilon=self.epsilon,
        )
