"""Noise contrast: tell the data from draws of a known proposal, by the energy.

The proposal's log density enters the loss, so that the optimum is the data's own energy, mode
weights included, wherever the proposal goes. Both are blind where it does not go, and learn slowly
where it hardly goes. Of the weights of two modes 4 apart with deviation .4 a datum tells .5 (NCE)
and .7 (InfoNCE) standard deviations of its own noise. A conditional proposal is given the
condition.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ebrl.energies import Energy
from ebrl.kernels.importance import Proposal
from ebrl.objectives.protocol import Loss, Objective, bound


class ConditionalProposal(Protocol):
    """A proposal for each condition."""

    def given(self, condition: Tensor) -> Proposal:
        """Return the proposal whose draws are `(batch, candidates, *event)`, a row a condition."""
        ...


class NormalNoise(NamedTuple):
    """A normal proposal with independent coordinates; `NormalNoise.around(data)` covers data."""

    mean: Tensor  # (*event)
    deviation: Tensor  # (*event)

    @classmethod
    def around(cls, data: Tensor, spread: float = 1.5) -> NormalNoise:
        """Return the one with the mean and `spread` times the deviation of `data: (n, *event)`.

        Wider than the data, so that it goes everywhere they do. Raises `ValueError` where a
        coordinate is constant or not finite.
        """
        mean, deviation = data.mean(0), spread * data.std(0)
        if not (deviation > 0).all():
            raise ValueError("expected data that vary in every coordinate, and are finite")
        return cls(mean, deviation)

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        mean, deviation = self.mean.to(generator.device), self.deviation.to(generator.device)
        noise = torch.empty(*batch, *mean.shape, dtype=mean.dtype, device=generator.device)
        return mean + deviation * noise.normal_(generator=generator)

    def log_density(self, x: Tensor) -> Tensor:
        deviation = self.deviation.to(x)
        squares = ((x - self.mean.to(x)) / deviation).square() / 2
        event = tuple(range(-self.mean.ndim, 0))
        return -(squares + deviation.log() + 0.5 * math.log(2 * math.pi)).sum(event)


class NCE(nn.Module, Objective):
    """Noise-contrastive estimation, `ratio` draws of noise for each x (Gutmann, Hyvärinen 2012).

    Binary classification with the log odds `-E(x) - log Z - log(ratio q(x))`. The energy must learn
    its own log normalizer: `log_normalizer` is a parameter of this objective, to be optimised with
    the energy's. It is one number, so with a condition, whose normalizers differ, the energy must
    be able to add a function of the condition (networks are). Raises `ValueError` for a ratio < 1.
    """

    def __init__(self, noise: Proposal | ConditionalProposal, ratio: int = 4):
        super().__init__()
        self.noise, self.ratio = noise, expect_candidates(ratio)
        self.log_normalizer = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        draws, log_density = with_candidates(self.noise, x, condition, self.ratio, generator)
        value = bound(energy, condition)(draws)  # (batch, 1 + ratio)
        odds = -value - self.log_normalizer - log_density - math.log(self.ratio)
        data, noise = odds[:, 0], odds[:, 1:]
        loss = softplus(-data).mean() + softplus(noise).sum(1).mean()
        metrics = contrast_metrics(value, odds)
        metrics["log_normalizer"] = self.log_normalizer.detach().clone()
        return Loss(loss, metrics)


class InfoNCE(Objective):
    """Which of `1 + candidates` is the datum: InfoNCE, or ranking NCE (Ma and Collins 2018).

    Cross-entropy of the softmax of `-E(x) - log q(x)`. Normalizers cancel, one for each condition,
    so that none is learnt, and the optimum is exact for any number of candidates. Raises
    `ValueError` for fewer than one.
    """

    def __init__(self, proposal: Proposal | ConditionalProposal, candidates: int = 16):
        self.proposal, self.candidates = proposal, expect_candidates(candidates)

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        pool, log_density = with_candidates(self.proposal, x, condition, self.candidates, generator)
        value = bound(energy, condition)(pool)  # (batch, 1 + candidates)
        log_odds = -value - log_density
        return Loss(-torch.log_softmax(log_odds, 1)[:, 0].mean(), contrast_metrics(value, log_odds))


def with_candidates(
    proposal: Proposal | ConditionalProposal,
    x: Tensor,
    condition: Tensor | None,
    candidates: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return each datum before its candidates, and the proposal's log density of all of them.

    `(batch, 1 + candidates, *event)` and `(batch, 1 + candidates)`, without a graph.
    """
    known = cast(Proposal, proposal)
    if not hasattr(proposal, "sample"):  # an energy that is a proposal has a `given` as well
        if condition is None:
            raise TypeError("this proposal is conditional: pass the objective a condition too")
        known = proposal.given(condition)
    with torch.no_grad():
        drawn = known.sample((len(x), candidates), generator).to(x)
        pool = torch.cat([x.unsqueeze(1), drawn], 1)
        return pool, known.log_density(pool)


def contrast_metrics(value: Tensor, log_odds: Tensor) -> dict[str, Tensor]:
    """Return what tells whether candidates are hard, of `(batch, 1 + candidates)`, datum first."""
    value, log_odds = value.detach(), log_odds.detach()
    rank = (log_odds[:, 1:] < log_odds[:, :1]).to(value).mean()
    return {"energy_gap": value[:, 1:].mean() - value[:, 0].mean(), "ranked_below": rank}


def expect_candidates(candidates: int) -> int:
    if candidates < 1:
        raise ValueError(f"expected at least one candidate for each x, got {candidates}")
    return candidates
