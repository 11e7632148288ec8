"""What a sampler returns: the ends of its chains, or a trace of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ebrl.kernels.protocol import Info
from ebrl.sampling.inference_data import inference_data
from ebrl.sampling.run import ChainInfo


class Samples(NamedTuple):
    """The ends of the chains, their energies, and the report of the run."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    info: ChainInfo


class Trace(NamedTuple):
    """Draws along the chains, their energies, and the reports of the run and of each draw."""

    x: Tensor  # (draws, *batch, *event)
    energy: Tensor  # (draws, *batch)
    info: ChainInfo  # (*batch,)
    each: Info  # (draws, *batch), means over the moves of a draw, and whether any diverged

    def to_arviz(self, name: str = "x") -> Any:
        """Return the draws as an `arviz.InferenceData`, with a chain for each of the batch.

        `posterior` holds the draws under `name`; `sample_stats` the log density that was sampled
        as `lp`, `-E/T` up to a constant (a chain at temperature 0 has none), acceptances,
        divergences and the kernel's reports, by the names of ArviZ's schema.

        Raises:
            ImportError: Without ArviZ.
        """
        return inference_data(self.x, self.energy, self.each, self.info.temperature, name)
