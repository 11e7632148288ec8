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
    """The distribution of a masked token, mixed with a uniform one, so that none is left out.

    Args:
        transformer: Reads the sentence both ways.
        uniform: The share of the uniform distribution.
        allowed: Tokens that may be filled in, `(vocabulary,)` bool; by default all but special
            ones. Tokens that are not allowed stay where they are.

    Raises:
        ValueError: If `uniform` lies outside [0, 1).
    """

    def __init__(
        self, transformer: Transformer, uniform: float = 0.01, allowed: Tensor | None = None
    ):
        if not 0 <= uniform < 1:
            raise ValueError(f"expected a share of at least 0 and below 1, got {uniform=}")
        self.transformer, self.uniform = transformer, uniform
        self.never = None if allowed is None else ~allowed[len(SPECIAL) :]

    @torch.no_grad()
    def log_probabilities(self, x: Tensor, place: Tensor) -> Tensor:
        """Return `log p` of every token at `place: (*batch,)` of x, `(*batch, vocabulary)`."""
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        rows = rows.scatter(1, place.reshape(-1, 1), MASK)
        rows = rows[:, : int(string_lengths(rows).max())]
        with evaluating(self.transformer):
            features = read_both_ways(self.transformer, self.transformer.embed(rows), rows)
            at = features[torch.arange(len(rows)), place.flatten()]
            logits = self.transformer.logits(at).float()[:, len(SPECIAL) - PREDICTED :]
        if self.never is not None:
            logits = logits.masked_fill(self.never.to(logits.device), -torch.inf)
        log_law = torch.log_softmax(logits, 1)
        if self.uniform:
            even = torch.where(logits > -torch.inf, 0.0, -torch.inf).log_softmax(1)
            log_law = torch.logaddexp(
                log_law + math.log1p(-self.uniform), even + math.log(self.uniform)
            )
        special = log_law.new_full((len(rows), len(SPECIAL)), -torch.inf)
        return torch.cat([special, log_law], 1).view(*place.shape, -1)
