"""The public paths: what each package hands on, and what importing the library does not load."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

FACES = {
    "ebrl": [
        "Chains",
        "ClassifierEnergy",
        "ConvEnergy",
        "DualAveraging",
        "Energy",
        "FunctionEnergy",
        "Gaussian",
        "MLPEnergy",
        "Mixture",
        "Repulsion",
        "Sampler",
        "Samples",
    ],
    "ebrl.agents": ["EnergyActorCritic", "SoftQ"],
    "ebrl.diagnostics": [
        "DivergedError",
        "effective_sample_size",
        "kernel_stein_discrepancy",
        "split_r_hat",
    ],
    "ebrl.energies": [
        "CorrelatedGaussian",
        "Energy",
        "Gaussian",
        "GaussianMixture",
        "Ising",
        "Potts",
        "RBM",
        "Target",
    ],
    "ebrl.estimators": ["diagnostics", "entropy", "exact_log_normalizer", "log_normalizer"],
    "ebrl.kernels": ["Blocks", "HMC", "MALA", "NUTS", "ULA", "Gibbs", "Kernel"],
    "ebrl.networks": ["BoundMLP", "ConvEnergy", "MLPEnergy"],
    "ebrl.objectives": ["ContrastiveDivergence", "DenoisingScoreMatching", "NCE", "persistent"],
    "ebrl.sampling": ["Chains", "DualAveraging", "Sampler", "importance_resampling"],
    "ebrl.schedules": ["constant", "cosine"],
    "ebrl.spaces": ["Binary", "Box", "Categorical", "Product", "Unbounded"],
    "ebrl.storage": ["StorageError", "load", "save"],
    "ebrl.training": ["DivergedError", "RunningClip", "Training", "fit", "load_table"],
    "ebrl.sequences": ["score", "rank", "repair", "sample", "complete", "acceptability"],
    "ebrl.vision": ["denoise", "restore", "generate"],
}
PATHS = [(package, name) for package, names in FACES.items() for name in names]


@pytest.mark.parametrize(("package", "name"), PATHS)
def test_a_public_name_is_where_programs_look_for_it(package: str, name: str) -> None:
    assert hasattr(importlib.import_module(package), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Enrgy'"):
        importlib.import_module("ebrl").Enrgy  # noqa: B018


@pytest.mark.parametrize("package", ["ebrl", "ebrl.sequences", "ebrl.vision"])
def test_tab_completion_shows_the_names_of_a_lazy_face(package: str) -> None:
    face = importlib.import_module(package)
    assert {*face.__all__, "__doc__"} <= {*dir(face)}


def test_the_version_is_that_of_the_installation() -> None:
    assert importlib.import_module("ebrl").__version__ == version("ebrl")


def test_the_core_loads_no_world_and_no_command() -> None:
    heavy = {"stable_baselines3", "gymnasium", "tensorboard", "matplotlib", "PIL", "jsonargparse"}
    program = f"import sys, ebrl.estimators, ebrl.training; print(*{heavy!r} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []
