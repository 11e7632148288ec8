"""How energies of sentences are trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ebrl.energies import Energy
from ebrl.objectives.protocol import Loss, Objective, conditioned
from ebrl.sequences.corruption import corrupted
from ebrl.sequences.energies import CausalEnergy, read_both_ways
from ebrl.sequences.tokens import MASK, PAD
from ebrl.sequences.transformer import PREDICTED
from ebrl.spaces import string_lengths


class HybridLikelihood(nn.Module, Objective):
    """Likelihood of some sentences, and of masked tokens in others (Charpentier and Samuel 2024).

    The first part of a batch, the share `causal` of its sentences, is read from the left, and every
    token is predicted. In the second part a share of the tokens is masked, and these are predicted
    from the others. Each part gets at least one sentence, even of a small batch. The loss is the
    mean per token of each part, weighted by the part's share of the batch.

    Args:
        causal: The share of the sentences that is read from the left.
        masked: The share of tokens that are masked in the others.

    Raises:
        ValueError: If `causal` lies outside [0, 1] or `masked` outside (0, 1), and for a batch
            without a sentence for each part.
        TypeError: For a condition, and if the energy is no `CausalEnergy`.
    """

    def __init__(self, causal: float = 0.75, masked: float = 0.25):
        if not (0 <= causal <= 1 and 0 < masked < 1):
            raise ValueError(
                f"expected 0 <= causal <= 1 and 0 < masked < 1, got {causal=}, {masked=}"
            )
        super().__init__()
        self.causal, self.masked = causal, masked

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        if condition is not None:
            raise TypeError("a language model is not conditional: expected no condition")
        if not isinstance(energy, CausalEnergy):
            raise TypeError(
                f"expected a CausalEnergy, whose transformer reads both ways, got a "
                f"{type(energy).__name__}"
            )
        count = round(self.causal * len(x))
        if 0 < self.causal < 1:
            if len(x) < 2:
                raise ValueError(
                    f"expected batches of at least 2 sentences for causal={self.causal}, got "
                    f"{len(x)}: raise batch_size"
                )
            count = min(max(count, 1), len(x) - 1)
        left, around = x[:count], x[count:]
        parts, metrics = [], {}
        if len(left):
            losses = energy.per_token(left)
            metrics["causal"] = losses.sum() / (string_lengths(left) + 1).sum()
            parts.append(len(left) / len(x) * metrics["causal"])
        if len(around):
            metrics["masked"] = self._masked_loss(energy, around, generator)
            parts.append(len(around) / len(x) * metrics["masked"])
        return Loss(torch.stack(parts).sum(), {k: v.detach() for k, v in metrics.items()})

    def _masked_loss(self, energy: CausalEnergy, x: Tensor, generator: Generator) -> Tensor:
        uniform = torch.empty(x.shape, device=x.device).uniform_(generator=generator)
        hidden = (uniform < self.masked) & (x != PAD)
        embedded = energy.transformer.embed(torch.where(hidden, MASK, x))
        features = read_both_ways(energy.transformer, embedded, x)
        row, place = hidden.nonzero(as_tuple=True)
        logits = energy.transformer.logits(features[row, place])
        total = F.cross_entropy(logits.float(), x[row, place] - PREDICTED, reduction="sum")
        return total / max(len(row), 1)  # short sentences may have no token masked


class Contrast(nn.Module, Objective):
    """Which of two is real: a sentence, or a corrupted copy of it.

    `log(1 + exp(E(real) - E(corrupted)))`, the log loss of the pair. For data of density p and a
    corruption q, `E(x) - E(y) = log [p(y) q(x|y)] / [p(x) q(y|x)]` at the optimum: where the
    corruption is symmetric, the energy is -log p up to a constant.

    Args:
        corruption: Makes the copies; by default `ebrl.sequences.corruption.corrupted`.
    """

    def __init__(self, corruption: Callable[[Tensor, Generator], Tensor] = corrupted):
        super().__init__()
        self.corruption = corruption

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        copy = self.corruption(x, generator)
        pair = torch.stack([x, copy], 1)  # (batch, 2, length)
        real, false = conditioned(energy, condition)(pair).unbind(1)
        metrics = {
            "energy_gap": (false - real).mean(),
            "ranked_below": (real < false).float().mean(),
        }
        return Loss(F.softplus(real - false).mean(), {k: v.detach() for k, v in metrics.items()})


class Draws:
    """Draws of a language model as the noise of `NCE`, for an energy beside the model's.

    Densities are with respect to the language model, so that its own is 1, and the energy that is
    learnt is the residual: the data's energy less the model's.

    Args:
        rows: Sentences that the model drew, `(n, longest)`.
    """

    def __init__(self, rows: Tensor):
        self.rows = rows

    def sample(self, batch: tuple[int, ...], generator: Generator) -> Tensor:
        """Return rows, `(*batch, longest)`."""
        device = generator.device
        return self.rows[torch.randint(len(self.rows), batch, generator=generator, device=device)]

    def log_density(self, x: Tensor) -> Tensor:
        """Return 0, the log density with respect to the model, `(*batch,)`."""
        return torch.zeros(x.shape[:-1], device=x.device)
