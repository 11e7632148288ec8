"""A measurement by any linear operator that is written in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.vision.conjugate_gradients import Operator
from ebrl.vision.observations import Observation

ROUNDING = 0.01  # of the largest number of a measurement, by which a linear operator may be off


class Linear(Observation):
    """A linear operator of the user, with its adjoint by automatic differentiation.

    Args:
        y: One measurement of any shape, such as the `(m,)` of compressed sensing.
        operator: Maps one image to one measurement.
        shape: Shape of one image.
        deviation: Standard deviation of the noise.

    Raises:
        ValueError: When the operator returns another shape than y's, or is not linear.
    """

    def __init__(self, y: Tensor, operator: Operator, shape: tuple[int, ...], deviation: float):
        super().__init__(y, deviation, is_image=False)
        self.measure, self.shape = operator, shape
        check_linear(operator, shape, y)

    def operator(self, x: Tensor) -> Tensor:
        return _one_by_one(self.measure, x, len(self.shape))

    def adjoint(self, y: Tensor) -> Tensor:
        zero = y.new_zeros(self.shape)

        def back(one: Tensor) -> Tensor:
            (image,) = torch.autograd.functional.vjp(self.measure, zero, one)[1:]
            return image

        return _one_by_one(back, y, self.y.ndim)


def _one_by_one(function: Operator, x: Tensor, ndim: int) -> Tensor:
    """Apply a function to each element, of `ndim` axes, of a batch."""
    batch = x.shape[: x.ndim - ndim]
    results = torch.stack([function(one) for one in x.reshape(-1, *x.shape[len(batch) :])])
    return results.view(*batch, *results.shape[1:])


@torch.no_grad()
def check_linear(operator: Operator, shape: tuple[int, ...], y: Tensor) -> None:
    """Raise ValueError for an operator that does not map 0 to 0 and sums to sums, of y's shape."""
    nothing = operator(y.new_zeros(shape))
    if nothing.shape != y.shape:
        raise ValueError(
            f"expected an operator from {shape} to y's {tuple(y.shape)}, got one to "
            f"{tuple(nothing.shape)}"
        )
    if nothing.any():
        raise ValueError(
            "expected a linear operator, got one with A(0) ≠ 0: subtract A(0) from it and from y"
        )
    v, w = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(y)
    together, apart = operator(v + w), operator(v) + operator(w)
    if (together - apart).abs().max() > ROUNDING * apart.abs().max():
        raise ValueError(
            "expected a linear operator, got one with A(v + w) ≠ A(v) + A(w): linearise it"
        )
