"""Energy Discrepancy (Schröder et al. 2023): data against their own perturbations, no chains.

Perturb each x to y, then y to M candidates by the same symmetric kernel q, and lower the energy of
x against theirs: `E log(w/M + 1/M Σ_j exp(E(x) - E(x_j)))`. With a stabiliser w of 1 the optimum is
exact for every M, not only in the limit: given y, the datum has a density ∝ `p(x) q(y|x)` and a
candidate `q(x|y) = q(y|x)`, which makes the loss ranking NCE. It is blind to the weights of modes
further apart than its perturbations reach. For two modes 4 apart with deviation .4, the
gradient of their weight from one datum has a signal-to-noise ratio below .01 at sigma .25, of .2 at
1 and of .3 at 2; but wide perturbations resolve little detail.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.draws import normal_like, uniform_like
from ebrl.objectives.discrete import check_discrete
from ebrl.objectives.levels import as_levels, draw_levels
from ebrl.objectives.noise_contrast import candidate_metrics
from ebrl.objectives.protocol import Loss, Objective, conditioned
from ebrl.ranges import check_at_least


class EnergyDiscrepancy(nn.Module, Objective):
    """Energy Discrepancy with Gaussian perturbations.

    Args:
        sigma: Deviation of the perturbations, in the units of x. If it is `(levels,)`, each x draws
            one: small ones for detail, large ones for mode weights.
        candidates: Number M of candidates for each x.
        stabiliser: Weight w; 0 lets one candidate dominate the loss.
    """

    sigma: Tensor

    def __init__(self, sigma: Number = 0.25, candidates: int = 16, *, stabiliser: float = 1.0):
        super().__init__()
        check_at_least(1, candidates=candidates)
        check_at_least(0, stabiliser=stabiliser)
        self.register_buffer("sigma", as_levels(sigma), persistent=False)
        self.candidates, self.stabiliser = candidates, stabiliser

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        x = x.detach().unsqueeze(1)  # (batch, 1, *event)
        sigma = over_event(draw_levels(self.sigma, x, generator), x.ndim - 1)
        y = x + sigma * normal_like(x, generator)
        candidates = y.repeat_interleave(self.candidates, 1)
        candidates = candidates + sigma * normal_like(candidates, generator)
        return _discrepancy(energy, torch.cat([x, candidates], 1), condition, self.stabiliser)


class DiscreteEnergyDiscrepancy(nn.Module, Objective):
    """Energy Discrepancy where each site changes with some probability.

    Binary sites flip. Categorical sites move to another category, all with the same probability
    (Schröder et al. 2024, the complete graph). The other arguments are those of
    `EnergyDiscrepancy`.

    Args:
        change: Probability that a site changes.
        categorical: True for one-hot x, `(batch, *sites, categories)`.

    Raises:
        ValueError: If x is neither binary nor one-hot.
    """

    def __init__(
        self,
        change: float = 0.1,
        candidates: int = 16,
        *,
        categorical: bool = False,
        stabiliser: float = 1.0,
    ):
        super().__init__()
        if not 0 < change < 1:
            raise ValueError(f"expected a probability of change between 0 and 1, got {change}")
        check_at_least(1, candidates=candidates)
        check_at_least(0, stabiliser=stabiliser)
        self.change, self.candidates = change, candidates
        self.categorical, self.stabiliser = categorical, stabiliser

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        check_discrete(x, self.categorical)
        x = x.detach().unsqueeze(1)  # (batch, 1, *event)
        y = self._perturbed(x, generator)
        candidates = self._perturbed(y.repeat_interleave(self.candidates, 1), generator)
        return _discrepancy(energy, torch.cat([x, candidates], 1), condition, self.stabiliser)

    def _perturbed(self, x: Tensor, generator: Generator) -> Tensor:
        if not self.categorical:
            return torch.where(uniform_like(x, generator) < self.change, 1 - x, x)
        changed = uniform_like(x[..., 0], generator) < self.change
        # The smallest of independent uniforms: every other category is equally likely.
        other = uniform_like(x, generator).masked_fill(x > 0.5, 2).argmin(-1)
        moved = nn.functional.one_hot(other, x.shape[-1]).to(x)
        return torch.where(changed.unsqueeze(-1), moved, x)


def _discrepancy(energy: Energy, pool: Tensor, condition: Tensor | None, stabiliser: float) -> Loss:
    """Return the loss on `pool: (batch, 1 + candidates, *event)`, the datum first."""
    value = conditioned(energy, condition)(pool)  # (batch, 1 + candidates)
    weight = torch.ones_like(value[0].detach())
    weight[0] = stabiliser
    log_odds = value[:, :1] - value + weight.log()
    loss = torch.logsumexp(log_odds, 1).mean() - math.log(pool.shape[1] - 1)
    return Loss(loss, candidate_metrics(value, -value))
