"""A measurement as an energy of the image: `E(x) = |A x - y|² / 2s²`, with noise of deviation s.

A posterior is a sum of energies, `prior.given(level) + observation`, with a level that falls to 0.
Each observation has its proximal step, `argmin E(x) + |x - start|² / 2 level²`, which pulls a
denoised image back to the measurement: in closed form, or by conjugate gradients. Images are
`(*batch, channels, height, width)`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.vision.conjugate_gradients import IMAGE, conjugate_gradients
from ebrl.vision.denoising import OUTSIDE
from ebrl.vision.holes import harmonic
from ebrl.vision.images import FAR

EXACT = 1e-3  # deviation that stands for no noise, where white is 1


class Observation(Energy):
    """`|A x - y|² / 2s²`; subclasses define A, its adjoint and, where known, the proximal step.

    Args:
        y: The measurement, floats.
        deviation: Standard deviation s of its noise.
        is_image: Whether y is images `(*batch, channels, height, width)` in [0, 1]; else it is one
            measurement, of at least one axis and in any units.

    Raises:
        ValueError: For a deviation that is not positive, and for y of another shape, of whole
            numbers, with NaN or infinity, or far outside of [0, 1].
    """

    event_ndim = 3
    y: Tensor

    def __init__(self, y: Tensor, deviation: float, is_image: bool = True):
        super().__init__()
        check_measured(y)
        if is_image:
            check_images(y)
        if not 0 < deviation < math.inf:
            raise ValueError(
                f"expected a deviation > 0 of the noise in y, got {deviation}: pass a small one, "
                "such as 1e-3, for what was measured without noise"
            )
        self.register_buffer("y", y)
        self.deviation, self.is_image = deviation, is_image
        self.axes = IMAGE if is_image else tuple(range(-y.ndim, 0))  # of one measurement

    def operator(self, x: Tensor) -> Tensor:
        """Return `A x`, the measurement of x without noise."""
        raise NotImplementedError(f"{type(self).__name__} defines no operator(x)")

    def adjoint(self, y: Tensor) -> Tensor:
        """Return `Aᵀ y`."""
        raise NotImplementedError(f"{type(self).__name__} defines no adjoint(y)")

    def proximal(self, start: Tensor, level: Number, y: Tensor | None = None) -> Tensor:
        """Return `argmin E(x) + |x - start|² / 2 level²`; here by conjugate gradients.

        Args:
            start: `(*batch, channels, height, width)`.
            level: A number or `(*batch, 1, 1, 1)`.
            y: Another measurement in place of the observation's own.
        """
        weight, pull = self._pull(y, level)
        wanted = pull + weight * start

        def normal(x: Tensor) -> Tensor:
            return self.adjoint(self.operator(x)) + weight * x

        return conjugate_gradients(normal, wanted, start, lambda r: self.inverse(r, weight))

    def inverse(self, x: Tensor, weight: Number) -> Tensor:
        """Return an approximation of `(AᵀA + weight)⁻¹ x`, up to a factor, as preconditioner."""
        return x

    def _pull(self, y: Tensor | None, level: Number) -> tuple[Number, Tensor]:
        """Return the weight of the start in a proximal step, and `Aᵀ y`."""
        return (self.deviation / level) ** 2, self.adjoint(self.y if y is None else y)

    def start(self) -> Tensor:
        """Return an initial image."""
        return self.adjoint(self.y)

    def kept(self, x: Tensor) -> Tensor:
        """Return x with the pixels that were measured without noise put back; here, none."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        return (self.operator(x) - self.y).square().sum(self.axes) / (2 * self.deviation**2)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            off = self.operator(x) - self.y
            value = off.square().sum(self.axes) / (2 * self.deviation**2)
            return value, self.adjoint(off) / self.deviation**2


class Direct(Observation):
    """The image itself with noise."""

    def operator(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def proximal(self, start: Tensor, level: Number, y: Tensor | None = None) -> Tensor:
        weight, pull = self._pull(y, level)
        return (pull + weight * start) / (1 + weight)


class Masked(Observation):
    """Some pixels of the image: inpainting.

    Args:
        y: The image; the values of unknown pixels do not matter.
        mask: True where pixels are known, `(height, width)` or with as many axes as y: a tensor or
            an array.
        deviation: Standard deviation of the noise of known pixels.

    Raises:
        ValueError: For a mask that does not fit y.
    """

    mask: Tensor

    def __init__(self, y: Tensor, mask: Tensor | np.ndarray, deviation: float = EXACT):
        check_mask(mask, y)
        known = torch.as_tensor(mask != 0, device=y.device)
        super().__init__(torch.where(known, y, 0), deviation)  # unknown pixels may be NaN
        self.register_buffer("mask", known.to(y))

    def operator(self, x: Tensor) -> Tensor:
        return self.mask * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask * y

    def proximal(self, start: Tensor, level: Number, y: Tensor | None = None) -> Tensor:
        weight, pull = self._pull(y, level)
        return (pull + weight * start) / (self.mask + weight)

    def kept(self, x: Tensor) -> Tensor:
        """Return x with the known pixels as they were measured, if that was without noise."""
        return torch.where(self.mask != 0, self.y, x) if self.deviation <= EXACT else x

    def start(self) -> Tensor:
        """Return y with unknown pixels harmonic: each is the mean of its neighbours."""
        return harmonic(self.y, self.mask)


class Blurred(Observation):
    """The image convolved with a kernel, with periodic borders.

    Periodic borders make the proximal step exact in the Fourier domain; for photographs, whose
    borders are not periodic, see `Cropped`.

    Args:
        y: The blurred image.
        kernel: `(height, width)`, with odd sides.
        deviation: Standard deviation of the noise.

    Raises:
        ValueError: For a kernel with even sides or larger than the image.
    """

    response: Tensor  # the kernel's Fourier transform

    def __init__(self, y: Tensor, kernel: Tensor, deviation: float):
        super().__init__(y, deviation)
        self.register_buffer("response", response(kernel, y))

    def operator(self, x: Tensor) -> Tensor:
        return self._filter(x, self.response)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filter(y, self.response.conj())

    def proximal(self, start: Tensor, level: Number, y: Tensor | None = None) -> Tensor:
        weight, pull = self._pull(y, level)
        return self.inverse(pull + weight * start, weight)

    def inverse(self, x: Tensor, weight: Number) -> Tensor:
        return self._filter(x, 1 / (self.response.abs().square() + weight))

    def start(self) -> Tensor:
        return self.y

    @staticmethod
    def _filter(x: Tensor, by: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * by, s=x.shape[-2:])


class Downsampled(Observation):
    """One pixel of each block of `factor` x `factor` of the blurred image: super-resolution.

    Args:
        y: The small image; the restored one is `factor` times larger, with periodic borders.
        factor: Pixels a side of a block.
        kernel: Blurs the large image before the pixel `(factor - 1) // 2` of each block is kept. By
            default a pixel of y is the mean of its block, as of a sensor with larger pixels.
        deviation: Standard deviation of the noise.

    Raises:
        ValueError: For a factor below 2, and as `Blurred`.
    """

    def __init__(
        self, y: Tensor, factor: int, kernel: Tensor | None = None, deviation: float = EXACT
    ):
        super().__init__(y, deviation)
        if factor < 2:
            raise ValueError(f"expected a factor of at least 2, got {factor}")
        self.factor, self.first = factor, (factor - 1) // 2
        large = y.new_zeros(*y.shape[:-2], factor * y.shape[-2], factor * y.shape[-1])
        self.blur = Blurred(large, block_mean(factor).to(y) if kernel is None else kernel, 1.0)

    def operator(self, x: Tensor) -> Tensor:
        blurred = self.blur.operator(x)
        return blurred[..., self.first :: self.factor, self.first :: self.factor]

    def adjoint(self, y: Tensor) -> Tensor:
        spread = torch.zeros_like(self.blur.y.expand(*y.shape[:-2], *self.blur.y.shape[-2:]))
        spread[..., self.first :: self.factor, self.first :: self.factor] = y
        return self.blur.adjoint(spread)

    def start(self) -> Tensor:
        """Return y enlarged by bicubic interpolation."""
        planes = self.y.reshape(-1, 1, *self.y.shape[-2:])
        large = self.blur.y.shape
        image = F.interpolate(planes, size=large[-2:], mode="bicubic", align_corners=False)
        return image.view(large)


class Cropped(Observation):
    """Another observation without the outer pixels of its measurement.

    For photographs, whose borders are not periodic: `Cropped(Blurred(padded(y, m), kernel, s), m)`.
    What lies beyond the borders is unknown, and restored with the rest.

    Args:
        whole: The observation; the outer pixels of its y only serve as initial values.
        margin: Pixels on each side that were not measured.

    Raises:
        ValueError: For a margin below 1, and one that leaves nothing.
    """

    def __init__(self, whole: Observation, margin: int):
        if not 1 <= margin < min(whole.y.shape[-2:]) / 2:
            raise ValueError(
                f"expected a margin of at least 1 pixel that leaves some of {tuple(whole.y.shape)},"
                f" got {margin}"
            )
        inside = whole.y[..., margin:-margin, margin:-margin]
        super().__init__(inside, whole.deviation, whole.is_image)
        self.whole, self.margin = whole, margin

    def operator(self, x: Tensor) -> Tensor:
        middle = slice(self.margin, -self.margin)
        return self.whole.operator(x)[..., middle, middle]

    def adjoint(self, y: Tensor) -> Tensor:
        return self.whole.adjoint(F.pad(y, [self.margin] * 4))

    def inverse(self, x: Tensor, weight: Number) -> Tensor:
        return self.whole.inverse(x, weight)

    def start(self) -> Tensor:
        return self.whole.start()


def gaussian_kernel(deviation: float) -> Tensor:
    """Return a normalised Gaussian kernel, cut at three deviations from its centre.

    Args:
        deviation: Standard deviation in pixels.

    Raises:
        ValueError: For a deviation that is not positive.
    """
    if not 0 < deviation < math.inf:
        raise ValueError(f"expected a deviation > 0 of the kernel, in pixels, got {deviation}")
    radius = max(math.ceil(3 * deviation), 1)
    line = torch.arange(-radius, radius + 1).div(deviation).square().div(-2).exp()
    return torch.outer(line, line) / line.sum() ** 2


def block_mean(factor: int) -> Tensor:
    """Return the kernel that makes pixel `(factor - 1) // 2` of a block the mean of the block."""
    side = factor + 1 - factor % 2  # the kernel's sides are odd
    kernel = torch.zeros(side, side)
    kernel[:factor, :factor] = 1 / factor**2
    return kernel


def response(kernel: Tensor, image: Tensor) -> Tensor:
    """Return the half spectrum of a kernel that is centred at the first pixel of an image."""
    height, width = image.shape[-2:]
    rows, columns = kernel.shape[-2:]
    if kernel.ndim != 2 or rows % 2 == 0 or columns % 2 == 0 or rows > height or columns > width:
        raise ValueError(
            "expected a kernel (height, width) of odd sides, no larger than the image's "
            f"{(height, width)}, got shape {tuple(kernel.shape)}"
        )
    if not kernel.isfinite().all():
        raise ValueError("expected a kernel of finite numbers, got some that are not")
    padded = F.pad(kernel.to(image), (0, width - columns, 0, height - rows))
    return torch.fft.rfft2(padded.roll((-(rows // 2), -(columns // 2)), (0, 1)))


def padded(y: Tensor, margin: int) -> Tensor:
    """Return y with a margin that interpolates between opposite borders, so that it is periodic."""
    for axis in (-2, -1):
        fade = torch.linspace(0, 1, 2 * margin + 2, dtype=y.dtype, device=y.device)[1:-1]
        fade = fade if axis == -1 else fade.unsqueeze(-1)
        last, first = y.narrow(axis, -1, 1), y.narrow(axis, 0, 1)
        bridge = last + fade * (first - last)
        after, before = bridge.split(margin, axis)
        y = torch.cat([before, y, after], axis)
    return y


def check_measured(y: Tensor) -> None:
    """Raise ValueError for y that are not finite floats."""
    if not y.is_floating_point():
        raise ValueError(f"expected y in floating point, from 0 to 1, got {y.dtype}: y / 255")
    if y.ndim == 0:
        raise ValueError("expected y of at least one axis, got a number: y[None]")
    if not y.isfinite().all():
        raise ValueError(
            "expected finite numbers in y, got NaN or infinity: mend it, or leave those pixels out "
            "of the mask of vision.Masked"
        )


def check_images(y: Tensor) -> None:
    """Raise ValueError for y that are no images in [0, 1], up to noise and single pixels."""
    if y.ndim < 3:
        raise ValueError(
            f"expected y as (*batch, channels, height, width), got shape {tuple(y.shape)}"
        )
    if ((y < FAR[0]) | (y > FAR[1])).float().mean() > OUTSIDE:
        raise ValueError(
            f"expected y in [0, 1], up to noise, got [{y.min():.3g}, {y.max():.3g}]: y / 255"
        )


def check_mask(mask: Tensor | np.ndarray, y: Tensor) -> None:
    """Raise ValueError for a mask of other sides than y's, or that would enlarge y."""
    if mask.shape[-2:] != y.shape[-2:]:
        raise ValueError(
            f"expected a mask of {tuple(y.shape[-2:])} pixels, as the image, got "
            f"{tuple(mask.shape)}"
        )
    pairs = zip(mask.shape[::-1], y.shape[::-1], strict=False)
    if mask.ndim > y.ndim or not all(m in (1, n) for m, n in pairs):
        raise ValueError(
            f"expected a mask that broadcasts to y's {tuple(y.shape)}, got {tuple(mask.shape)}: "
            "mask.unsqueeze(1) for one mask per image"
        )
