"""ebrl: energies, samplers, objectives and estimators for agents, vision and sequences."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebrl.energies import ClassifierEnergy as ClassifierEnergy
    from ebrl.energies import Energy as Energy
    from ebrl.energies import FunctionEnergy as FunctionEnergy
    from ebrl.energies import Gaussian as Gaussian
    from ebrl.energies import Mixture as Mixture
    from ebrl.energies import Repulsion as Repulsion
    from ebrl.networks import ConvEnergy as ConvEnergy
    from ebrl.networks import MLPEnergy as MLPEnergy
    from ebrl.sampling import Chains as Chains
    from ebrl.sampling import DualAveraging as DualAveraging
    from ebrl.sampling import Sampler as Sampler
    from ebrl.sampling import Samples as Samples

# Loaded at first use: the command and `ebrl.envs` must not wait for torch.
_HOMES = {
    "Chains": "sampling",
    "ClassifierEnergy": "energies",
    "ConvEnergy": "networks",
    "DualAveraging": "sampling",
    "Energy": "energies",
    "FunctionEnergy": "energies",
    "Gaussian": "energies",
    "MLPEnergy": "networks",
    "Mixture": "energies",
    "Repulsion": "energies",
    "Sampler": "sampling",
    "Samples": "sampling",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebrl' has no attribute {name!r}")
    return getattr(import_module(f"ebrl.{_HOMES[name]}"), name)
