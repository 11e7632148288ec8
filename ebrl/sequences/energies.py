"""Energies of sentences, side by side: what a transformer can say of how unlikely one is.

A sentence is `x: (*batch, length)` int64, tokens and then padding, as `ebrl.spaces.Strings` has it.
Padding never changes an energy. A row that is no sentence, with a special token or a gap inside,
has energy infinity, but for `FrequencyEnergy`. Kernels with gradients move one-hot tokens and read
an energy through `OneHot`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebrl.energies import Energy, Sum, Weighted, align_left
from ebrl.sequences.tokens import BOUNDARY, MASK, PAD, SPECIAL
from ebrl.sequences.transformer import PREDICTED, Transformer
from ebrl.spaces import string_lengths

ROWS_AT_ONCE = 512  # of a pass that masks each token in turn
TOKENS_AT_ONCE = 512  # whose logits are there together


class SentenceEnergy(Energy):
    """An energy that is a sum over the tokens of a sentence and its end."""

    event_ndim = 1
    elsewhere = torch.inf  # the energy of a row that is no sentence

    def per_token(self, x: Tensor) -> Tensor:
        """Return the part of each token, `(n, length + 1)`, of sentences `x: (n, length)`.

        The part after the last token is that of the end; what follows is 0.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no per_token(x)")

    def forward(self, x: Tensor) -> Tensor:
        rows, sound = sentences_only(x.reshape(x.shape[:-1].numel(), x.shape[-1]))
        value = self.per_token(rows).sum(1).masked_fill(~sound, self.elsewhere)
        return value.view(x.shape[:-1])


class FrequencyEnergy(SentenceEnergy):
    """`-Σ_i log p(x_i)`, each token alone: what a sentence costs for its length and rare words.

    Subtracting it from a language model's energy leaves how well the tokens fit together. It weighs
    sentences and refuses none: a row that is no sentence has energy 0.

    Args:
        log_frequencies: `log p` of each token, `(vocabulary,)`.
    """

    elsewhere = 0.0
    log_frequencies: Tensor

    def __init__(self, log_frequencies: Tensor):
        super().__init__()
        self.register_buffer("log_frequencies", log_frequencies)

    def per_token(self, x: Tensor) -> Tensor:
        parts = -self.log_frequencies[x].masked_fill(x == PAD, 0.0)
        return F.pad(parts, (0, 1))


class TransformerEnergy(SentenceEnergy):
    """An energy of what a transformer reads."""

    def __init__(self, transformer: Transformer):
        super().__init__()
        self.transformer = transformer

    @property
    def longest(self) -> int:
        """The most tokens that a sentence may have."""
        return self.transformer.context - 2

    def per_token(self, x: Tensor) -> Tensor:
        return self.relaxed(self.transformer.embed(x), x)

    def relaxed(self, embedded: Tensor, x: Tensor, one_hot: Tensor | None = None) -> Tensor:
        """Return the parts where the transformer reads `embedded: (n, length, width)` for x.

        Where there is a `one_hot` x, `(n, length, vocabulary)`, tokens are predicted in its shares.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no relaxed(embedded, x)")


class CausalEnergy(TransformerEnergy):
    """`-log p(x)`, a language model's: each token given those before it, then the end.

    A sentence of `longest` tokens ends for certain, so that the probabilities of all sentences sum
    to 1. It is a proposal, too: `sample` and `log_density`.
    """

    def relaxed(self, embedded: Tensor, x: Tensor, one_hot: Tensor | None = None) -> Tensor:
        if x.shape[1] > self.longest:
            raise ValueError(
                f"expected sentences of at most {self.longest} tokens, got rows of {x.shape[1]}: "
                "split the text into sentences"
            )
        features = read_from_the_left(self.transformer, embedded, x)
        parts = token_losses(self.transformer, features, targets_of(x, one_hot))
        place = torch.arange(x.shape[1] + 1, device=x.device)
        return parts.masked_fill(place == self.longest, 0.0)

    def log_density(self, x: Tensor) -> Tensor:
        """Return `log p(x)`, `(*batch,)`."""
        return -self(x)

    @torch.no_grad()
    def sample(
        self,
        batch: tuple[int, ...],
        generator: torch.Generator,
        *,
        prefix: Tensor | None = None,
        after_prefix: Tensor | None = None,
        temperature: float = 1.0,
        longest: int | None = None,
    ) -> Tensor:
        """Draw sentences, `(*batch, longest)`, one token after another.

        Args:
            batch: Shape of the batch of sentences.
            generator: The source of randomness.
            prefix: The first tokens of all of them, `(length,)`.
            after_prefix: Which tokens may come next, `(vocabulary,)` bool; any by default.
            temperature: Divides the energy of each token given those before it; other than 1, the
                draws are not those of a tempered energy of sentences.
            longest: Stop after so many tokens; sentences of that length may be unfinished.

        Raises:
            ValueError: If the temperature is not positive, or the prefix too long.
        """
        first = 0 if prefix is None else len(prefix)
        if not (temperature > 0 and first <= self.longest):
            raise ValueError(
                f"expected temperature > 0 and a prefix of at most {self.longest} tokens, got "
                f"{temperature=} and a prefix of {first}"
            )
        end = self.longest if longest is None else min(longest, self.longest)
        count = torch.Size(batch).numel()
        x = torch.full((count, self.longest), PAD, device=generator.device)
        start = torch.tensor([BOUNDARY], device=x.device)
        read = start if prefix is None else torch.cat([start, prefix.to(start)])
        x[:, :first] = read[1:]
        read, memory = read.expand(count, -1), self.transformer.memory()
        ended = torch.zeros(count, dtype=torch.bool, device=x.device)
        for place in range(first, end):
            features = self.transformer(self.transformer.embed(read), memory=memory)[:, -1]
            logits = self.transformer.logits(features).float() / temperature
            if after_prefix is not None and place == first:
                logits = logits.masked_fill(~after_prefix[PREDICTED:].to(x.device), -torch.inf)
            probabilities = logits.softmax(-1)
            token = torch.multinomial(probabilities, 1, generator=generator)[:, 0] + PREDICTED
            ended |= token == BOUNDARY
            if ended.all():
                break
            x[:, place] = token.masked_fill(ended, PAD)
            read = token.unsqueeze(1)
        return x.view(*batch, self.longest)


class MaskedEnergy(TransformerEnergy):
    """`-Σ_i log p(x_i | all other tokens)`, the pseudo-likelihood.

    One pass of the transformer for each token, in which that one is masked (Besag 1975; Salazar et
    al. 2020). The end has no part.
    """

    def relaxed(self, embedded: Tensor, x: Tensor, one_hot: Tensor | None = None) -> Tensor:
        inside = x != PAD
        parts = widened(embedded.new_zeros(len(x), x.shape[1] + 1))
        if not inside.any():
            return parts
        row, place = inside.nonzero(as_tuple=True)
        hole = self.transformer.embed(torch.tensor(MASK, device=x.device))
        losses = []
        for r, p in zip(row.split(ROWS_AT_ONCE), place.split(ROWS_AT_ONCE), strict=True):
            here = F.one_hot(p, x.shape[1]).bool().unsqueeze(-1)  # (rows, length, 1)
            masked = torch.where(here, hole, embedded[r])
            features = read_both_ways(self.transformer, masked, x[r])
            # The features before a token predict it.
            logits = widened(self.transformer.logits(features[torch.arange(len(r)), p]))
            target = x[r, p] - PREDICTED if one_hot is None else one_hot[r, p, PREDICTED:]
            losses.append(F.cross_entropy(logits, target, reduction="none"))
        return parts.index_put((row, place), torch.cat(losses))


class ScorerEnergy(TransformerEnergy):
    """The sum over tokens of a small network's output on causal and bidirectional features.

    Both kinds are features of a language model. The energy is unnormalised: it is trained by noise
    contrast or on real against corrupted sentences.

    Args:
        transformer: The language model. Pass a frozen one (`requires_grad_(False)`): otherwise it
            is trained too.
        hidden: Units of the network.
    """

    def __init__(self, transformer: Transformer, hidden: int = 128):
        super().__init__(transformer)
        last = nn.Linear(hidden, 1)
        for parameter in last.parameters():  # it begins at energy 0
            nn.init.zeros_(parameter)
        self.head = nn.Sequential(nn.Linear(2 * transformer.width + 1, hidden), nn.SiLU(), last)

    def relaxed(self, embedded: Tensor, x: Tensor, one_hot: Tensor | None = None) -> Tensor:
        left = read_from_the_left(self.transformer, embedded, x)
        around = read_both_ways(self.transformer, embedded, x)[:, 1:]  # at the token, not before
        loss = token_losses(self.transformer, left, targets_of(x, one_hot))
        features = torch.cat([left, around, loss.unsqueeze(-1).to(left)], -1)
        return widened(self.head(features).squeeze(-1)).masked_fill(with_end(x) == PAD, 0.0)


class OneHot(Energy):
    """An energy of sentences on one-hot tokens `(*batch, length, vocabulary - len(SPECIAL))`.

    These are tokens without the special ones, so that every x is a sentence of `length` tokens.
    The transformer reads means of embeddings, weighted by x, and the losses of predicted tokens are
    weighted likewise. The gradient thus holds a token's own cost and its effect on the others.
    """

    event_ndim = 2

    def __init__(self, energy: TransformerEnergy):
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        rows = F.pad(x.reshape(-1, *x.shape[-2:]), (len(SPECIAL), 0))
        tokens = x.argmax(-1).view(rows.shape[:2]) + len(SPECIAL)
        parts = self.energy.relaxed(self.energy.transformer.embed(rows), tokens, widened(rows))
        return parts.sum(1).view(x.shape[:-2])


def token_parts(energy: Energy, x: Tensor) -> Tensor:
    """Return the part of each token of `x: (n, length)` in a sum of energies, `(n, length + 1)`.

    Raises `TypeError` for an energy that is no weighted sum of energies of sentences.
    """
    if isinstance(energy, Sum):
        return torch.stack([token_parts(term, x) for term in energy.terms]).sum(0)
    if isinstance(energy, Weighted):
        return align_left(energy.weight, 2) * token_parts(energy.energy, x)
    if isinstance(energy, SentenceEnergy):
        return energy.per_token(x)
    raise TypeError(
        f"expected a weighted sum of energies of sentences, got {type(energy).__name__}"
    )


def read_from_the_left(transformer: Transformer, embedded: Tensor, x: Tensor) -> Tensor:
    """Return the features of a boundary and then each token, `(n, length + 1, width)`."""
    start = transformer.embed(x.new_full((len(x), 1), BOUNDARY))
    return transformer(torch.cat([start, embedded], 1))


def read_both_ways(transformer: Transformer, embedded: Tensor, x: Tensor) -> Tensor:
    """Return the features of sentences between two boundaries, `(n, length + 2, width)`."""
    length, edge = string_lengths(x), transformer.embed(torch.tensor(BOUNDARY, device=x.device))
    rows = F.pad(embedded, (0, 0, 1, 1))
    place = torch.arange(rows.shape[1], device=x.device)
    boundary = (place == 0) | (place == length.unsqueeze(1) + 1)
    return transformer(torch.where(boundary.unsqueeze(-1), edge, rows), length + 2)


def with_end(x: Tensor) -> Tensor:
    """Return sentences `(n, length)` with a boundary after the last token, `(n, length + 1)`."""
    return F.pad(x, (0, 1), value=PAD).scatter(1, string_lengths(x).unsqueeze(1), BOUNDARY)


def targets_of(x: Tensor, one_hot: Tensor | None) -> Tensor:
    """Return what is predicted: the tokens `(n, length + 1)`, or one-hot as `one_hot` is."""
    if one_hot is None:
        return with_end(x)
    end = F.one_hot(x.new_full((len(x), 1), BOUNDARY), one_hot.shape[-1]).to(one_hot)
    return torch.cat([one_hot, end], 1)


def sentences_only(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows `(n, length)`, non-sentences emptied, and which are sentences, `(n,)` bool.

    The rows are int64, cut to the length of the longest sentence.
    """
    inside = torch.arange(x.shape[1], device=x.device) < string_lengths(x).unsqueeze(1)
    sound = (inside == (x >= len(SPECIAL))).all(1)
    x = torch.where(sound.unsqueeze(1), x, PAD).long()
    longest = int(string_lengths(x).max()) if x.numel() else x.shape[1]
    return x[:, :longest], sound


def token_losses(transformer: Transformer, features: Tensor, targets: Tensor) -> Tensor:
    """Return `-log p` of targets from features `(n, length, width)`, `(n, length)`, 0 at padding.

    Targets are tokens `(n, length)`, or one-hot without padding. The logits of all tokens at once
    would leave the processor's cache.
    """
    one_hot = targets.is_floating_point()
    targets = targets[..., PREDICTED:] if one_hot else targets - PREDICTED
    blocks = zip(
        features.flatten(0, 1).split(TOKENS_AT_ONCE),
        targets.flatten(0, 1).split(TOKENS_AT_ONCE),
        strict=True,
    )
    losses = [
        F.cross_entropy(
            widened(transformer.logits(block)),  # (tokens, vocabulary - PREDICTED)
            target,
            ignore_index=PAD - PREDICTED,
            reduction="none",
        )
        for block, target in blocks
    ]
    return torch.cat(losses).view(features.shape[:2])


def widened(x: Tensor) -> Tensor:
    """Return x in float32 at least: a sum over tokens in bfloat16 would round the last away."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
