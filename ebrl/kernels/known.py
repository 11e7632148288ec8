"""An energy that returns what a state already knows, for a kernel that starts there."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from ebrl.energies import Energy
from ebrl.kernels.protocol import HasPosition


class Known:
    """An energy that remembers the value and, if it is known, the gradient at one state.

    A plain class, because one is created at every step.
    """

    def __init__(self, energy: Energy, state: HasPosition):
        self.energy, self.state = energy, state
        self.event_ndim, self.couples_chains = energy.event_ndim, energy.couples_chains

    def __call__(self, x: Tensor) -> Tensor:
        return self.state.energy if x is self.state.x else self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x is self.state.x and self.state.gradient is not None:
            return self.state.energy, self.state.gradient
        return self.energy.value_and_gradient(x)


def known(energy: Energy, state: HasPosition) -> Energy:
    """Return the energy for a kernel that starts at `state.x`, without a second evaluation."""
    return cast(Energy, Known(energy, state))
