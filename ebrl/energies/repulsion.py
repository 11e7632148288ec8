"""An energy that couples the chains of a batch: it keeps them apart."""

from __future__ import annotations

from torch import Tensor

from ebrl.energies.energy import Energy
from ebrl.ranges import check_positive


class Repulsion(Energy):
    """Half the mean over the other chains j of `exp(-|x_i - x_j|² / 2h²)`, h the bandwidth.

    The other chains are those along the last batch axis. The half makes the chains' energies add up
    to one joint energy, of which `value_and_gradient` is the gradient. It is for kernels without an
    acceptance test (ULA, descent): a test of each chain's own energy would not leave the joint
    density invariant. In float32, chains should not spread over more than some hundred bandwidths,
    because distances would then be lost to cancellation.
    """

    couples_chains = True

    def __init__(self, bandwidth: float, event_ndim: int = 1):
        super().__init__()
        check_positive(bandwidth=bandwidth)
        self.bandwidth, self.event_ndim = bandwidth, event_ndim

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim <= self.event_ndim:
            raise ValueError(
                f"expected a batch axis to couple before {self.event_ndim} event axes, "
                f"got x of shape {tuple(x.shape)}"
            )
        rows = x.flatten(-self.event_ndim)  # (*batch, n, d)
        rows = rows - rows.mean(-2, keepdim=True)  # distances far from the origin would cancel
        square = rows.square().sum(-1)
        apart = square.unsqueeze(-1) + square.unsqueeze(-2) - 2 * rows @ rows.mT
        closeness = (-apart.clamp_min(0) / (2 * self.bandwidth**2)).exp()  # (*batch, n, n)
        others = max(closeness.shape[-1] - 1, 1)
        return (closeness.sum(-1) - 1) / (2 * others)
