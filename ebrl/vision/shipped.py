"""The weights that come with the package.

`pretrained("gray")` and `"color"` denoise photographs; `"gray-camera"` and `"color-camera"` are
fine-tuned on noise that is correlated between pixels. `"fashion"` generates clothes.
`"fashion-classifier"` is the energy of a classifier, which is its attribute `.classifier`; in
`"fashion-joint"` the energy is trained, too.

A file in `weights/` holds them in half precision, with a card: data, steps, command, figures, and
the noise levels, of 255, within which they denoise well.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ebrl import storage
from ebrl.energies import ClassifierEnergy, Energy
from ebrl.vision.networks import (
    ANY_LEVEL,
    DiffusionEnergy,
    GradientStepEnergy,
    NoisyImageEnergy,
)
from ebrl.vision.recognition import ImageClassifier

WEIGHTS = Path(__file__).parent / "weights"
ENERGIES: dict[str, Callable[[], Energy]] = {
    "gray": lambda: GradientStepEnergy(1),
    "gray-camera": lambda: GradientStepEnergy(1),
    "color": lambda: GradientStepEnergy(3),
    "color-camera": lambda: GradientStepEnergy(3),
    "fashion": lambda: DiffusionEnergy(1, (48, 64, 96), 2, features=48, deviation=0.35),
    "fashion-classifier": lambda: ClassifierEnergy(ImageClassifier()),
    "fashion-joint": lambda: ClassifierEnergy(ImageClassifier()),
}


def pretrained(name: str, device: torch.device | str = "cpu") -> Energy:
    """Return a new copy of the energy, in float32, without gradients, in evaluation mode.

    Raises:
        ValueError: For an unknown name.
    """
    _check_name(name)
    return deepcopy(_kept(name, torch.device(device)))


def prior_of(pixels: Tensor, noise: Literal["white", "camera"] = "white") -> NoisyImageEnergy:
    """Return the denoiser that ships for images `(*batch, 1 or 3 channels, height, width)`.

    All callers share it.
    """
    name = "gray" if pixels.shape[-3] == 1 else "color"
    name = name if noise == "white" else f"{name}-camera"
    return cast(NoisyImageEnergy, _kept(name, pixels.device))


@cache
@torch.inference_mode(False)  # what is kept serves callers outside of it, too
def _kept(name: str, device: torch.device) -> Energy:
    """Return the energy that all callers share."""
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        energy = ENERGIES[name]()
    stored = storage.load(WEIGHTS / f"{name}.safetensors")
    energy.load_state_dict({key: value.float() for key, value in stored.tensors.items()})
    if isinstance(energy, NoisyImageEnergy) and "levels" in stored.facts:
        low, high = stored.facts["levels"]
        energy.levels = (low / 255, high / 255)
    return energy.eval().requires_grad_(False).to(device)


def trainable(name: str) -> Energy:
    """Return a copy to train further, on your own photographs or noise, at any noise level.

    Raises:
        ValueError: For an unknown name.
    """
    energy = pretrained(name).train().requires_grad_(True)
    if isinstance(energy, NoisyImageEnergy):
        energy.levels = ANY_LEVEL
    return energy


def card(name: str) -> dict[str, Any]:
    """Return the card of the weights.

    Raises:
        ValueError: For an unknown name.
    """
    _check_name(name)
    return storage.load(WEIGHTS / f"{name}.safetensors").facts


def ship(energy: Energy, name: str, facts: dict[str, Any]) -> Path:
    """Write the weights in half precision, with their card, to where `pretrained` finds them."""
    halved = {key: value.to(torch.float16) for key, value in energy.state_dict().items()}
    storage.save(WEIGHTS / f"{name}.safetensors", halved, facts)
    return WEIGHTS / f"{name}.safetensors"


def available() -> list[str]:
    """Return the names of the weights that come with the package."""
    return [name for name in ENERGIES if (WEIGHTS / f"{name}.safetensors").is_file()]


def _check_name(name: str) -> None:
    if name not in available():
        raise ValueError(f"expected a name of {', '.join(map(repr, available()))}, got {name!r}")
