"""ebrl: energies, samplers, objectives and estimators for agents, vision and sequences."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebrl.adaptation import DualAveraging as DualAveraging
    from ebrl.chains import Chains as Chains
    from ebrl.classifier import ClassifierEnergy as ClassifierEnergy
    from ebrl.convolutional import ConvEnergy as ConvEnergy
    from ebrl.convolutional import ResNetEnergy as ResNetEnergy
    from ebrl.energies import Energy as Energy
    from ebrl.energies import FunctionEnergy as FunctionEnergy
    from ebrl.energies import Gaussian as Gaussian
    from ebrl.energies import Mixture as Mixture
    from ebrl.networks import MLPEnergy as MLPEnergy
    from ebrl.repulsion import Repulsion as Repulsion
    from ebrl.sampler import Sampler as Sampler
    from ebrl.sampler import Samples as Samples

# Loaded at first use: the command and `ebrl.envs` must not wait for torch.
_HOMES = {
    "Chains": "chains",
    "ClassifierEnergy": "classifier",
    "ConvEnergy": "convolutional",
    "DualAveraging": "adaptation",
    "Energy": "energies",
    "FunctionEnergy": "energies",
    "Gaussian": "energies",
    "MLPEnergy": "networks",
    "Mixture": "energies",
    "Repulsion": "repulsion",
    "ResNetEnergy": "convolutional",
    "Sampler": "sampler",
    "Samples": "sampler",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebrl' has no attribute {name!r}")
    return getattr(import_module(f"ebrl.{_HOMES[name]}"), name)
