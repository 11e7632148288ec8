"""The weights that come with the package: `pretrained("gray")`, `"color"`, `"fashion"`.

`"gray-camera"` was trained on for noise that pixels share, `denoise(photo, prior=...)`.
`"fashion-classifier"` is the energy of a classifier, and its `.classifier` is the classifier; in
`"fashion-joint"` the energy was trained as well.

A file in `weights/` holds them in half precision, with a card: what they were trained on, for how
many steps and how long, by which command, and what they reach.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ebrl import storage
from ebrl.energies import ClassifierEnergy, Energy
from ebrl.vision.networks import DiffusionEnergy, GradientStepEnergy
from ebrl.vision.recognition import ImageClassifier

WEIGHTS = Path(__file__).parent / "weights"
ENERGIES: dict[str, Callable[[], Energy]] = {
    "gray": lambda: GradientStepEnergy(1),
    "gray-camera": lambda: GradientStepEnergy(1),  # for noise that pixels share
    "color": lambda: GradientStepEnergy(3),
    "fashion": lambda: DiffusionEnergy(1, (48, 64, 96), 2, features=48, deviation=0.35),
    "fashion-classifier": lambda: ClassifierEnergy(ImageClassifier()),
    "fashion-joint": lambda: ClassifierEnergy(ImageClassifier()),
}


def pretrained(name: str, device: torch.device | str = "cpu") -> Energy:
    """Return the energy with its weights, in float32, without gradients, in evaluation mode.

    Raises `ValueError` for a name that there is none of.
    """
    _expect_shipped(name)
    return _pretrained(name, torch.device(device))


@cache
def _pretrained(name: str, device: torch.device) -> Energy:
    with torch.random.fork_rng(devices=[]):  # it draws weights only to lose them
        energy = ENERGIES[name]()
    stored = storage.load(WEIGHTS / f"{name}.safetensors")
    energy.load_state_dict({key: value.float() for key, value in stored.tensors.items()})
    return energy.eval().requires_grad_(False).to(device)


def trainable(name: str) -> Energy:
    """Return the same as `pretrained` to train on, on your own photographs or noise: a copy.

    Raises `ValueError` as `pretrained` does.
    """
    return deepcopy(pretrained(name)).train().requires_grad_(True)


def card(name: str) -> dict[str, Any]:
    """Return what is written on the card of the weights; errors as `pretrained`."""
    _expect_shipped(name)
    return storage.load(WEIGHTS / f"{name}.safetensors").facts


def ship(energy: Energy, name: str, facts: dict[str, Any]) -> Path:
    """Write the weights in half precision, with their card, to where `pretrained` finds them."""
    halved = {key: value.to(torch.float16) for key, value in energy.state_dict().items()}
    storage.save(WEIGHTS / f"{name}.safetensors", halved, facts)
    return WEIGHTS / f"{name}.safetensors"


def _expect_shipped(name: str) -> None:
    if name not in ENERGIES:
        raise ValueError(f"expected a name of {', '.join(map(repr, ENERGIES))}, got {name!r}")
