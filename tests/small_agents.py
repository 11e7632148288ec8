"""An agent of each kind, small enough to be built in every test."""

from __future__ import annotations

from typing import Any

import pytest

from ebrl.agents import EnergyActorCritic, SoftQ

SMALL: dict[str, Any] = {"learning_starts": 20, "batch_size": 8, "buffer_size": 200}
NETS: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}}


def continuous(**arguments: Any) -> EnergyActorCritic:
    return EnergyActorCritic(
        "MlpPolicy", "Pendulum-v1", **{**SMALL, **NETS, "seed": 0, **arguments}
    )


def discrete(**arguments: Any) -> SoftQ:
    return SoftQ("MlpPolicy", "CartPole-v1", **{**SMALL, **NETS, "seed": 0, **arguments})


both = pytest.mark.parametrize("build", [continuous, discrete])
