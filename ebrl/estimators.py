"""Estimates of what an energy integrates to, each with what it is and how far off."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Number, align_left


class SoftValue(NamedTuple):
    """The soft value of M candidates, with what is known of its quality."""

    log_weights: Tensor  # (*batch, M), log w = -E/T - log q
    energy: Tensor  # (*batch, M)
    temperature: Number

    @property
    def value(self) -> Tensor:
        """`T log (1/M) Σ w`, `(*batch,)`: a lower bound of `T log Z` in expectation."""
        candidates = self.log_weights.shape[-1]
        return self.temperature * (torch.logsumexp(self.log_weights, -1) - math.log(candidates))

    @property
    def weights(self) -> Tensor:
        """`w / Σ w`, `(*batch, M)`."""
        return torch.softmax(self.log_weights, -1)

    @property
    def entropy(self) -> Tensor:
        """The entropy of `exp(-E/T)/Z`, `(*batch,)`, self-normalised: consistent, no bound."""
        return (self.value + (self.weights * self.energy).sum(-1)) / self.temperature

    @property
    def effective_sample_size(self) -> Tensor:
        """`1 / Σ (w / Σ w)²`, `(*batch,)`, between 1 and M."""
        return 1 / self.weights.square().sum(-1)

    @property
    def standard_error(self) -> Tensor:
        """The value's, `(*batch,)`, by the delta method; infinite for one candidate."""
        candidates = self.log_weights.shape[-1]
        if candidates == 1:
            return torch.full_like(self.value, math.inf)
        # Var(log mean w) ≈ Var(w) / (M mean(w)²), with the unbiased sample variance.
        excess = (self.weights.square().sum(-1) - 1 / candidates).clamp_min(0)
        return self.temperature * (excess * candidates / (candidates - 1)).sqrt()


def soft_value(energy: Tensor, log_density: Tensor, temperature: Number) -> SoftValue:
    """Estimate `T log ∫ exp(-E(x)/T) dx` from candidates `x_m ~ q`.

    `energy` and `log_density`, the normalised `log q(x_m)`, are `(*batch, M)`; `temperature` is a
    number or `(*batch,)`. `exp(value/T)` is unbiased, so the value is a lower bound in expectation,
    tighter with every candidate (Burda, Grosse and Salakhutdinov 2016, theorem 1). With one
    candidate it is `-E - T log q`, the soft value of SAC. A high effective sample size does not
    mean coverage: a proposal that misses a mode does not see it missing.
    """
    log_weights = -energy / align_left(temperature, energy.ndim) - log_density
    return SoftValue(log_weights, energy, temperature)
