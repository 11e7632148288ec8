"""Starting points by sampling importance resampling."""

from __future__ import annotations

import torch

from ebrl.energies import Energy, Number
from ebrl.kernels.importance import IteratedSIR, Proposal
from ebrl.ranges import check_at_least
from ebrl.sampling.sampler import Sampler, Samples
from ebrl.spaces import Space


def importance_resampling(
    energy: Energy,
    proposal: Proposal,
    batch: tuple[int, ...],
    *,
    generator: torch.Generator,
    candidates: int = 16,
    temperature: Number = 1.0,
    space: Space | None = None,
) -> Samples:
    """Draw starting points by sampling importance resampling (Rubin 1987).

    Each point is chosen among `candidates` draws of the proposal with probability ∝ `exp(-E/T) /
    q`. Their distribution tends to the target's: the Kullback-Leibler divergence of the target from
    it is at most the relative variance of the weights over `candidates`.

    Args:
        proposal: The density q, of the space's free coordinates.
        batch: Shape of the batch to draw.
        candidates: At least 2.
        temperature: T, a number or `(*batch,)`.
        space: All of R^d by default.
    """
    check_at_least(2, candidates=candidates)
    # Iterated resampling from a draw of the proposal treats that draw as one more candidate.
    kernel = IteratedSIR(proposal, candidates - 1)
    sampler = Sampler(kernel, space, steps=1, temperature=temperature)
    x = sampler.space.from_free(proposal.sample(batch, generator))
    return sampler.sample(energy, x, generator=generator)
