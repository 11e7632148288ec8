"""Energy Discrepancy (Schröder et al. 2023): data against their own perturbations, no chains.

Perturb each x to y, then y to M candidates by the same symmetric law q, and lower x's energy
against theirs: `E log(w/M + 1/M Σ_j exp(E(x) - E(x_j)))`. With a stabiliser w of 1 the optimum is
exact for any M, not only in the limit: given y, the datum has a density ∝ `p(x) q(y|x)` and a
candidate `q(x|y) = q(y|x)`, so that the loss is ranking NCE. It sees as far as its perturbations
reach: it is blind to the weights of modes further apart. Of those of two modes 4 apart with
deviation .4 a datum tells less than .01 standard deviations of its own noise at sigma = .25, .2 at
1 and .3 at 2; but wide perturbations see little detail.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.protocol import normal_like, uniform_like
from ebrl.objectives.discrete import expect_discrete
from ebrl.objectives.noise_contrast import contrast_metrics, expect_candidates
from ebrl.objectives.protocol import Loss, Objective, bound
from ebrl.objectives.score_matching import draw_levels, expect_levels


class EnergyDiscrepancy(Objective):
    """Energy Discrepancy with Gaussian noise of deviation `sigma`, in the units of x.

    `(levels,)` of sigma: each x draws one, small ones for detail and large ones for mode weights.
    Raises `ValueError` for sigmas that are not positive, fewer than one candidate or a negative
    stabiliser (0 lets the loss be dominated by one candidate).
    """

    def __init__(self, sigma: Number = 0.25, candidates: int = 16, *, stabiliser: float = 1.0):
        self.sigma, self.candidates = expect_levels(sigma), expect_candidates(candidates)
        self.stabiliser = _expect_stabiliser(stabiliser)

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        x = x.detach().unsqueeze(1)  # (batch, 1, *event)
        sigma = over_event(draw_levels(self.sigma, x, generator), x.ndim - 1)
        y = x + sigma * normal_like(x, generator)
        candidates = y.repeat_interleave(self.candidates, 1)
        candidates = candidates + sigma * normal_like(candidates, generator)
        return _discrepancy(energy, torch.cat([x, candidates], 1), condition, self.stabiliser)


class DiscreteEnergyDiscrepancy(Objective):
    """Energy Discrepancy where a site is changed with probability `change`, else kept.

    Binary `x: (batch, *sites)` of 0 and 1 are flipped; with `categorical=True`, one-hot
    `(batch, *sites, categories)` move to another category, all as likely (Schröder et al. 2024,
    the complete graph). Raises `ValueError` for a `change` outside (0, 1) and as above.
    """

    def __init__(
        self,
        change: float = 0.1,
        candidates: int = 16,
        *,
        categorical: bool = False,
        stabiliser: float = 1.0,
    ):
        if not 0 < change < 1:
            raise ValueError(f"expected a probability of change between 0 and 1, got {change}")
        self.change, self.candidates = change, expect_candidates(candidates)
        self.categorical, self.stabiliser = categorical, _expect_stabiliser(stabiliser)

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        expect_discrete(x, self.categorical)
        x = x.detach().unsqueeze(1)  # (batch, 1, *event)
        y = self._perturbed(x, generator)
        candidates = self._perturbed(y.repeat_interleave(self.candidates, 1), generator)
        return _discrepancy(energy, torch.cat([x, candidates], 1), condition, self.stabiliser)

    def _perturbed(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if not self.categorical:
            return torch.where(uniform_like(x, generator) < self.change, 1 - x, x)
        changed = uniform_like(x[..., 0], generator) < self.change
        # The least of uniforms is as likely to be at any category, and never at the present one.
        other = uniform_like(x, generator).masked_fill(x > 0.5, 2).argmin(-1)
        moved = torch.nn.functional.one_hot(other, x.shape[-1]).to(x)
        return torch.where(changed.unsqueeze(-1), moved, x)


def _discrepancy(energy: Energy, pool: Tensor, condition: Tensor | None, stabiliser: float) -> Loss:
    """Return the loss on `pool: (batch, 1 + candidates, *event)`, the datum first."""
    value = bound(energy, condition)(pool)  # (batch, 1 + candidates)
    weight = torch.ones_like(value[0].detach())
    weight[0] = stabiliser
    log_odds = value[:, :1] - value + weight.log()
    loss = torch.logsumexp(log_odds, 1).mean() - math.log(pool.shape[1] - 1)
    return Loss(loss, contrast_metrics(value, -value))


def _expect_stabiliser(stabiliser: float) -> float:
    if stabiliser < 0:
        raise ValueError(f"expected a stabiliser >= 0, got {stabiliser}")
    return stabiliser
