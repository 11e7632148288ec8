"""One flat tensor behind all the parameters of a network.

An optimiser's step, a target's average and a reset of the gradients are then one kernel each
instead of one a parameter, a tenth of an update at the sizes of reinforcement learning.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import Adam, adam

ADAM_SETTINGS = ("lr", "weight_decay", "eps", "maximize", "decoupled_weight_decay")


class Flat(NamedTuple):
    """All the parameters of a network, and the memory of their gradients."""

    parameter: nn.Parameter  # (size,)
    gradient: Tensor  # (size,), the parameter's


def flatten_parameters(network: nn.Module) -> Flat:
    """Move the parameters of `network` and their gradients into one tensor each.

    The parameters become views: what writes in place (optimisers, `load_state_dict`) goes through
    to the flat tensor and back. Gradients must be zeroed, not set to None, to stay views.
    """
    parameters = list(network.parameters())
    flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    pieces = zip(flat.detach().split(sizes), flat.grad.split(sizes), strict=True)
    for parameter, (value, gradient) in zip(parameters, pieces, strict=True):
        parameter.data = value.view_as(parameter)
        parameter.grad = gradient.view_as(parameter) if parameter.requires_grad else None
    return Flat(flat, flat.grad)


@torch.no_grad()
def step(optimizer: torch.optim.Optimizer) -> None:
    """Do the step of an optimiser of one parameter.

    `Adam.step` sorts its parameters by kind and device at every call, which for a single one takes
    as long as the arithmetic: from the second step on, when its state is there, a fused Adam is
    asked for the arithmetic alone. The numbers are the same.
    """
    (group,) = optimizer.param_groups
    (parameter,) = group["params"]
    state = optimizer.state[parameter]
    if type(optimizer) is not Adam or not group["fused"] or group["amsgrad"] or not state:
        optimizer.step()
        return
    beta1, beta2 = group["betas"]
    adam(
        [parameter],
        [parameter.grad],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        **{name: group[name] for name in ADAM_SETTINGS},
    )


def split_like(flat: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """Return views of `flat`, a tensor laid out as `flatten_parameters` does, by parameter name."""
    named = dict(network.named_parameters())
    pieces = flat.split([parameter.numel() for parameter in named.values()])
    return {
        name: piece.view_as(parameter)
        for (name, parameter), piece in zip(named.items(), pieces, strict=True)
    }
