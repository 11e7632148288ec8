"""The update of an agent as one compiled program.

Targets, losses, gradients, optimiser steps and averages are one graph. The agent's `_update` is the
same function as in eager mode: it reads and writes the parameters and the optimisers' state in
place, and its noise is drawn outside. On a CUDA device it is replayed as one CUDA graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ebrl import programs
from ebrl.programs import Result


def can_compile(device: torch.device) -> bool:
    """Return whether an update can be compiled here, and warn of what is missing."""
    import torch._dynamo.config  # loaded here: the compiler takes a second

    missing = ""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        missing = f"a torch that compiles gradients, which {torch.__version__} does not"
    elif device.type == "cpu" and (compiler := programs.missing_compiler()):
        missing = f"a C++ compiler and found no {compiler!r}: install it or name another in CXX"
    if missing:
        warnings.warn(f"compile=True needs {missing}; updates run eagerly", stacklevel=3)
    return not missing


def run(
    update: Callable[..., Result], arguments: tuple[Any, ...], static: Iterable[Tensor]
) -> Result:
    """Return `update(*arguments)`, run as one compiled program.

    Args:
        update: A function, not a bound method: programs are kept for each function.
        arguments: Its arguments. Tensors may change, every other value is compiled in.
        static: Tensors at the same addresses in every call, which a CUDA graph need not copy.

    Raises:
        One of `programs.failures()`, before anything is changed, where the update is not one graph.
    """
    device = next(iter(static)).device.type
    if device == "cuda":
        for tensor in static:
            torch._dynamo.mark_static_address(tensor, guard=False)
    return programs.run(update, arguments, device, trace_autograd_ops=True)


def is_under_way() -> bool:
    """Return whether a program is being compiled, which takes tens of seconds."""
    return torch._guards.CompileContext.try_get() is not None


def reason(error: Exception) -> str:
    """Return torch's description of a failure, without its advice."""
    told, *_ = str(error).strip().split("\n\n")
    return f"{type(error).__name__}: {' '.join(told.split())}"
