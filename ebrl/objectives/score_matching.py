"""Score matching: fit the energy's gradient to the data's, without a normalizer or chains.

It is blind to mode weights: where a region without data separates two modes, no gradient says how
much mass each has. For two modes 4 apart with deviation .4, the gradient of their weight from one
datum has a signal-to-noise ratio below .01. Use smooth activations: the second derivative of a ReLU
network is zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from ebrl.energies import Energy, Number, check_one_number_each, over_event
from ebrl.kernels.draws import normal_like
from ebrl.objectives.levels import as_levels, draw_levels, with_level
from ebrl.objectives.protocol import Loss, Objective, conditioned
from ebrl.ranges import check_at_least


class DenoisingScoreMatching(nn.Module, Objective):
    """`½ E weight(σ) |σ ∇E(x + σ z) - z|²`, summed over the event (Vincent 2011, section 4.3).

    The optimum is the energy of the data *blurred* by sigma: its precision is `1 / (s² + σ²)` for a
    Gaussian of deviation s. A call costs one double backward.

    Args:
        sigma: One noise level, or `(levels,)`, of which each x draws one. The energy is then
            `given` the level, `(batch,)`, or as the last feature of the condition if there is one,
            `(batch, features + 1)`, and learns the blurred energy of each, up to a constant.
        weight: Weight of a level's error. `torch.square` makes the loss half the squared error of
            the denoised `y - σ² ∇E(y)`.
    """

    sigma: Tensor

    def __init__(self, sigma: Number, *, weight: Callable[[Tensor], Tensor] = torch.ones_like):
        super().__init__()
        self.register_buffer("sigma", as_levels(sigma), persistent=False)
        self.weight = weight

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        sigma = draw_levels(self.sigma, x, generator)  # (batch,)
        if self.sigma.ndim == 0:
            energy = conditioned(energy, condition)
        else:
            energy = energy.given(sigma if condition is None else with_level(condition, sigma))
        noise = normal_like(x, generator)
        scale = over_event(sigma, energy.event_ndim)
        _, gradient = gradient_with_graph(energy, x + scale * noise)
        error = (scale * gradient - noise).square().flatten(1)  # (batch, size of the event)
        loss = 0.5 * (self.weight(sigma) * error.sum(1)).mean()
        denoised = (sigma.square() * error.detach().mean(1)).mean()
        return Loss(loss, {"denoising_error": denoised})


class SlicedScoreMatching(nn.Module, Objective):
    """`E ½ |∇E|² - vᵀ ∇²E v` with random signs v, variance reduced (Song et al. 2019, eq. 8).

    The optimum is the data's own energy.

    Args:
        projections: Directions v for each x. Each costs one double backward.
    """

    def __init__(self, projections: int = 1):
        super().__init__()
        check_at_least(1, projections=projections)
        self.projections = projections

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        at, gradient = gradient_with_graph(conditioned(energy, condition), x)
        curvatures = []
        for _ in range(self.projections):
            # Drawn in the order of the axes, for every memory layout of x.
            fair = torch.empty_like(x, memory_format=torch.contiguous_format)
            sign = fair.bernoulli_(0.5, generator=generator) * 2 - 1
            product = _gradient(gradient, at, sign)
            curvatures.append((sign * product).flatten(1).sum(1))
        return _hyvarinen(gradient, torch.stack(curvatures).mean(0))


class ExactScoreMatching(nn.Module, Objective):
    """`E ½ |∇E|² - tr ∇²E` (Hyvärinen 2005, equation 4); the optimum is the data's own energy.

    The trace takes one double backward for each coordinate of x: for small events.
    """

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        at, gradient = gradient_with_graph(conditioned(energy, condition), x)
        axes = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[1:])
        diagonal = [
            (axis * _gradient(gradient, at, axis.expand_as(x))).flatten(1).sum(1) for axis in axes
        ]
        return _hyvarinen(gradient, torch.stack(diagonal).sum(0))


def gradient_with_graph(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a leaf equal to x, and `∇E` there, differentiable by the leaf and the parameters."""
    with torch.inference_mode(False), torch.enable_grad():
        x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        value = energy(x)
        check_one_number_each(value, x, energy.event_ndim)
    return x, _gradient(value, x, torch.ones_like(value))


def _gradient(of: Tensor, x: Tensor, along: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        along = along.clone() if along.is_inference() else along
        return torch.autograd.grad(of, x, along, create_graph=True, materialize_grads=True)[0]


def _hyvarinen(gradient: Tensor, curvature: Tensor) -> Loss:
    squared = gradient.square().flatten(1).sum(1)  # (batch,)
    metrics = {"squared_gradient": squared.mean().detach(), "curvature": curvature.mean().detach()}
    return Loss((0.5 * squared - curvature).mean(), metrics)
