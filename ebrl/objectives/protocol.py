"""What an objective is: it says how to change an energy's weights.

    loss, metrics = objective(energy, x, condition, generator=generator)
    loss.backward()

Parameters, samplers and chains are arguments of its constructor; the energy never is. One that
holds state (chains, a learned log normalizer) is an `nn.Module` and belongs in the checkpoint.
Every objective leaves the data as they are, draws from `generator` alone, and lets a NaN in the
data or the energy through to the loss: the loop raises, the objective hides nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy


class Loss(NamedTuple):
    """What an objective returns."""

    loss: Tensor  # (), differentiable with respect to the energy's parameters
    metrics: dict[str, Tensor]  # name: (), without a graph, to be logged


class Objective:
    """A loss whose optimum is an energy that fits the data, or as much of it as it documents."""

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        """Return the loss on a batch `x: (batch, *event)`, condition `(batch, *features)`."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss")


def bound(energy: Energy, condition: Tensor | None) -> Energy:
    """Return the energy of x alone.

    Raises `TypeError` where a condition is missing, or is passed to an energy that takes none.
    """
    if condition is not None:
        return energy.given(condition)
    if energy.takes_condition:
        raise TypeError("this energy is conditional: pass the objective a condition for each x")
    return energy
