"""A prior averaged over symmetries of the plane: a photograph turned is a photograph."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ebrl.energies import Energy

SYMMETRIES = (1, 2, 4, 8)  # none, the mirror image, the turns, and the turns of both


class Symmetric(Energy):
    """The mean of a conditional prior over symmetries, `(1/n) Σ_g E(g x | g σ)`.

    Its energy is the same for an image and its turned or mirrored copies; the prior's is nearly so.
    Its denoised image is the mean of the denoised copies, turned back. That is closer to the truth,
    because their errors differ (Terris et al. 2024). It takes n times as long.

    Args:
        prior: The conditional energy.
        symmetries: n: 2 is the mirror image, 4 are the quarter turns, 8 are both together.
        sigma: `(*leading batch,)` or a map `(*batch, 1, height, width)`; None until `given`.

    Raises:
        ValueError: For another number of symmetries.
    """

    event_ndim = 3

    def __init__(self, prior: Energy, symmetries: int = 8, sigma: Tensor | None = None):
        super().__init__()
        if symmetries not in SYMMETRIES:
            raise ValueError(f"expected symmetries of {SYMMETRIES}, got {symmetries}")
        self.prior, self.symmetries, self.sigma = prior, symmetries, sigma
        self.takes_condition = sigma is None

    def given(self, condition: Tensor) -> Symmetric:
        return Symmetric(self.prior, self.symmetries, torch.as_tensor(condition))

    def forward(self, x: Tensor) -> Tensor:
        values = [energy(turned(x, *way)) for energy, way in self._copies(x)]
        return torch.stack(values).mean(0)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = torch.zeros(()).to(x), torch.zeros_like(x)
        for energy, way in self._copies(x):
            there, slope = energy.value_and_gradient(turned(x, *way))
            value = value + there / self.symmetries
            gradient += turned_back(slope, *way) / self.symmetries
        return value, gradient

    def _copies(self, x: Tensor) -> Iterator[tuple[Energy, tuple[int, bool]]]:
        """Yield the prior of each copy, with its quarter turns and whether it is mirrored."""
        if self.sigma is None:
            raise TypeError("this energy is conditional: call energy.given(sigma) first")
        is_map = self.sigma.ndim >= 3 and self.sigma.shape[-2:] == x.shape[-2:]
        for mirrored in (False, True)[: 1 if self.symmetries in (1, 4) else 2]:
            for quarters in range(4 if self.symmetries >= 4 else 1):
                way = (quarters, mirrored)
                yield self.prior.given(turned(self.sigma, *way) if is_map else self.sigma), way


def turned(x: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """Return images `(…, height, width)` mirrored or not, then turned by so many quarters."""
    return torch.rot90(x.flip(-1) if mirrored else x, quarters, (-2, -1))


def turned_back(x: Tensor, quarters: int, mirrored: bool) -> Tensor:
    """Return what `turned` was given."""
    back = torch.rot90(x, -quarters, (-2, -1))
    return back.flip(-1) if mirrored else back
