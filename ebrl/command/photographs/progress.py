"""A prior that moves a progress bar at each evaluation."""

from __future__ import annotations

from torch import Tensor
from tqdm import tqdm

from ebrl.energies import Energy


class WithProgress(Energy):
    """A conditional prior that moves a bar after every value and gradient.

    Args:
        prior: The energy of images.
        bar: Its total is the number of evaluations to come.
        bound: The prior with its noise level; None until `given`.
    """

    def __init__(self, prior: Energy, bar: tqdm, bound: Energy | None = None):
        super().__init__()
        self.event_ndim = prior.event_ndim
        self.prior, self.bar, self.bound = prior, bar, bound
        self.takes_condition = bound is None

    def given(self, condition: Tensor) -> Energy:
        return WithProgress(self.prior, self.bar, self.prior.given(condition))

    def forward(self, x: Tensor) -> Tensor:
        return (self.prior if self.bound is None else self.bound)(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = (self.prior if self.bound is None else self.bound).value_and_gradient(x)
        self.bar.update()
        return found
