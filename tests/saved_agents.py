"""Small agents that save themselves, and how two of them are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from ebrl import storage
from ebrl.agents.saving import Saving


class SavedSAC(Saving, SAC):
    """SAC with a random stream of its own, as our agents have."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.generators = {"acting": torch.Generator().manual_seed(self.seed or 0)}


class SavedDQN(Saving, DQN):
    pass


class OwnExtractor(FlattenExtractor):
    """A class that only this file has."""


TINY: dict[str, Any] = {"learning_starts": 20, "buffer_size": 200, "batch_size": 8, "seed": 1}
NETS = {"net_arch": [8], "activation_fn": nn.Tanh}


def schedule(remaining: float) -> float:
    return 1e-3 * remaining


def pendulum(**arguments: Any) -> SavedSAC:
    return SavedSAC(
        "MlpPolicy", "Pendulum-v1", **{**TINY, "policy_kwargs": dict(NETS), **arguments}
    )


def cartpole(**arguments: Any) -> SavedDQN:
    return SavedDQN(
        "MlpPolicy", "CartPole-v1", **{**TINY, "policy_kwargs": dict(NETS), **arguments}
    )


def observations(space: spaces.Space, number: int = 9) -> Any:
    space.seed(0)
    drawn = [space.sample() for _ in range(number)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([one[key] for one in drawn]) for key in space}
    return np.stack(drawn)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal nested state, to the bit."""
    tensors, facts = storage.flatten(ours)
    others, other_facts = storage.flatten(theirs)
    assert facts == other_facts
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
