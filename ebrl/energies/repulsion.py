"""An energy that couples the chains of a batch: it keeps them apart."""

from __future__ import annotations

from torch import Tensor

from ebrl.energies.energy import Energy
from ebrl.ranges import check_positive


class Repulsion(Energy):
    """Half the mean over the other chains j of `exp(-|x_i - x_j|² / 2h²)`, h the bandwidth.

    The other chains are those along the last batch axis. The half makes the chains' energies add up
    to one joint energy, whose gradient `value_and_gradient` returns. Kernels without an acceptance
    test (ULA, descent) sample or descend it; a test of each chain's own energy (MALA, HMC) does not
    leave it invariant.
    """

    coupled_axis = -1

    def __init__(self, bandwidth: float, event_ndim: int = 1):
        super().__init__()
        check_positive(bandwidth=bandwidth)
        self.bandwidth, self.event_ndim = bandwidth, event_ndim

    def forward(self, x: Tensor) -> Tensor:
        closeness, _ = self._closeness(x)
        others = max(closeness.shape[-1] - 1, 1)
        return (closeness.sum(-1) - 1) / (2 * others)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        closeness, rows = self._closeness(x.detach())
        others = max(closeness.shape[-1] - 1, 1)
        total = closeness.sum(-1, keepdim=True)
        gradient = (closeness @ rows - total * rows) / (others * self.bandwidth**2)
        return (total.squeeze(-1) - 1) / (2 * others), gradient.view(x.shape)

    def _closeness(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernel of all pairs, `(*batch, n, n)`, and x as rows `(*batch, n, d)`."""
        if x.ndim <= self.event_ndim:
            raise ValueError(
                f"expected a batch axis to couple before {self.event_ndim} event axes, "
                f"got x of shape {tuple(x.shape)}"
            )
        rows = x.flatten(-self.event_ndim)
        rows = rows - rows.mean(-2, keepdim=True)  # distances far from the origin would cancel
        square = rows.square().sum(-1)
        apart = square.unsqueeze(-1) + square.unsqueeze(-2) - 2 * rows @ rows.mT
        return (-apart.clamp_min(0) / (2 * self.bandwidth**2)).exp(), rows
