"""What a state knows of the energy, handed to a kernel that starts there."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from ebrl.energies import Energy
from ebrl.kernels.protocol import HasPosition


class Known:
    """An energy that remembers one state's energy, and its gradient where it has one.

    No module: one is made for every step.
    """

    def __init__(self, energy: Energy, state: HasPosition):
        self.energy, self.state = energy, state
        self.event_ndim, self.coupled_axis = energy.event_ndim, energy.coupled_axis

    def __call__(self, x: Tensor) -> Tensor:
        return self.state.energy if x is self.state.x else self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gradient = getattr(self.state, "gradient", None)
        if x is self.state.x and gradient is not None:
            return self.state.energy, gradient
        return self.energy.value_and_gradient(x)


def known(energy: Energy, state: HasPosition) -> Energy:
    """Return the energy, such that starting a kernel at `state.x` evaluates nothing twice."""
    return cast(Energy, Known(energy, state))
