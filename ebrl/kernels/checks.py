"""Checks of kernels, and of what they are asked to move."""

from __future__ import annotations

from torch import Tensor

from ebrl.constants import Constant
from ebrl.energies import Energy, Number
from ebrl.energies.evaluating import evaluating
from ebrl.kernels.protocol import HasPosition, Kernel
from ebrl.spaces import Space
from ebrl.spaces.space import equal


def check_is_kernel(kernel: object) -> None:
    """Raise `TypeError` for what is no kernel, such as a string or the class of one."""
    if isinstance(kernel, type) or not callable(getattr(kernel, "step", None)):
        got = f"the class {kernel.__name__}" if isinstance(kernel, type) else repr(kernel)
        raise TypeError(f"expected a kernel, such as MALA(), got {got}")


def check_suits(kernel: Kernel, space: Space) -> None:
    """Raise `ValueError` for a kernel that is wrong in the space, or moves other coordinates."""
    if kernel.coordinates not in (None, space.coordinates):
        raise ValueError(
            f"expected a kernel of {space.coordinates} coordinates for {type(space).__name__}, got "
            f"{type(kernel).__name__}, which moves {kernel.coordinates} ones: choose another kernel"
            " or space"
        )
    kernel.check_space(space)


def check_own_space(kernel: Kernel, own: Space, space: Space) -> None:
    """Raise `ValueError` unless the kernel's `own` space equals the sampler's space."""
    if not equal(own, space):
        raise ValueError(
            f"expected {type(kernel).__name__} of the sampler's own {type(space).__name__}, got "
            f"one of another {type(own).__name__}: pass the same space to both"
        )


def check_restartable(kernel: Kernel, where: str) -> None:
    """Raise `ValueError` for a kernel whose chains cannot go on from x alone."""
    if kernel.stateful:
        raise ValueError(
            f"expected a kernel whose chains go on from x alone {where}, got "
            f"{type(kernel).__name__}, which would lose its replicas at each start and be biased: "
            "use one long run of it, or MALA, HMC or a Cycle with IteratedSIR"
        )


def check_positive_temperature(temperature: Number) -> None:
    """Raise `ValueError` at temperature 0, for kernels without a limit there.

    The values of tensors are not read, which would wait for the host.
    """
    if not isinstance(temperature, Tensor) and temperature <= 0:
        raise ValueError(f"expected a positive temperature, got {temperature}: descend instead")


def as_positive_diagonal(name: str, diagonal: Tensor | None) -> Constant | None:
    """Return `diagonal`; `ValueError` if a number in it is not positive and finite."""
    if diagonal is None:
        return None
    if not ((diagonal > 0) & diagonal.isfinite()).all():
        raise ValueError(f"expected a {name} of positive numbers, got {diagonal}")
    return Constant(diagonal)


def check_event_shape(name: str, diagonal: Constant | None, energy: Energy, x: Tensor) -> None:
    """Raise `ValueError` if `diagonal` does not have one number for each coordinate of an event."""
    event = x.shape[x.ndim - energy.event_ndim :]
    if diagonal is not None and diagonal.tensor.shape != event:
        raise ValueError(
            f"expected a {name} of the event's shape {tuple(event)}, got "
            f"{tuple(diagonal.tensor.shape)}"
        )


def check_uncoupled(energy: Energy) -> None:
    """Raise `ValueError` if the energy couples chains: a test needs each chain's own energy."""
    if energy.couples_chains:
        raise ValueError(
            "expected an energy of each chain alone, got one that couples the chains: move them by "
            "ULA or descend"
        )


def check_gradient_shape(state: HasPosition) -> None:
    """Raise `ValueError` where the gradient is known and has another shape than x."""
    if state.gradient is not None:
        _check_same_shape(state.gradient.shape, state.x.shape)


def check_not_broadcast(energy: Energy, x: Tensor) -> None:
    """Raise `ValueError` where the energy's own gradient shows that it broadcasts x.

    Only axes of size 1 are broadcast. A single x is evaluated; an energy that cannot evaluate it
    alone, or that torch cannot differentiate, passes.
    """
    batch_ndim = x.ndim - energy.event_ndim
    batch, event = x.shape[:batch_ndim], x.shape[batch_ndim:]
    if not x.is_floating_point() or 1 not in event:
        return
    try:
        with evaluating(energy):
            _, gradient = energy.value_and_gradient(x[(slice(1),) * batch_ndim])
    except (RuntimeError, ValueError):
        return
    _check_same_shape(batch + gradient.shape[gradient.ndim - len(event) :], x.shape)


def _check_same_shape(expected: tuple[int, ...], got: tuple[int, ...]) -> None:
    if expected != got:
        raise ValueError(
            f"expected x of the energy's shape (*batch, *event), {tuple(expected)}, got "
            f"{tuple(got)}: what draws x needs one number a dimension, such as "
            "Box(-torch.ones(2), torch.ones(2))"
        )
