"""Muon: the momentum of each weight matrix is made orthogonal before it is taken as a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ebrl.training.precision import fastest_precision

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Newton and Schulz's quintic, steep at 0


class Muon(Optimizer):
    """Muon for the matrices of a network, Adam for all else (Jordan et al. 2024).

    A step has the root mean square of 0.2 times the learning rate (Liu et al. 2025), which is
    Adam's, so that both parts have the same learning rate.

    Args:
        matrices: Parameters of two axes, weights between features.
        others: Embeddings, biases and norms.
        learning_rate: Of both.
        momentum: Of the matrices.
        weight_decay: Decoupled decay of the matrices: each step shrinks them by learning rate
            times this.
        betas: Of Adam.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        learning_rate: float = 3e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
    ):
        groups = [
            {"params": list(matrices), "orthogonal": True},
            {"params": list(others), "orthogonal": False},
        ]
        defaults = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(groups, {**defaults, "betas": betas})

    @classmethod
    def of(cls, network: nn.Module, learning_rate: float = 3e-3) -> Muon:
        """Return the optimiser of a network, the weights of its linear layers as matrices."""
        matrices = [layer.weight for layer in network.modules() if isinstance(layer, nn.Linear)]
        chosen = {id(matrix) for matrix in matrices}
        others = [each for each in network.parameters() if id(each) not in chosen]
        return cls(matrices, others, learning_rate)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            move = self._orthogonal if group["orthogonal"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    move(parameter, parameter.grad, self.state[parameter], group)

    def _orthogonal(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].lerp_(gradient, 1 - group["momentum"])
        ahead = torch.lerp(gradient, state["mean"], group["momentum"])  # Nesterov's
        scale = 0.2 * max(parameter.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonal(ahead).to(parameter), alpha=-group["lr"] * scale)

    def _adam(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        state["step"] += 1
        decay, square_decay = group["betas"]
        state["mean"].lerp_(gradient, 1 - decay)
        state["square"].mul_(square_decay).addcmul_(gradient, gradient, value=1 - square_decay)
        root = (state["square"] / (1 - square_decay ** state["step"])).sqrt_().add_(1e-8)
        parameter.addcdiv_(state["mean"], root, value=-group["lr"] / (1 - decay ** state["step"]))


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return about `U V'` of `matrix = U S V'`, by Newton and Schulz's iteration."""
    a, b, c = COEFFICIENTS
    fastest = fastest_precision(matrix.device)  # the iteration forgives rounding
    x = matrix.bfloat16() if fastest == "bfloat16" else matrix.float()
    x = x.mT if matrix.shape[0] > matrix.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
