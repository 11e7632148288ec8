"""Estimates of what an energy integrates to, each with what it is and how far off."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Number


class SoftValue(NamedTuple):
    """The soft value of M candidates and what is known of its quality, each `(*batch,)`."""

    value: Tensor  # T log mean w, a lower bound of T log Z in expectation
    entropy: Tensor  # of exp(-E/T)/Z, self-normalised: consistent, no bound
    effective_sample_size: Tensor  # 1 / Σ w̄², between 1 and M
    standard_error: Tensor  # of the value, by the delta method; infinite for one candidate
    weights: Tensor  # (*batch, M), self-normalised: w̄


def soft_value(energy: Tensor, log_density: Tensor, temperature: Number) -> SoftValue:
    """Estimate `T log ∫ exp(-E(x)/T) dx` from candidates `x_m ~ q`.

    `energy` and `log_density`, the normalised `log q(x_m)`, are `(*batch, M)`. With
    `log w_m = -E(x_m)/T - log q(x_m)` the value is `T log (1/M) Σ w_m`: `exp(value/T)` is
    unbiased, so the value is a lower bound in expectation, tighter with every candidate (Burda,
    Grosse and Salakhutdinov 2016, theorem 1). With one candidate it is `-E - T log q`, the soft
    value of SAC. A high effective sample size does not mean coverage: a proposal that misses a mode
    does not see it missing.
    """
    candidates = energy.shape[-1]
    log_w = -energy / temperature - log_density  # (*batch, M)
    log_mean = torch.logsumexp(log_w, -1) - math.log(candidates)
    weights = torch.softmax(log_w, -1)
    entropy = log_mean + (weights * energy).sum(-1) / temperature
    squares = weights.square().sum(-1)
    # Var(log mean w) ≈ Var(w) / (M mean(w)²), with the unbiased sample variance.
    if candidates > 1:
        spread = (squares - 1 / candidates).clamp_min(0) * candidates / (candidates - 1)
        standard_error = temperature * spread.sqrt()
    else:
        standard_error = torch.full_like(log_mean, math.inf)
    return SoftValue(temperature * log_mean, entropy, 1 / squares, standard_error, weights)
