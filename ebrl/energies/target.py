"""What a target is: a distribution that is known exactly."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ebrl.energies.energy import Energy
from ebrl.generators import device_of


class Target(Energy):
    """A normalised energy with known moments and exact draws.

    `E(x) = U(x) + log_normalizer`, where U is the formula in the subclass's docstring. `exp(-E)` is
    a density, so a target can serve as a proposal. Subclasses define `forward` or a differentiable
    `value_and_gradient`.
    """

    log_normalizer: float  # log ∫ exp(-U)

    def forward(self, x: Tensor) -> Tensor:
        return self.value_and_gradient(x)[0]

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, `(dimension,)`."""
        raise NotImplementedError(f"{type(self).__name__} defines no variance")

    def tempered(self, temperature: float) -> Target:
        """Return the target with the density `exp(-E/T)/Z`, where it is of the same family."""
        raise NotImplementedError(f"{type(self).__name__} defines no tempered target")

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw `(*batch, dimension)` exactly, on the generator's device."""
        raise NotImplementedError(f"{type(self).__name__} defines no sample")

    def log_density(self, x: Tensor) -> Tensor:
        """Return the normalised log density, `(*batch,)`."""
        return -self(x)


def standard_normal(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype | None = None
) -> Tensor:
    """Draw standard normal numbers on the generator's device."""
    return torch.randn(shape, generator=generator, device=device_of(generator), dtype=dtype)


def in_one_dtype(*numbers: Any) -> list[Tensor]:
    """Return numbers as tensors of the widest floating-point dtype among those that are tensors.

    Without one it is torch's default dtype.
    """
    tensors = [number for number in numbers if isinstance(number, Tensor)]
    dtypes = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    dtype = reduce(torch.promote_types, dtypes) if dtypes else torch.get_default_dtype()
    return [torch.as_tensor(number, dtype=dtype) for number in numbers]
