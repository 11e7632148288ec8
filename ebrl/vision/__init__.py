"""Images on the core: denoise, restore, generate, recognise.

    from ebrl import vision

    clean = vision.denoise("photo.jpg")                # the level of the noise is estimated
    clean = vision.denoise(array, sigma=25)            # uint8 in, uint8 out

Needs the extra `vision`: pip install 'ebrl[vision]'.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebrl.vision.denoise import denoise as denoise
    from ebrl.vision.denoise import denoised as denoised
    from ebrl.vision.networks import DiffusionEnergy as DiffusionEnergy
    from ebrl.vision.networks import GradientStepEnergy as GradientStepEnergy
    from ebrl.vision.networks import SumEnergy as SumEnergy
    from ebrl.vision.objectives import Denoising as Denoising
    from ebrl.vision.objectives import LogNormalNoise as LogNormalNoise
    from ebrl.vision.objectives import WhiteNoise as WhiteNoise
    from ebrl.vision.patches import Patches as Patches
    from ebrl.vision.pretrained import pretrained as pretrained

_HOMES = {
    "Denoising": "objectives",
    "DiffusionEnergy": "networks",
    "GradientStepEnergy": "networks",
    "LogNormalNoise": "objectives",
    "Patches": "patches",
    "SumEnergy": "networks",
    "WhiteNoise": "objectives",
    "denoise": "denoise",
    "denoised": "denoise",
    "pretrained": "pretrained",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebrl.vision' has no attribute {name!r}")
    try:
        return getattr(import_module(f"ebrl.vision.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("PIL", "skimage", "torchmetrics"):
            raise
        raise ModuleNotFoundError(
            f"ebrl.vision.{name} needs {error.name}: pip install 'ebrl[vision]'", name=error.name
        ) from error
