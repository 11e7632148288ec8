"""Conjugate gradients for the linear systems of restoration (Hestenes and Stiefel 1952)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ebrl.energies import over_event

IMAGE = (-3, -2, -1)
Operator = Callable[[Tensor], Tensor]


def conjugate_gradients(
    normal: Operator,
    wanted: Tensor,
    x: Tensor,
    inverse: Operator = lambda x: x,
    steps: int = 30,
    tolerance: float = 1e-5,
) -> Tensor:
    """Solve `normal(x) = wanted` for a symmetric positive operator, image by image.

    Args:
        normal: The operator.
        wanted: The right-hand side, `(*batch, channels, height, width)`.
        x: The initial guess, of the same shape.
        inverse: An approximate inverse of the operator, symmetric and positive: the preconditioner.
        steps: Maximum number of iterations.
        tolerance: Norm of the residual, relative to that of `wanted`, at which an image is solved.
    """
    residual = wanted - normal(x)
    better = inverse(residual)
    direction, power = better, (residual * better).sum(IMAGE)
    enough = tolerance**2 * wanted.square().sum(IMAGE)
    for _ in range(steps):
        if bool((residual.square().sum(IMAGE) <= enough).all()):
            break
        image = normal(direction)
        length = over_event(power / (direction * image).sum(IMAGE).clamp_min(1e-30), 3)
        x, residual = x + length * direction, residual - length * image
        better = inverse(residual)
        before, power = power, (residual * better).sum(IMAGE)
        direction = better + over_event(power / before.clamp_min(1e-30), 3) * direction
    return x
