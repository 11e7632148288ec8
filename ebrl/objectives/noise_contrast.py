"""Noise contrast: tell the data from draws of a known proposal, by the energy.

The proposal's log density enters the loss, so that the optimum is the data's own energy, mode
weights included, wherever the proposal has mass. Both objectives are blind where it has none, and
learn slowly where it has little. For two modes 4 apart with deviation .4, the gradient of
their weight from one datum has a signal-to-noise ratio of .5 (NCE) and .7 (InfoNCE).
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import softplus

from ebrl.energies import Energy
from ebrl.generators import device_of
from ebrl.kernels.importance import Proposal
from ebrl.objectives.protocol import Loss, Objective, conditioned
from ebrl.ranges import check_at_least
from ebrl.spaces import PADDING


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
        """Return the normal distribution with the mean of the data and a larger deviation.

        Args:
            data: `(n, *event)`, whose coordinates all vary.
            spread: Deviation in units of the data's: above 1, to cover all of them.
        """
        mean, deviation = data.mean(0), spread * data.std(0)
        if not (deviation > 0).all():
            raise ValueError("expected data that vary in every coordinate, and are finite")
        return cls(mean, deviation)

    def sample(self, batch: tuple[int, ...], generator: Generator) -> Tensor:
        device = device_of(generator)
        mean, deviation = self.mean.to(device), self.deviation.to(device)
        noise = torch.empty(*batch, *mean.shape, dtype=mean.dtype, device=device)
        return mean + deviation * noise.normal_(generator=generator)

    def log_density(self, x: Tensor) -> Tensor:
        normal = Normal(self.mean.to(x), self.deviation.to(x), validate_args=False)
        return normal.log_prob(x).sum(tuple(range(-self.mean.ndim, 0)))


class NCE(nn.Module, Objective):
    """Noise-contrastive estimation (Gutmann and Hyvärinen 2012).

    Binary classification of data and noise with the log odds `-E(x) - log Z - log(ratio q(x))`. Its
    parameter `log_normalizer` is log Z, to be optimised with the energy's weights. It is a single
    number: where conditions have different normalizers, the energy must be able to add a function
    of the condition, as networks can.

    Args:
        noise: The proposal q, or one for each condition.
        ratio: Draws of noise for each x.
    """

    def __init__(self, noise: Proposal | ConditionalProposal, ratio: int = 4):
        super().__init__()
        check_at_least(1, ratio=ratio)
        self.noise, self.ratio = noise, ratio
        self.log_normalizer = nn.Parameter(torch.zeros(()))

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        pool, log_density = with_candidates(self.noise, x, condition, self.ratio, generator)
        value = conditioned(energy, condition)(pool)  # (batch, 1 + ratio)
        log_odds = -value - self.log_normalizer - log_density - math.log(self.ratio)
        data, noise = log_odds[:, 0], log_odds[:, 1:]
        loss = softplus(-data).mean() + softplus(noise).sum(1).mean()
        metrics = candidate_metrics(value, log_odds)
        metrics["log_normalizer"] = self.log_normalizer.detach().clone()
        return Loss(loss, metrics)


class InfoNCE(nn.Module, Objective):
    """Which of `1 + candidates` is the datum: InfoNCE, or ranking NCE (Ma and Collins 2018).

    Cross-entropy of the softmax of `-E(x) - log q(x)`. The normalizers cancel, one for each
    condition; the optimum is exact for any number of candidates.

    Args:
        proposal: The proposal q, or one for each condition.
        candidates: Draws of the proposal for each x.
    """

    def __init__(self, proposal: Proposal | ConditionalProposal, candidates: int = 16):
        super().__init__()
        check_at_least(1, candidates=candidates)
        self.proposal, self.candidates = proposal, candidates

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        pool, log_density = with_candidates(self.proposal, x, condition, self.candidates, generator)
        value = conditioned(energy, condition)(pool)  # (batch, 1 + candidates)
        log_odds = -value - log_density
        loss = -torch.log_softmax(log_odds, 1)[:, 0].mean()
        return Loss(loss, candidate_metrics(value, log_odds))


def with_candidates(
    proposal: Proposal | ConditionalProposal,
    x: Tensor,
    condition: Tensor | None,
    candidates: int,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Return each datum followed by its candidates, and the proposal's log density of all.

    They are `(batch, 1 + candidates, *event)` and `(batch, 1 + candidates)`, without a graph. Rows
    of integers are padded to the longer of both.

    Raises:
        TypeError: For a conditional proposal without a condition.
        ValueError: For candidates of another shape than the data.
    """
    if not isinstance(proposal, Proposal):
        if condition is None:
            raise TypeError("this proposal is conditional: pass the objective a condition too")
        proposal = proposal.given(condition)
    with torch.no_grad():
        drawn = proposal.sample((len(x), candidates), generator)
        if not x.is_floating_point() and not drawn.is_floating_point() and x.ndim == 2:
            longest = max(x.shape[1], drawn.shape[-1])
            x, drawn = (_padded(rows, longest) for rows in (x, drawn))
        if drawn.shape[2:] != x.shape[1:]:
            raise ValueError(
                f"expected a proposal of the data's shape {tuple(x.shape[1:])}, got draws of shape "
                f"{tuple(drawn.shape[2:])}: NormalNoise.around(data) has it"
            )
        drawn = drawn.to(x)
        pool = torch.cat([x.unsqueeze(1), drawn], 1)
        return pool, proposal.log_density(pool)


def _padded(rows: Tensor, longest: int) -> Tensor:
    return nn.functional.pad(rows, (0, longest - rows.shape[-1]), value=PADDING)


def candidate_metrics(value: Tensor, log_odds: Tensor) -> dict[str, Tensor]:
    """Return the energy gap, and the share of the candidates that rank below their datum.

    Energies and log odds of being the datum are `(batch, 1 + candidates)`, the datum first.
    """
    value, log_odds = value.detach(), log_odds.detach()
    rank = (log_odds[:, 1:] < log_odds[:, :1]).to(value).mean()
    return {"energy_gap": value[:, 1:].mean() - value[:, 0].mean(), "ranked_below": rank}
