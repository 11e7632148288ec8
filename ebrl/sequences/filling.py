"""What a model would write where a token is missing: the proposals of edits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebrl.energies.evaluating import evaluating
from ebrl.sequences.energies import read_both_ways
from ebrl.sequences.tokens import MASK, SPECIAL
from ebrl.sequences.transformer import PREDICTED, Transformer
from ebrl.spaces import string_lengths


class MaskedFilling:
    """The distribution of a masked token, mixed with a uniform one, so that no token is excluded.

    Args:
        transformer: Reads the sentence both ways.
        uniform: The share of the uniform distribution.

    Raises:
        ValueError: If `uniform` lies outside [0, 1].
    """

    def __init__(self, transformer: Transformer, uniform: float = 0.01):
        if not 0 <= uniform <= 1:
            raise ValueError(f"expected a share from 0 to 1, got {uniform=}")
        self.transformer, self.uniform = transformer, uniform

    @torch.no_grad()
    def log_probabilities(self, x: Tensor, place: Tensor) -> Tensor:
        """Return `log p` of every token at `place: (*batch,)` of x, `(*batch, vocabulary)`."""
        rows = x.reshape(-1, x.shape[-1])
        rows = rows.scatter(1, place.reshape(-1, 1), MASK)
        rows = rows[:, : int(string_lengths(rows).max())]
        with evaluating(self.transformer):
            features = read_both_ways(self.transformer, self.transformer.embed(rows), rows)
            at = features[torch.arange(len(rows)), place.flatten()]
            logits = self.transformer.logits(at).float()[:, len(SPECIAL) - PREDICTED :]
        words = logits.shape[1]
        log_law = torch.log_softmax(logits, 1)
        if self.uniform:
            even = torch.full_like(log_law, math.log(self.uniform / words))
            log_law = torch.logaddexp(log_law + math.log1p(-self.uniform), even)
        never = log_law.new_full((len(rows), len(SPECIAL)), -torch.inf)
        return torch.cat([never, log_law], 1).view(*place.shape, -1)
