"""The critics of agents with continuous actions: energies `E(a|s) = -Q(s, a)`."""

from __future__ import annotations

from typing import TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from ebrl.networks import BoundMLP, MLPEnergy
from ebrl.networks.normalization import Normalization
from ebrl.networks.perceptron import Reduction

Self = TypeVar("Self", bound="EnergyCritic")


class EnergyCritic(BaseModel):
    """An ensemble of energies `E_i(a|s) = -Q_i(s, a)`, in units of reward."""

    features_extractor: BaseFeaturesExtractor
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
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
        if not net_arch:  # a linear energy: one hidden unit that passes its input on
            net_arch, activation_fn = [1], nn.Identity
        self.energy = MLPEnergy(
            get_action_dim(action_space),
            net_arch,
            condition_dimension=features_extractor.features_dim,
            members=members,
            activation=activation_fn,
            normalization=normalization,
        ).eval()
        if scaled:
            self.energy.output_scale = torch.ones(())

    @property
    def output_scale(self) -> Tensor | None:
        """What the networks' outputs are multiplied by, 0-dim, in units of reward."""
        return self.energy.output_scale

    def train(self: Self, mode: bool = True) -> Self:
        """Set the mode of the features; only `energy.batch_values` moves the running statistics."""
        super().train(mode)
        self.energy.eval()
        return self

    def forward(self, observation: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        """Return Q of actions in [-1, 1]^d by each critic, `(batch, 1)`, as SB3's critics do."""
        energies = self.given(observation).member_values(actions)  # (members, batch)
        return tuple(-energies.unsqueeze(-1))

    def q1_forward(self, observation: PyTorchObs, actions: Tensor) -> Tensor:
        """Return Q by the first critic, `(batch, 1)`."""
        return self(observation, actions)[0]

    def given_preprocessed(
        self, observation: PyTorchObs, reduction: Reduction = "mean"
    ) -> BoundMLP:
        """Return the energy of actions in [-1, 1]^d given preprocessed observations."""
        return self.energy.given(self.features_extractor(observation), reduction)

    def given(self, observation: PyTorchObs, reduction: Reduction = "mean") -> BoundMLP:
        """Return the energy of actions in [-1, 1]^d given the observations."""
        space, normalize = self.observation_space, self.normalize_images
        return self.given_preprocessed(preprocess_obs(observation, space, normalize), reduction)
