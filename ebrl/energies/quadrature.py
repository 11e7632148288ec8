"""Densities on an interval as tables, with normalizer, moments and draws in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.generators import device_of


class Quadrature(NamedTuple):
    """A density on an interval, tabulated to the accuracy of float32."""

    nodes: Tensor  # (points,)
    cumulative: Tensor  # (points,), the distribution function
    density: Tensor  # (points,)
    log_normalizer: float

    @classmethod
    def over(cls, low: float, high: float, log_density: Callable[[Tensor], Tensor]) -> Quadrature:
        """Tabulate `exp(log_density)` by the trapezoidal rule.

        Its error falls with the square of the spacing, and faster than any power of it for smooth
        densities that vanish at the ends.
        """
        nodes = torch.linspace(low, high, 2**15, dtype=torch.float64)
        log_values = log_density(nodes)
        highest = log_values.max()
        values = (log_values - highest).exp()
        cumulative = torch.cat([values.new_zeros(1), torch.cumulative_trapezoid(values, nodes)])
        total = cumulative[-1]
        log_normalizer = float(highest + total.log())
        return cls(nodes, cumulative / total, values / total, log_normalizer)

    def moment(self, function: Callable[[Tensor], Tensor]) -> float:
        """Return the expectation of a function of x."""
        return float(torch.trapezoid(function(self.nodes) * self.density, self.nodes))

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw by inversion, linear between the nodes."""
        device = device_of(generator)
        nodes, cumulative = self.nodes.to(device), self.cumulative.to(device)
        uniform = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
        right = torch.searchsorted(cumulative, uniform, right=True).clamp(1, len(nodes) - 1)
        left = right - 1
        rise = (cumulative[right] - cumulative[left]).clamp_min(torch.finfo(torch.float64).tiny)
        x = torch.lerp(nodes[left], nodes[right], (uniform - cumulative[left]) / rise)
        return x.to(torch.get_default_dtype())
