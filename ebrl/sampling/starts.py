"""Starting points of chains, and checks of what they start with."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from ebrl.energies import Energy, check_energy, in_dtype_of
from ebrl.generators import check_generator
from ebrl.kernels.checks import check_not_broadcast
from ebrl.ranges import check_at_least
from ebrl.spaces import Space, Unbounded


def starting_points(
    space: Space, energy: Energy, x: Tensor | None, n: int | None, generator: torch.Generator
) -> Tensor:
    """Return starting points `(*batch, *event)`: x, or `n` reference draws of the space.

    Draws have the energy's dtype. Points are contiguous, so that equal numbers give equal chains.

    Raises:
        TypeError: For an energy that is no `Energy`, a generator that is no `torch.Generator` and x
            that is no `Tensor`.
        ValueError: For x that the energy or the space cannot take, and for devices that differ.
    """
    check_types(energy, x, generator)
    if (x is None) == (n is None):
        raise ValueError("expected either starting points x or their number n")
    if n is not None:
        check_at_least(0, n=n)
        x = space.reference((n,), generator)
        if x.ndim - 1 != energy.event_ndim:
            raise ValueError(
                f"expected a space of points with {energy.event_ndim} axes, as the energy "
                f"takes, got points of shape {tuple(x.shape[1:])}"
            )
        x = in_dtype_of(energy, x)
    assert x is not None
    check_takes(space, energy, x, generator)
    if n is not None and space.coordinates == "real":
        check_not_broadcast(energy, x)
    # Elsewhere reading would wait for the device.
    bounded = not isinstance(space, Unbounded)
    if bounded and x.device.type == "cpu" and not space.contains(x).all():
        raise ValueError(
            f"expected starting points in the {type(space).__name__}, got some outside: "
            "n=... draws them there"
        )
    return x.clone() if x.is_inference() else x.contiguous()


def check_takes(space: Space, energy: Energy, x: Tensor, generator: torch.Generator) -> None:
    """Raise `ValueError` for x of a type, axes or a device that do not fit the others."""
    integers = space.coordinates == "integer"
    numbers = "integers" if integers else "floating point"
    if x.is_floating_point() == integers or x.ndim < energy.event_ndim:
        raise ValueError(
            f"expected x of {numbers} and shape (*batch, *event) with {energy.event_ndim} "
            f"event axes, got {x.dtype} of shape {tuple(x.shape)}"
        )
    _check_devices(x, generator, energy)


def check_types(energy: object, x: object, generator: object) -> None:
    """Raise `TypeError` for an argument of a sampler that is of another type; x may be None."""
    check_energy(energy)
    check_generator(generator)
    if x is not None and not isinstance(x, Tensor):
        raise TypeError(f"expected x as a tensor, got {type(x).__name__}: torch.as_tensor(x)")


def _check_devices(x: Tensor, generator: torch.Generator, energy: Energy) -> None:
    if generator.device.type != x.device.type:
        raise ValueError(
            f"expected a generator on {x.device}, where x is, got one on {generator.device}: "
            f"torch.Generator({str(x.device)!r})"
        )
    weight = next(chain(energy.parameters(), energy.buffers()), None)
    if weight is not None and weight.device.type != x.device.type:
        raise ValueError(
            f"expected x and generator on {weight.device}, where the energy is, got them on "
            f"{x.device}"
        )
