"""The proposal of an agent: a tanh-squashed mixture of Gaussians with an exact density."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from ebrl.agents import trunk
from ebrl.energies import Energy
from ebrl.networks.slopes import known_slope
from ebrl.networks.workspace import Workspace
from ebrl.spaces import log_tanh_slope

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class TanhMixture(NamedTuple):
    """`a = tanh u`, `u ~ Σ_k w_k N(mean_k, deviation_k²)` with independent coordinates.

    Batches of mixtures: one a row of observations. Densities are with respect to actions in
    [-1, 1]^d. `epsilon` is added inside the logarithm of the Jacobian: 0 is exact, SB3 has 1e-6.
    """

    log_weights: Tensor  # (batch, components), normalised
    mean: Tensor  # (batch, components, dimension)
    log_deviation: Tensor  # (batch, components, dimension)
    epsilon: float = 0.0

    def one_each(self, normal: Tensor) -> Tensor:
        """Draw `u` once from every component, differentiably.

        `normal: (batch, components, dimension)`. Weighted by the components' weights these draws
        give unbiased expectations, with a gradient that reaches the weights too.
        """
        return torch.addcmul(self.mean, self.log_deviation.exp(), normal)

    def systematic(self, offset: Tensor, normal: Tensor) -> Tensor:
        """Draw `u: (batch, M, dimension)` from the whole mixture, components systematically.

        `offset: (batch, 1)` uniform and `normal: (batch, M, dimension)`. Component k is drawn
        `M w_k` times, rounded up or down: each draw has the mixture's density, whatever the
        numbers of draws and components are.
        """
        components, count = self.mean.shape[1], normal.shape[1]
        if components == 1:
            return torch.addcmul(self.mean, self.log_deviation.exp(), normal)
        points = (torch.arange(count, device=offset.device) + offset) / count  # (batch, M)
        edges = self.log_weights.exp().cumsum(-1)
        chosen = torch.searchsorted(edges, points, right=True).clamp_(max=components - 1)
        index = chosen.unsqueeze(-1).expand(-1, -1, self.mean.shape[-1])
        mean, log_deviation = self.mean.gather(1, index), self.log_deviation.gather(1, index)
        return torch.addcmul(mean, log_deviation.exp(), normal)

    def log_density(self, free: Tensor, normal: Tensor | None = None) -> Tensor:
        """Return the log density of `a = tanh u`, `(batch, M)`, from `u: (batch, M, dimension)`.

        `normal`, the noise that `u` was drawn with, spares a single Gaussian the way back.
        """
        if self.mean.shape[1] == 1:
            standard = self._standard(free) if normal is None else normal
            minus = torch.addcmul(self.log_deviation, standard, standard, value=0.5)
            constant = HALF_LOG_TWO_PI * standard.shape[-1]
            return -constant - (minus + self._log_slope(free)).sum(-1)
        gaussian = torch.logsumexp(self._joint(self._standard_each(free)), -1)
        return gaussian - self._log_slope(free).sum(-1)

    def density_gradient(
        self, free: Tensor, action: Tensor, upstream: Tensor
    ) -> tuple[Tensor, TanhMixture]:
        """Return the gradient of `Σ upstream log_density(free)` at `free` and at the mixture.

        `action = tanh u` and `upstream: (batch, M)`. A single Gaussian's density is taken as a
        function of the noise that drew `free`: the noise depends on neither.
        """
        upstream = upstream.unsqueeze(-1)  # (batch, M, 1)
        at_free = 2 * upstream * action
        if self.epsilon > 0:
            slope = 1 - action.square()
            at_free = at_free * slope / (slope + self.epsilon)
        if self.mean.shape[1] == 1:
            zero = torch.zeros_like(self.mean)
            at_deviation = zero - upstream.sum(1, keepdim=True)
            return at_free, TanhMixture(zero[..., 0], zero, at_deviation)
        standard = self._standard_each(free)  # (batch, M, components, dimension)
        part = upstream * torch.softmax(self._joint(standard), -1)  # (batch, M, components)
        part = part.unsqueeze(-1)
        pull = part * standard * torch.exp(-self.log_deviation).unsqueeze(1)
        return at_free - pull.sum(2), TanhMixture(
            log_weights=part.squeeze(-1).sum(1),
            mean=pull.sum(1),
            log_deviation=(part * (standard.square() - 1)).sum(1),
        )

    def _standard(self, free: Tensor) -> Tensor:
        return (free - self.mean) * torch.exp(-self.log_deviation)

    def _standard_each(self, free: Tensor) -> Tensor:
        """Return `u` as every component sees it, `(batch, M, components, dimension)`."""
        deviation = torch.exp(-self.log_deviation).unsqueeze(1)
        return (free.unsqueeze(2) - self.mean.unsqueeze(1)) * deviation

    def _joint(self, standard: Tensor) -> Tensor:
        """Return the log density of `u` together with its component, `(batch, M, components)`."""
        minus = torch.addcmul(self.log_deviation.unsqueeze(1), standard, standard, value=0.5)
        constant = HALF_LOG_TWO_PI * standard.shape[-1]
        return self.log_weights.unsqueeze(1) - minus.sum(-1) - constant

    def _log_slope(self, free: Tensor) -> Tensor:
        if self.epsilon > 0:
            return torch.log(1 - torch.tanh(free).square() + self.epsilon)
        return log_tanh_slope(free)


class Divergence(NamedTuple):
    """How far a proposal is from `exp(-E/T)`, one draw of each component an observation."""

    weights: Tensor  # (batch, components), of the mixture
    log_density: Tensor  # (batch, components), of the draws
    energies: Tensor  # (batch, components), of the draws
    temperature: Tensor

    @property
    def loss(self) -> Tensor:
        """The mean of `T log q + E` over the proposal, 0-dim."""
        return self.energy - self.temperature * self.entropy

    @property
    def energy(self) -> Tensor:
        """The proposal's mean, `E_q E`, 0-dim."""
        return (self.weights * self.energies).sum(-1).mean()

    @property
    def entropy(self) -> Tensor:
        """The proposal's, `-E_q log q`, 0-dim."""
        return -(self.weights * self.log_density).sum(-1).mean()


def reverse_kl(
    mixture: TanhMixture, normal: Tensor, energy: Energy, temperature: Tensor
) -> tuple[Divergence, TanhMixture]:
    """Return `mean Σ_k w_k (T log q(a_k) + E(a_k))` and its gradient at the mixture's fields.

    `a_k = tanh(mean_k + deviation_k normal_k)`, `normal: (batch, components, dimension)`: T times
    the reverse KL divergence less `T log Z`, differentiated through the draws.
    """
    free, weights = mixture.one_each(normal), mixture.log_weights.exp()
    action, log_density = torch.tanh(free), mixture.log_density(free, normal)
    energies, gradients = energy.value_and_gradient(action)
    each = torch.addcmul(energies, temperature, log_density)  # (batch, components)
    share = weights / len(weights)
    at_free, at = mixture.density_gradient(free, action, temperature * share)
    at_free.addcmul_(share.unsqueeze(-1), torch.ops.aten.tanh_backward(gradients, action))
    gradient = TanhMixture(
        log_weights=torch.addcmul(at.log_weights, share, each),
        mean=at.mean + at_free,
        log_deviation=torch.addcmul(at.log_deviation, at_free, free - mixture.mean),
    )
    return Divergence(weights, log_density, energies, temperature), gradient


def perplexity(weights: Tensor) -> Tensor:
    """Return the effective number of components, `(batch,)`: 1 when a mixture has collapsed."""
    return torch.special.entr(weights).sum(-1).exp()


class MixtureProposal(BaseModel):
    """A network from observations to the `TanhMixture` over actions.

    `log_deviation_bounds` clamp the log standard deviations; SB3's are (-20, 2).
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
        self.trunk = nn.Sequential(*create_mlp(features, -1, net_arch, activation_fn))
        width = net_arch[-1] if net_arch else features
        self.head = nn.Linear(width, components * (2 * self.dimension + 1))
        self.layers = [*(m for m in self.trunk if isinstance(m, nn.Linear)), self.head]
        self.activation = activation_fn()
        self.workspace = Workspace()

    def forward(self, observation: PyTorchObs) -> TanhMixture:
        features = self.extract_features(observation, self.features_extractor)
        slope = known_slope(self.activation, features.device)
        if slope is None or torch.is_grad_enabled():
            return self._mixture(self.head(self.trunk(features)))
        return self._mixture(trunk.forward(self.layers, slope, features, self.workspace).output)

    def follow(
        self, observation: PyTorchObs, normal: Tensor, energy: Energy, temperature: Tensor
    ) -> Divergence:
        """Return the `reverse_kl` to `exp(-E/T)` and add its gradient to the parameters'."""
        features = self.extract_features(observation, self.features_extractor)
        slope = known_slope(self.activation, features.device)
        if slope is None:
            head = self.head(self.trunk(features))
            divergence, gradient = self._follow(head.detach(), normal, energy, temperature)
            head.backward(gradient)
            return divergence
        with torch.no_grad():
            past = trunk.forward(self.layers, slope, features, self.workspace)
            divergence, gradient = self._follow(past.output, normal, energy, temperature)
            trunk.backward(self.layers, slope, past, gradient)
        return divergence

    def _follow(
        self, head: Tensor, normal: Tensor, energy: Energy, temperature: Tensor
    ) -> tuple[Divergence, Tensor]:
        """Return the divergence of the mixture made of the last layer, and its gradient there."""
        mixture = self._mixture(head)
        divergence, at = reverse_kl(mixture, normal, energy, temperature)
        _, log_deviation, _ = self._fields(head)
        inside = log_deviation == mixture.log_deviation  # where the bounds let a gradient through
        total = at.log_weights.sum(-1, keepdim=True)
        at_logits = torch.addcmul(at.log_weights, divergence.weights, total, value=-1)
        parts = [at.mean, at.log_deviation * inside, at_logits.unsqueeze(-1)]
        return divergence, torch.cat(parts, -1).flatten(1)

    def _fields(self, head: Tensor) -> tuple[Tensor, ...]:
        """Return what the last layer says of mean, log deviation and weight of each component."""
        each = head.unflatten(-1, (self.components, -1))  # (batch, components, 2 d + 1)
        return each.split([self.dimension, self.dimension, 1], -1)

    def _mixture(self, head: Tensor) -> TanhMixture:
        mean, log_deviation, logits = self._fields(head)
        logits = logits.squeeze(-1)
        one = self.components == 1
        return TanhMixture(
            log_weights=torch.zeros_like(logits) if one else torch.log_softmax(logits, -1),
            mean=mean,
            log_deviation=log_deviation.clamp(*self.log_deviation_bounds),
            epsilon=self.epsilon,
        )
