"""Objectives for binary and categorical energies: each site against its alternatives.

The distribution of one site given all others needs no normalizer. Both objectives are proper
scoring rules of these conditionals, one logarithmic and one quadratic, so that the data's own
energy is their optimum. They compare states that differ in one site and are blind to the weights of
modes that lie several improbable changes apart: for two patterns 8 changes apart, the gradient of
their weight from one datum has a signal-to-noise ratio below .01. `x` is binary, `(batch, *sites)`,
or one-hot, `(batch, *sites, categories)`; other x are a `ValueError`.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ebrl.energies import Energy
from ebrl.kernels.draws import uniform_like
from ebrl.objectives.protocol import Loss, Objective, conditioned
from ebrl.ranges import check_at_least


class _SiteObjective(nn.Module, Objective):
    """The sum over the sites i of a loss of `p(x_i | all others)`, which a subclass defines."""

    def __init__(self, *, categorical: bool = False, sites: int | None = None):
        super().__init__()
        if sites is not None:
            check_at_least(1, sites=sites)
        self.categorical, self.sites = categorical, sites

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        check_discrete(x, self.categorical)
        energy = conditioned(energy, condition)
        log_p = site_log_probabilities(energy, x, self.categorical, self.sites, generator)
        sites = x[0].numel() // (x.shape[-1] if self.categorical else 1)
        observed = log_p.detach()[..., 0]
        metrics = {
            "site_log_probability": observed.mean(),
            "site_probability": observed.exp().mean(),
        }
        return Loss(sites * self.site_loss(log_p).mean(), metrics)

    def site_loss(self, log_p: Tensor) -> Tensor:
        """Return the loss of each site, `(batch, sites)`, from `site_log_probabilities`."""
        raise NotImplementedError


class PseudoLikelihood(_SiteObjective):
    """`-Σ_i log p(x_i | all others)` (Besag 1975), in nats.

    A call evaluates the energy `1 + sites · (categories - 1)` times for each x.

    Args:
        categorical: True for one-hot x.
        sites: Number of sites drawn for each x, with the sum scaled to be unbiased; None for all.
    """

    def site_loss(self, log_p: Tensor) -> Tensor:
        return -log_p[..., 0]


class RatioMatching(_SiteObjective):
    """`½ Σ_i Σ_k (p(k | all others) - [x_i = k])²` (Hyvärinen 2007, there for two categories).

    Bounded where a site is badly predicted: steadier than pseudo-likelihood, and slower there.
    Arguments and cost are those of `PseudoLikelihood`.
    """

    def site_loss(self, log_p: Tensor) -> Tensor:
        p = log_p.exp()
        return 0.5 * ((1 - p[..., 0]).square() + p[..., 1:].square().sum(-1))


def site_log_probabilities(
    energy: Energy, x: Tensor, categorical: bool, sites: int | None, generator: Generator
) -> Tensor:
    """Return `log p(x_i = k | all others)`, `(batch, sites, categories)`, the observed k first."""
    x = x.detach()
    flat = x.flatten(1, -2) if categorical else x.flatten(1).unsqueeze(-1)  # (batch, sites, K or 1)
    count = flat.shape[1]
    chosen = torch.arange(count, device=x.device).expand(len(x), -1)
    if sites is not None and sites < count:
        chosen = uniform_like(flat[..., 0], generator).argsort(1)[:, :sites]
    here = nn.functional.one_hot(chosen, count).bool().unsqueeze(-1)  # (batch, n, sites, 1)
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


def check_discrete(x: Tensor, categorical: bool) -> None:
    """Raise `ValueError` unless x are 0 and 1, and one-hot where categorical. NaN passes.

    On other devices than the CPU values are not read, which would wait for the device.
    """
    if not x.is_floating_point():
        raise ValueError(f"expected x of floating point numbers, got {x.dtype}: x.float()")
    valid = (x == 0) | (x == 1) | x.isnan()
    if categorical:
        total = x.sum(-1, keepdim=True)
        valid &= (total == 1) | total.isnan()
    wrong = x.device.type == "cpu" and not valid.all()
    if wrong or (categorical and x.ndim < 3):
        expected = "one-hot x, (batch, *sites, categories)" if categorical else "x of 0 and 1"
        raise ValueError(
            f"expected {expected}, got {tuple(x.shape)} with values from {x.min()} to {x.max()}"
        )
