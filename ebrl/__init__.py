"""ebrl: energies, samplers, objectives and estimators for agents, vision and sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebrl.lazy import attach

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
    from ebrl.sampling import Trace as Trace

    __version__: str

# Loaded at first use: the command and `ebrl.envs` must not wait for torch.
_NAMES = {
    "energies": "ClassifierEnergy Energy FunctionEnergy Gaussian Mixture Repulsion",
    "networks": "ConvEnergy MLPEnergy",
    "sampling": "Chains DualAveraging Sampler Samples Trace",
}
__all__, _attribute, __dir__ = attach(__name__, _NAMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ebrl")
    return _attribute(name)
