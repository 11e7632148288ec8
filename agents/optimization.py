"""Gradient steps on an agent's networks: torch's optimisers, and Adam as a formula for a graph."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


def trained_by(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters that an optimizer trains: those that have a gradient."""
    groups = optimizer.param_groups
    return [each for group in groups for each in group["params"] if each.requires_grad]


def in_layout_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient with the parameter's strides, as `Tensor.backward` leaves it.

    Fused optimisers read both as flat memory. A layer that joins or transposes its weights has
    gradients with other strides.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


class AdamState(NamedTuple):
    """The state of a `torch.optim.Adam`, its own tensors: a step writes into them."""

    parameters: list[Tensor]  # those that have a gradient
    averages: list[Tensor]  # of the gradients, one for each parameter
    squares: list[Tensor]  # of their squares
    steps: list[Tensor]  # 0-dim, how many each parameter had
    learning_rate: Tensor  # 0-dim
    betas: tuple[float, float]
    epsilon: float

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, learning_rate: Tensor) -> AdamState | None:
        """Return the state of an optimizer with one group, or None before its first step.

        Args:
            optimizer: An Adam that `check_is_adam` accepts.
            learning_rate: A tensor that receives the group's learning rate.
        """
        (group,) = optimizer.param_groups
        trained = trained_by(optimizer)
        states = [optimizer.state[p] for p in trained if p in optimizer.state]
        if trained and not states:
            return None
        learning_rate.fill_(group["lr"])
        return cls(
            trained,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["step"] for state in states],
            learning_rate,
            group["betas"],
            group["eps"],
        )

    def tensors(self) -> list[Tensor]:
        """Return everything that a step reads and writes but the parameters."""
        return [*self.averages, *self.squares, *self.steps, self.learning_rate]


def check_is_adam(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ValueError` for an optimizer whose steps `adam_step` does not compute."""
    (group, *others) = optimizer.param_groups
    options = ("weight_decay", "amsgrad", "maximize")
    used = [option for option in options if group.get(option)]
    if type(optimizer) is not torch.optim.Adam or others or used:
        name = type(optimizer).__name__
        got = f"{name} with {used}" if used else name
        raise ValueError(
            f"compile=True expects torch.optim.Adam without {', '.join(options)}, got {got}: leave "
            "compile=False for another optimizer"
        )


@torch.no_grad()
def adam_step(parameters: Sequence[Tensor], gradients: Sequence[Tensor], state: AdamState) -> None:
    """Take one step of Adam (Kingma and Ba 2015, algorithm 1) in place, as torch does."""
    _, averages, squares, steps, learning_rate, (beta1, beta2), epsilon = state
    torch._foreach_add_(steps, 1)
    rate = learning_rate / (1 - _power(beta1, steps[0]))
    correction = (1 - _power(beta2, steps[0])).sqrt()
    for parameter, gradient, average, square in zip(
        parameters, gradients, averages, squares, strict=True
    ):
        average.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        parameter.sub_(rate * average / (square.sqrt() / correction + epsilon))


def with_fused(
    optimizer: type[torch.optim.Optimizer], options: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the options of an optimiser; torch's Adam is fused unless they choose its form."""
    options = dict(options or {})
    chosen = {"fused", "foreach", "differentiable"} & options.keys()
    return options if chosen or optimizer is not torch.optim.Adam else {"fused": True, **options}


def has_betas(optimizer: type[torch.optim.Optimizer]) -> bool:
    """Return whether an optimiser takes Adam's `betas`, itself or through a parent class."""
    for kind in optimizer.__mro__:
        parameters = inspect.signature(kind).parameters
        if "betas" in parameters:
            return True
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
            return False
    return False


def tail_weight(share: float, updates: Tensor) -> Tensor:
    """Return the weight of the newest iterate in an average over about the last `share` of them.

    With `w ← w + weight (new - w)` it is the polynomial-decay averaging of Shamir and Zhang (2013),
    `weight = (eta + 1) / (updates + eta)` with `eta = 1/share`. A share of 0 is the newest iterate;
    a share of 1 weighs iterate t in proportion to t.

    Args:
        share: From 0 to 1.
        updates: Number of iterates, the newest included, 0-dim.

    Returns:
        The weight, 0-dim.
    """
    return (1 + share) / (1 + share * updates)


def _power(beta: float, step: Tensor) -> Tensor:
    """Return `beta**step` as an exponential.

    `torch.compile` computes what depends on an exponential once. It would compute a power again for
    every few numbers of each parameter, which is half of the step's time on a CPU.
    """
    return torch.exp(step * (math.log(beta) if beta else -math.inf))
