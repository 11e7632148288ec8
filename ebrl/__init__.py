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

    __version__: str

# Loaded at first use: the command and `ebrl.envs` must not wait for torch.
_NAMES = {
    "energies": "ClassifierEnergy Energy FunctionEnergy Gaussian Mixture Repulsion",
    "networks": "ConvEnergy MLPEnergy",
    "sampling": "Chains DualAveraging Sampler Samples",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("ebrl")
    for package, names in _NAMES.items():
        if name in names.split():
            return getattr(import_module(f"ebrl.{package}"), name)
    raise AttributeError(f"module 'ebrl' has no attribute {name!r}")
