"""Energies held as they are while something is sampled from them or measured on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*energies: nn.Module) -> Iterator[None]:
    """Hold modules in evaluation mode; restore the mode of each."""
    training = [vars(part) for energy in energies for part in energy.modules() if part.training]
    # Past `nn.Module.__setattr__`, which asks first whether the mode is a parameter or a module.
    try:
        for attributes in training:
            attributes["training"] = False
        yield
    finally:
        for attributes in training:
            attributes["training"] = True


@contextmanager
def frozen(*energies: nn.Module) -> Iterator[None]:
    """Hold parameters without gradient; restore those that had one."""
    trainable = [part for energy in energies for part in energy.parameters() if part.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
