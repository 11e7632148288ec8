"""Starting points by sampling importance resampling."""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, in_dtype_of
from ebrl.energies.evaluating import evaluating
from ebrl.kernels.checks import check_not_broadcast
from ebrl.kernels.importance import IteratedSIR, Proposal
from ebrl.ranges import check_at_least
from ebrl.sampling.paths import Stage
from ebrl.sampling.run import Run
from ebrl.sampling.sampler import Sampler
from ebrl.sampling.samples import Samples
from ebrl.sampling.starts import check_takes, check_types
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
    it is at most the relative variance of the weights divided by `candidates`.

    Args:
        proposal: The density q, of the space's free coordinates. Draws outside of the space have
            weight 0.
        batch: Shape of the batch to draw.
        candidates: Draws of the proposal for each point; at least 2.
        temperature: T, a number or `(*batch,)`.
        space: All of R^d by default.

    Raises:
        ValueError: For numbers out of range, a proposal that does not fit the energy or the space,
            and if all candidates of a point lie outside of the space.
    """
    check_at_least(2, candidates=candidates)
    # Iterated resampling from a draw of the proposal treats that draw as one more candidate.
    sampler = Sampler(
        IteratedSIR(proposal, candidates - 1), space, steps=1, temperature=temperature
    )
    check_types(energy, None, generator)
    stage = Stage(energy, 1, sampler.step_size, temperature)
    with torch.inference_mode(False), evaluating(energy), torch.no_grad():
        x = in_dtype_of(energy, sampler.space.from_free(proposal.sample(batch, generator)))
        check_takes(sampler.space, energy, x, generator)
        check_not_broadcast(energy, x)
        run = Run(sampler.kernel, sampler.space, stage, x)
        run.to_end(generator)
        x, value = run.position()
    _check_inside(sampler.space, x)
    return Samples(x, value, run.report())


def _check_inside(space: Space, x: Tensor) -> None:
    """Raise `ValueError` for points outside; on other devices than the CPU nothing is read."""
    if x.device.type == "cpu" and not space.contains(x).all():
        raise ValueError(
            f"expected a proposal with draws in the {type(space).__name__} among the candidates of "
            "every point, got some with none: more candidates, or ReferenceProposal(space)"
        )
