"""Evaluation mode of modules during sampling and measurement."""

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

    All threads share a module's mode. Several may evaluate one network at once: the last to finish
    restores the mode. A thread that trains the network meanwhile must train a copy.
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
