"""Muon: the momentum of each weight matrix is made orthogonal before it is taken as a step.

The filters of a convolution are the rows of a matrix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ebrl.training.precision import fastest_precision

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Newton and Schulz's quintic, steep at 0
ITERATIONS = 5


class Muon(Optimizer):
    """Muon for the matrices of a network, Adam for all else (Jordan et al. 2024).

    The root mean square of a step is about 0.2 times the learning rate (Liu et al. 2025), as with
    Adam, so that one learning rate serves both. It is smaller for gradients of low rank.

    Args:
        matrices: Weights between features, of at least two axes: `(outputs, inputs, *kernel)`.
        others: Embeddings, biases and norms.
        learning_rate: Learning rate of both parts.
        momentum: Momentum of the matrices.
        weight_decay: Decoupled decay of the matrices: a step shrinks them by this times the
            learning rate.
        betas: Adam's decay rates of the moving averages.
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
    def of(
        cls,
        network: nn.Module,
        learning_rate: float = 3e-3,
        parameters: Iterable[Tensor] | None = None,
    ) -> Muon:
        """Return the optimiser of a network: its linear layers and convolutions hold the matrices.

        Args:
            parameters: All that are trained, such as `ebrl.training.trainable_parameters(energy,
                objective)`; by default the network's.
        """
        kinds = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
        matrices = [layer.weight for layer in network.modules() if isinstance(layer, kinds)]
        chosen = {id(matrix) for matrix in matrices}
        parameters = network.parameters() if parameters is None else parameters
        others = [each for each in parameters if id(each) not in chosen]
        return cls(matrices, others, learning_rate)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [each for each in group["params"] if each.grad is not None]
            if not group["orthogonal"]:
                self._adam(moved, group)
                continue
            alike: dict[Any, list[Tensor]] = defaultdict(list)
            for matrix in moved:  # a GPU takes as long for one matrix as for all of a shape
                alike[matrix.shape, matrix.dtype, matrix.device].append(matrix)
            for matrices in alike.values():
                self._orthogonal(matrices, group)

    def _orthogonal(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Move matrices of one shape."""
        gradients = _gradients(matrices)
        means = [self._state(matrix, "mean")["mean"] for matrix in matrices]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, means, group["momentum"])  # Nesterov's
        stacked = torch.stack(ahead).flatten(2)  # (matrices, outputs, inputs * kernel)
        moves = orthogonal(stacked).to(matrices[0]).unflatten(2, matrices[0].shape[1:])
        scale = 0.2 * max(stacked.shape[1:]) ** 0.5
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, moves.unbind(), alpha=-group["lr"] * scale)

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        gradients = _gradients(parameters)
        states = [self._state(parameter, "mean", "square") for parameter in parameters]
        means, squares = ([state[name] for state in states] for name in ("mean", "square"))
        steps = [state.setdefault("step", 0) + 1 for state in states]
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
        decay, square_decay = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - decay)
        torch._foreach_mul_(squares, square_decay)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - square_decay)
        roots = torch._foreach_div(squares, [1 - square_decay**step for step in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, 1e-8)
        rates = [-group["lr"] / (1 - decay**step) for step in steps]
        torch._foreach_addcdiv_(parameters, means, roots, rates)

    def _state(self, parameter: Tensor, *names: str) -> dict[str, Any]:
        """Return a parameter's state, whose tensors of these names begin at 0."""
        state = self.state[parameter]
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        return state


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [each.grad for each in parameters if each.grad is not None]


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about `U V'` of each `matrix = U S V'`, `(*batch, rows, columns)`.

    By Newton and Schulz's iteration.
    """
    a, b, c = COEFFICIENTS
    fastest = fastest_precision(matrix.device)  # the iteration forgives rounding
    x = matrix.bfloat16() if fastest == "bfloat16" else matrix.float()
    x = x.mT if matrix.shape[-2] > matrix.shape[-1] else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrix.shape[-2] > matrix.shape[-1] else x
