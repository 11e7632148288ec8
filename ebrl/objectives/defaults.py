"""The default objective: persistent contrastive divergence with chains that suit their space.

objective = persistent_around(data)
fit(energy, data, objective, steps=1500, generator=generator)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebrl.kernels import MALA, Cycle, IndependenceMetropolis, ReferenceProposal
from ebrl.objectives.contrastive import ContrastiveDivergence
from ebrl.sampling import Chains, DualAveraging, Sampler
from ebrl.spaces import Box, Space

MARGIN = 0.1  # of a column's range, between the data and each wall
FIRST_STEP = 0.005  # in units of the squared widths of the space
LARGEST_STEP = 0.25  # in the same units: what a flat, untrained energy would let grow


def persistent(
    space: Space, chains: int = 10_000, moves: int = 5, restart: float = 0.0
) -> ContrastiveDivergence:
    """Return the default PCD: each move is a jump of the chain and four steps of MALA.

    The step size follows the acceptance; in a box MALA is preconditioned by the squared
    half-widths, so that columns of any scale move alike. A jump proposes a draw of the space's
    reference, which moves mass between modes that no gradient connects: without it the chains
    cannot answer when one mode's energy drifts from another's, and training diverges. In many
    dimensions no jump is accepted, and the chains are those of MALA alone.

    Args:
        space: Where the chains live, such as a box around the data; see `persistent_around(data)`.
        moves: Moves of a chain each time that it is drawn.
        restart: Probability that a drawn chain restarts untested, which pulls the weights of modes
            towards the reference's. Of use where no jump is accepted and conditions keep changing.
    """
    widths = None
    if isinstance(space, Box) and space.walls != "tanh":
        widths = (torch.atleast_1d(space.high - space.low) / 2).square()
    return _persistent(space, widths, chains, moves, restart)


def persistent_around(data: Tensor, chains: int = 10_000, moves: int = 5) -> ContrastiveDivergence:
    """Return the default PCD in a box around `data: (n, dimension)`.

    The walls are tanh: unlike walls that reject, they refuse no moves in many dimensions. MALA is
    preconditioned by the variances of the data. The other arguments are those of `persistent`.

    Raises:
        ValueError: If data are no vectors, or a column is constant or not finite.
    """
    if not isinstance(data, Tensor) or data.ndim != 2 or len(data) < 2:
        got = tuple(data.shape) if isinstance(data, Tensor) else type(data).__name__
        raise ValueError(f"expected a tensor of data of shape (n, dimension), got {got}")
    low, high = data.amin(0), data.amax(0)
    spread = (high - low).isfinite() & (high > low)
    if not spread.all():
        column = int((~spread).nonzero()[0])
        raise ValueError(
            f"expected finite data that vary in every column, got column {column} from "
            f"{low[column]} to {high[column]}: drop it, or add noise as wide as its rounding"
        )
    margin = MARGIN * (high - low)
    space = Box(low - margin, high + margin, walls="tanh")
    return _persistent(space, space.to_free(data).var(0), chains, moves, restart=0.0)


def _persistent(
    space: Space, preconditioner: Tensor | None, chains: int, moves: int, restart: float
) -> ContrastiveDivergence:
    jump = IndependenceMetropolis(ReferenceProposal(space))
    sampler = Sampler(
        Cycle([jump, *[MALA(preconditioner)] * 4]),
        space,
        steps=moves,
        step_size=0.05 if preconditioner is None else FIRST_STEP,
        adaptation=DualAveraging(largest=LARGEST_STEP),
    )
    return ContrastiveDivergence(sampler, Chains(chains, space, restart))
