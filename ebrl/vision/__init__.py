"""Images: denoise, restore, generate, recognise.

    from ebrl import vision

    clean = vision.denoise("photo.jpg")                # the noise is estimated
    clean = vision.denoise(array, sigma=25)            # uint8 in, uint8 out

Needs the extra `vision`: pip install 'ebrl[vision]'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebrl.lazy import attach

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

_NAMES = {
    "denoising": "denoise denoised",
    "files": "load save",
    "generation": "Guided generate",
    "grids": "grid",
    "linear": "Linear",
    "networks": "DiffusionEnergy GradientStepEnergy SumEnergy",
    "objectives": "CorrelatedNoise Denoising LogNormalNoise WhiteNoise",
    "observations": "Blurred Cropped Direct Downsampled Masked",
    "patches": "Patches",
    "recognition": "ImageClassifier",
    "resemblance": "compare",
    "restoration": "denoise_samples posterior restore",
    "shipped": "card pretrained trainable",
    "symmetry": "Symmetric",
    "tiles": "Tiled",
    "trust": "confidence detection reliability",
}
__all__, __getattr__, __dir__ = attach(__name__, _NAMES, extra="vision", requires=PACKAGES)
