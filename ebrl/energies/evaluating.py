"""Evaluation mode of modules while something is sampled from them or measured on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import nn

_holders: dict[nn.Module, int] = {}  # how many hold a module that was in training mode
_lock = Lock()


@contextmanager
def evaluating(*energies: nn.Module) -> Iterator[None]:
    """Hold modules in evaluation mode and restore the mode of each.

    The mode is a flag of the module, which all threads share: several threads may evaluate one
    network at once, and the last one to finish restores the mode; but a thread that trains the
    network meanwhile trains it in evaluation mode. Train a copy, then.
    """
    parts = [part for energy in energies for part in energy.modules()]
    with _lock:
        held = [part for part in parts if part.training or part in _holders]
        for part in held:
            _holders[part] = _holders.get(part, 0) + 1
            part.training = False
    try:
        yield
    finally:
        with _lock:
            for part in held:
                _holders[part] -= 1
                if _holders[part] == 0:
                    del _holders[part]
                    part.training = True
