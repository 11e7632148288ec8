"""Energies of sentences, side by side: what a transformer can say of how unlikely one is.

A sentence is `x: (*batch, length)` int64, tokens with `PAD` after the last, or `(*batch, length,
vocabulary)`, one-hot, which kernels with gradients read through `OneHot`. Padding never changes an
energy. Rows that are no sentence (a special token inside, a token after padding) have energy
infinity.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ebrl.energies import Energy
from ebrl.sequences.tokens import BOUNDARY, MASK, PAD, SPECIAL, lengths
from ebrl.sequences.transformer import PREDICTED, Transformer

ROWS_AT_ONCE = 256  # of a transformer's pass without a graph


class SentenceEnergy(Energy):
    """An energy that is a sum over the tokens of a sentence, and its end."""

    event_ndim = 1

    def __init__(self, transformer: Transformer):
        super().__init__()
        self.transformer = transformer

    @property
    def longest(self) -> int:
        """The most tokens that a sentence may have."""
        return self.transformer.context - 2

    def per_token(self, x: Tensor) -> Tensor:
        """Return the part of each token, `(n, length + 1)`, of sentences `(n, length)`.

        The last part of a sentence is its end's; what follows is 0.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no parts")

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        sound = well_formed(rows)
        rows = torch.where(sound.unsqueeze(1), rows, PAD)
        rows = rows[:, : int(lengths(rows).max()) if len(rows) else 0]
        value = self.per_token(rows).sum(1).masked_fill(~sound, torch.inf)
        return value.view(x.shape[:-1])


class CausalEnergy(SentenceEnergy):
    """`-log p(x)`, a language model's: each token given those before it, then the end.

    A sentence of `longest` tokens ends for certain, so that the probabilities of all sentences sum
    to 1.
    """

    def per_token(self, x: Tensor) -> Tensor:
        return self.from_features(self.transformer.embed(x), x)

    def from_features(self, embedded: Tensor, x: Tensor) -> Tensor:
        """Return the parts of `x` that the transformer is given as `embedded: (n, length, …)`."""
        start = self.transformer.embed(x.new_full((len(x), 1), BOUNDARY))
        features = self.transformer(torch.cat([start, embedded], 1))  # (n, length + 1, width)
        parts = token_losses(self.transformer.logits(features), with_end(x))
        return parts.masked_fill(self._certain_end(x), 0.0)

    def _certain_end(self, x: Tensor) -> Tensor:
        """Return which parts are the end of a sentence that can grow no more."""
        place = torch.arange(x.shape[1] + 1, device=x.device)
        return (place == self.longest).expand(len(x), -1)


class MaskedEnergy(SentenceEnergy):
    """`-Σ_i log p(x_i | all other tokens)`, the pseudo-likelihood (Besag 1975; Salazar et al. 2020).

    A model's pass for each token, in which that one is masked.
    """

    def per_token(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        each = torch.eye(length, dtype=torch.bool, device=x.device)  # the token that is masked
        inside = x != PAD
        row, place = inside.nonzero(as_tuple=True)
        masked = torch.where(each[place], MASK, x[row])  # (tokens, length)
        chunks = range(0, len(row), ROWS_AT_ONCE)
        losses = [
            self.hidden_token_loss(
                masked[i : i + ROWS_AT_ONCE],
                x[row, place][i : i + ROWS_AT_ONCE],
                place[i : i + ROWS_AT_ONCE],
            )
            for i in chunks
        ]
        parts = torch.zeros(len(x), length + 1, device=x.device)
        if losses:
            parts = parts.masked_scatter(F.pad(inside, (0, 1)), torch.cat(losses).to(parts.dtype))
        return parts

    def hidden_token_loss(self, masked: Tensor, token: Tensor, place: Tensor) -> Tensor:
        """Return `-log p(token | masked)` at one place of each row, `(rows,)`."""
        features = read_both_ways(self.transformer, masked)
        at = features[torch.arange(len(masked)), place]  # before the token: it predicts the next
        return F.cross_entropy(
            self.transformer.logits(at).float(), token - PREDICTED, reduction="none"
        )


def read_both_ways(transformer: Transformer, x: Tensor) -> Tensor:
    """Return the features of `x: (n, length)` between boundaries, `(n, length + 2, width)`."""
    bounded = F.pad(with_end(x), (1, 0), value=BOUNDARY)
    return transformer(transformer.embed(bounded), lengths(bounded))


def with_end(x: Tensor) -> Tensor:
    """Return sentences `(n, length)` with a boundary after the last token, `(n, length + 1)`."""
    end = lengths(x).unsqueeze(1)
    return F.pad(x, (0, 1), value=PAD).scatter(1, end, BOUNDARY)


def well_formed(x: Tensor) -> Tensor:
    """Return which rows of `x: (n, length)` are tokens of a text and then padding, `(n,)` bool."""
    inside = torch.arange(x.shape[1], device=x.device) < lengths(x).unsqueeze(1)
    return (inside == (x >= len(SPECIAL))).all(1)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `-log p` of targets `(n, length)`, 0 at padding, from logits `(n, length, …)`."""
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten() - PREDICTED, ignore_index=PAD - PREDICTED,
        reduction="none",
    )  # fmt: skip
    return losses.view_as(targets)
