"""Images: denoise, restore, generate, recognise.

    from ebrl import vision

    clean = vision.denoise("photo.jpg")                # the noise is estimated
    clean = vision.denoise(array, sigma=25)            # uint8 in, uint8 out

Needs the extra `vision`: pip install 'ebrl[vision]'.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebrl.vision.denoising import denoise as denoise
    from ebrl.vision.denoising import denoised as denoised
    from ebrl.vision.files import load as load
    from ebrl.vision.files import save as save
    from ebrl.vision.generation import Guided as Guided
    from ebrl.vision.generation import generate as generate
    from ebrl.vision.grids import grid as grid
    from ebrl.vision.linear import Linear as Linear
    from ebrl.vision.networks import DiffusionEnergy as DiffusionEnergy
    from ebrl.vision.networks import GradientStepEnergy as GradientStepEnergy
    from ebrl.vision.networks import SumEnergy as SumEnergy
    from ebrl.vision.objectives import CorrelatedNoise as CorrelatedNoise
    from ebrl.vision.objectives import Denoising as Denoising
    from ebrl.vision.objectives import LogNormalNoise as LogNormalNoise
    from ebrl.vision.objectives import WhiteNoise as WhiteNoise
    from ebrl.vision.observations import Blurred as Blurred
    from ebrl.vision.observations import Cropped as Cropped
    from ebrl.vision.observations import Direct as Direct
    from ebrl.vision.observations import Downsampled as Downsampled
    from ebrl.vision.observations import Masked as Masked
    from ebrl.vision.patches import Patches as Patches
    from ebrl.vision.recognition import ImageClassifier as ImageClassifier
    from ebrl.vision.resemblance import compare as compare
    from ebrl.vision.restoration import denoise_samples as denoise_samples
    from ebrl.vision.restoration import posterior as posterior
    from ebrl.vision.restoration import restore as restore
    from ebrl.vision.shipped import card as card
    from ebrl.vision.shipped import pretrained as pretrained
    from ebrl.vision.shipped import trainable as trainable
    from ebrl.vision.symmetry import Symmetric as Symmetric
    from ebrl.vision.tiles import Tiled as Tiled
    from ebrl.vision.trust import confidence as confidence
    from ebrl.vision.trust import detection as detection
    from ebrl.vision.trust import reliability as reliability

PACKAGES = ("PIL", "imagecodecs", "pywt", "skimage", "sklearn", "tifffile")  # of the extra

_HOMES = {
    "Blurred": "observations",
    "CorrelatedNoise": "objectives",
    "Cropped": "observations",
    "Denoising": "objectives",
    "DiffusionEnergy": "networks",
    "Direct": "observations",
    "Downsampled": "observations",
    "GradientStepEnergy": "networks",
    "Guided": "generation",
    "ImageClassifier": "recognition",
    "Linear": "linear",
    "LogNormalNoise": "objectives",
    "Masked": "observations",
    "Patches": "patches",
    "SumEnergy": "networks",
    "Symmetric": "symmetry",
    "Tiled": "tiles",
    "WhiteNoise": "objectives",
    "card": "shipped",
    "compare": "resemblance",
    "confidence": "trust",
    "denoise": "denoising",
    "denoise_samples": "restoration",
    "denoised": "denoising",
    "detection": "trust",
    "generate": "generation",
    "grid": "grids",
    "load": "files",
    "posterior": "restoration",
    "pretrained": "shipped",
    "reliability": "trust",
    "restore": "restoration",
    "save": "files",
    "trainable": "shipped",
}
__all__ = list(_HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebrl.vision' has no attribute {name!r}")
    try:
        return getattr(import_module(f"ebrl.vision.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise ModuleNotFoundError(
            f"ebrl.vision.{name} needs {error.name}: pip install 'ebrl[vision]'", name=error.name
        ) from error
