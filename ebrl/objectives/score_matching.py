"""Score matching: the energy's gradient against the data's, with no normalizer and no chains.

Gradients are all that it sees. Between modes that a region without data separates, no gradient
tells how much mass each has: it is blind to mode weights. Of those of two modes 4 apart with
deviation .4 a datum tells less than .01 standard deviations of its own noise. Use smooth
activations: the second derivative of a ReLU network is zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, check_one_number_each, over_event
from ebrl.kernels.protocol import normal_like
from ebrl.objectives.protocol import Loss, Objective, bound


class DenoisingScoreMatching(Objective):
    """`½ E weight(σ) |σ ∇E(x + σ z) - z|²`, summed over the event (Vincent 2011, section 4.3).

    With a number `sigma` the optimum is the energy of the data *blurred* by sigma: of precision
    `1 / (s² + σ²)` for a Gaussian. With `(levels,)` each x draws its level and the energy is
    `given` it, as `(batch,)`: it learns the blurred energy of every level, up to a constant for
    each. `weight=torch.square` makes the loss half the squared error of the denoised
    `y - σ² ∇E(y)`. One double backward. Raises `ValueError` for sigmas that are not positive.
    """

    def __init__(self, sigma: Number, *, weight: Callable[[Tensor], Tensor] = torch.ones_like):
        self.sigma, self.weight = expect_levels(sigma), weight

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        sigma = draw_levels(self.sigma, x, generator)  # (batch,)
        if self.sigma.ndim == 0:
            energy = bound(energy, condition)
        else:
            energy = (energy if condition is None else energy.given(condition)).given(sigma)
        noise = normal_like(x, generator)
        scale = over_event(sigma, energy.event_ndim)
        _, gradient = gradient_with_graph(energy, x + scale * noise)
        error = (scale * gradient - noise).square().flatten(1)  # (batch, size of the event)
        loss = 0.5 * (self.weight(sigma) * error.sum(1)).mean()
        denoised = (sigma.square() * error.detach().mean(1)).mean()
        return Loss(loss, {"denoising_error": denoised})


class SlicedScoreMatching(Objective):
    """`E ½ |∇E|² - vᵀ ∇²E v` with random signs v, variance reduced (Song et al. 2019, eq. 8).

    The optimum is the data's own energy. Each of the `projections` of an x is one double backward.
    Raises `ValueError` for fewer than one.
    """

    def __init__(self, projections: int = 1):
        if projections < 1:
            raise ValueError(f"expected at least one projection, got {projections}")
        self.projections = projections

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        at, gradient = gradient_with_graph(bound(energy, condition), x)
        curvatures = []
        for _ in range(self.projections):
            sign = torch.empty_like(x).bernoulli_(0.5, generator=generator) * 2 - 1
            product = _gradient(gradient, at, sign)
            curvatures.append((sign * product).flatten(1).sum(1))
        return _hyvarinen(gradient, torch.stack(curvatures).mean(0))


class ExactScoreMatching(Objective):
    """`E ½ |∇E|² - tr ∇²E` (Hyvärinen 2005, equation 4); the optimum is the data's own energy.

    The trace takes as many double backwards as an event has numbers: for small events.
    """

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        at, gradient = gradient_with_graph(bound(energy, condition), x)
        axes = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[1:])
        diagonal = [
            (axis * _gradient(gradient, at, axis.expand_as(x))).flatten(1).sum(1) for axis in axes
        ]
        return _hyvarinen(gradient, torch.stack(diagonal).sum(0))


def gradient_with_graph(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a leaf that is x, and the energy's gradient there as a function of both."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = energy(x)
        check_one_number_each(value, x, energy.event_ndim)
    return x, _gradient(value, x, torch.ones_like(value))


def expect_levels(sigma: Number) -> Tensor:
    """Return noise levels as a tensor, `()` or `(levels,)`; `ValueError` where not positive."""
    sigma = torch.as_tensor(sigma, dtype=torch.get_default_dtype())
    if sigma.ndim > 1 or sigma.numel() == 0 or not ((sigma > 0) & sigma.isfinite()).all():
        raise ValueError(f"expected sigma > 0, a number or (levels,), got {sigma.tolist()}")
    return sigma


def draw_levels(sigma: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a noise level for each x, `(batch,)`, all levels being as likely."""
    sigma = sigma.to(x)
    if sigma.ndim == 0:
        return sigma.expand(len(x))
    return sigma[torch.randint(len(sigma), (len(x),), generator=generator, device=x.device)]


def _gradient(of: Tensor, x: Tensor, along: Tensor) -> Tensor:
    with torch.enable_grad():
        return torch.autograd.grad(of, x, along, create_graph=True, materialize_grads=True)[0]


def _hyvarinen(gradient: Tensor, curvature: Tensor) -> Loss:
    squared = gradient.square().flatten(1).sum(1)  # (batch,)
    metrics = {"squared_gradient": squared.mean().detach(), "curvature": curvature.mean().detach()}
    return Loss((0.5 * squared - curvature).mean(), metrics)
