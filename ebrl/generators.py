"""Checks of random generators, and their devices."""

from __future__ import annotations

import torch


def check_generator(generator: object) -> None:
    """Raise `TypeError` unless `generator` is a `torch.Generator`; an int seed is none."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"expected a torch.Generator, got {type(generator).__name__}: "
            "torch.Generator().manual_seed(0)"
        )


def device_of(generator: torch.Generator) -> torch.device:
    """Return the device on which a generator draws; `TypeError` for what is no generator."""
    check_generator(generator)
    return generator.device
