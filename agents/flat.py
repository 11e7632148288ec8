"""One flat tensor behind all the parameters of a network.

An optimiser's step, a target's average and a reset of the gradients are then one kernel each
instead of one a parameter, a tenth of an update at the sizes of reinforcement learning.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


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


def split_like(flat: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """Return views of `flat`, a tensor laid out as `flatten_parameters` does, by parameter name."""
    named = dict(network.named_parameters())
    pieces = flat.split([parameter.numel() for parameter in named.values()])
    return {
        name: piece.view_as(parameter)
        for (name, parameter), piece in zip(named.items(), pieces, strict=True)
    }
