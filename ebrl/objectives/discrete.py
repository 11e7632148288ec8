"""Objectives for binary and categorical energies: every site against what it might have been.

The law of one site given all others needs no normalizer. Both objectives are proper scores of these
laws, the logarithm and the square, so that their optimum is the data's own energy. They see one
change at a time: they are blind to the weights of modes that lie several improbable changes apart
(of two patterns 8 changes apart, a datum tells less than .01 standard deviations of its own noise).
`x` is binary, `(batch, *sites)` of 0 and 1, or one-hot, `(batch, *sites, categories)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.energies import Energy
from ebrl.kernels.protocol import uniform_like
from ebrl.objectives.protocol import Loss, Objective, bound


class _SiteObjective(Objective):
    """What depends on the law of each site given all others."""

    def __init__(self, *, categorical: bool = False, sites: int | None = None):
        if sites is not None and sites < 1:
            raise ValueError(f"expected at least one site for each x, got {sites}")
        self.categorical, self.sites = categorical, sites

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        expect_discrete(x, self.categorical)
        energy = bound(energy, condition)
        log_law = site_log_laws(energy, x, self.categorical, self.sites, generator)
        sites = x[0].numel() // (x.shape[-1] if self.categorical else 1)
        observed = log_law.detach()[..., 0]
        metrics = {
            "site_log_probability": observed.mean(),
            "site_probability": observed.exp().mean(),
        }
        return Loss(sites * self._rule(log_law).mean(), metrics)

    def _rule(self, log_law: Tensor) -> Tensor:
        """Return what a site's law costs, `(batch, sites)`, of that which `site_log_laws` gives."""
        raise NotImplementedError


class PseudoLikelihood(_SiteObjective):
    """`-Σ_i log p(x_i | all others)` (Besag 1975), in nats.

    A call evaluates the energy `1 + sites · (categories - 1)` times for each x; with `sites=n`, n
    of them are drawn for each x and the sum scaled to be unbiased. Raises `ValueError` for n < 1.
    """

    def _rule(self, log_law: Tensor) -> Tensor:
        return -log_law[..., 0]


class RatioMatching(_SiteObjective):
    """`½ Σ_i Σ_k (p(k | all others) - [x_i = k])²` (Hyvärinen 2007; for two categories his).

    Bounded where a site is badly predicted, so steadier than pseudo-likelihood, and slower there.
    Cost and `sites` as there.
    """

    def _rule(self, log_law: Tensor) -> Tensor:
        law = log_law.exp()
        return 0.5 * ((1 - law[..., 0]).square() + law[..., 1:].square().sum(-1))


def site_log_laws(
    energy: Energy, x: Tensor, categorical: bool, sites: int | None, generator: torch.Generator
) -> Tensor:
    """Return `log p(x_i = k | all others)`, `(batch, sites, categories)`, the observed k first."""
    x = x.detach()
    flat = x.flatten(1, -2) if categorical else x.flatten(1).unsqueeze(-1)  # (batch, sites, K or 1)
    count = flat.shape[1]
    chosen = torch.arange(count, device=x.device).expand(len(x), -1)
    if sites is not None and sites < count:
        chosen = uniform_like(flat[..., 0], generator).argsort(1)[:, :sites]
    here = torch.nn.functional.one_hot(chosen, count).bool().unsqueeze(-1)  # (batch, n, sites, 1)
    if categorical:
        others = [flat.roll(shift, -1) for shift in range(1, flat.shape[-1])]
    else:
        others = [1 - flat]
    changed = torch.stack(
        [torch.where(here, other.unsqueeze(1), flat.unsqueeze(1)) for other in others], 2
    )  # (batch, n, K - 1, sites, K or 1)
    changed = changed.reshape(*changed.shape[:3], *x.shape[1:])
    alternatives = energy(changed)  # (batch, n, K - 1)
    observed = energy(x)[:, None, None].expand(*alternatives.shape[:2], 1)
    return torch.log_softmax(-torch.cat([observed, alternatives], -1), -1)


def expect_discrete(x: Tensor, categorical: bool) -> None:
    """Raise `ValueError` for x that are not 0 and 1, or not one-hot where categorical.

    NaN is let through, to be seen in the loss.
    """
    right = (x == 0) | (x == 1) | x.isnan()
    if categorical:
        total = x.sum(-1, keepdim=True)
        right &= (total == 1) | total.isnan()
    if not right.all() or (categorical and x.ndim < 3):
        wanted = "one-hot x, (batch, *sites, categories)" if categorical else "x of 0 and 1"
        raise ValueError(
            f"expected {wanted}, got {tuple(x.shape)} with values from {x.min()} to {x.max()}"
        )
