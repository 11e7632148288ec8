"""What an objective is: it says how to change an energy's weights.

    loss, metrics = objective(energy, x, condition, generator=generator)
    loss.backward()

Samplers, chains and settings are arguments of an objective's constructor, which raises `ValueError`
for numbers out of range; the energy is an argument of each call. Each objective here is an
`nn.Module`, so that its chains and learned numbers are in `state_dict` and in checkpoints. An
objective leaves the data unchanged, draws random numbers from `generator` alone, and propagates a
NaN in the data or the energy to the loss, where the training loop raises.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ebrl.energies import Energy, check_energy
from ebrl.schema import optimizer_state


class Loss(NamedTuple):
    """What an objective returns."""

    loss: Tensor  # (), differentiable with respect to the energy's parameters
    metrics: dict[str, Tensor]  # name: (), without a graph, to be logged


class Objective(Protocol):
    """A loss minimised by an energy that fits the data, as far as the objective documents."""

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        """Return the loss on a batch of data.

        Args:
            energy: The energy; the loss is differentiable with respect to its parameters.
            x: Data, `(batch, *event)`.
            condition: What each x is conditioned on, `(batch, *features)`, or None.
            generator: Source of all random numbers, on the device of `x`.

        Raises:
            TypeError: If the condition is missing, or given to an energy that takes none.
        """
        ...

    __call__: Callable[..., Loss]  # a module's: it calls `forward`


def as_module(objective: Objective | None) -> nn.Module:
    """Return the objective if it is a module, with parameters and parts, or an empty one."""
    return objective if isinstance(objective, nn.Module) else nn.Module()


class SelfTrained(nn.Module):
    """A module that owns the optimiser of its parameters and steps it in `forward`.

    The training loop leaves its parameters alone. The optimiser's state is in `state_dict`.
    """

    optimizer: Optimizer

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        optimizer_state(self.optimizer)(state, "optimizer")
        self.optimizer.load_state_dict(copy.deepcopy(state))  # the optimiser keeps what it is given


def conditioned(energy: Energy, condition: Tensor | None) -> Energy:
    """Return the energy of x alone: `energy.given(condition)`, or the energy itself without one.

    Raises:
        TypeError: If the condition is missing, or given to an energy that takes none, or the energy
            is no `Energy`.
    """
    check_energy(energy)
    if condition is not None:
        return energy.given(condition)
    if energy.takes_condition:
        raise TypeError("this energy is conditional: pass the objective a condition for each x")
    return energy
