"""Exact answers by enumeration, for discrete spaces of at most 2^22 states."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from ebrl.energies import Energy, check_energy, in_dtype_of
from ebrl.energies.evaluating import evaluating
from ebrl.ranges import check_positive
from ebrl.spaces import Binary, Categorical, Strings


@torch.no_grad()
def exact_log_probabilities(
    energy: Energy, space: Binary | Categorical | Strings, temperature: float = 1.0
) -> Tensor:
    """Return `log p` of each of `space.states()` under `exp(-E/T) / Z`, `(states,)` in float64."""
    return torch.log_softmax(_exponents(energy, space, temperature), 0)


@torch.no_grad()
def exact_log_normalizer(
    energy: Energy, space: Binary | Categorical | Strings, temperature: float = 1.0
) -> Tensor:
    """Return `log Σ exp(-E/T)` over the space, 0-dim in float64."""
    return torch.logsumexp(_exponents(energy, space, temperature), 0)


def _exponents(energy: Energy, space: Binary | Categorical | Strings, temperature: float) -> Tensor:
    check_energy(energy)
    check_positive(temperature=temperature)
    first = next(chain(energy.parameters(), energy.buffers()), None)
    states = space.states() if first is None else space.states().to(first.device)
    chunks = in_dtype_of(energy, states).split(2**16)
    with evaluating(energy):
        return torch.cat([-energy(each).double() / temperature for each in chunks])
