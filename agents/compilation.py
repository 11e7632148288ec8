"""The update of an agent as one compiled program.

Targets, losses, gradients, optimiser steps and averages are one graph. The agent's `_update` is the
same function as in eager mode: it reads and writes the parameters and the optimisers' state in
place, and its noise is drawn outside. On a CUDA device it is replayed as one CUDA graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ebrl.sampling.compilation import missing_compiler

Result = TypeVar("Result")  # tensors, or tuples, lists and dictionaries of them
PROGRAMS = 64  # kept for each process; torch's own limit is 8


def can_compile(device: torch.device) -> bool:
    """Return whether an update can be compiled here, and warn of what is missing."""
    import torch._dynamo.config  # loaded here: the compiler takes a second

    missing = ""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        missing = f"a torch that compiles gradients, which {torch.__version__} does not"
    elif device.type == "cpu" and (compiler := missing_compiler()):
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
        One of `failures()`, before anything is changed, where the update is not a single graph.
    """
    device = next(iter(static)).device.type
    if device == "cuda":
        for tensor in static:
            torch._dynamo.mark_static_address(tensor, guard=False)
        torch.compiler.cudagraph_mark_step_begin()
    with torch._dynamo.config.patch(trace_autograd_ops=True, recompile_limit=PROGRAMS):
        result: Result = _compiled(update, device)(*arguments)
    if device == "cuda":  # a replayed CUDA graph overwrites the tensors that it returned before
        result = tree_map_only(Tensor, torch.clone, result)
    return result


def is_under_way() -> bool:
    """Return whether a program is being compiled, which takes tens of seconds."""
    return torch._guards.CompileContext.try_get() is not None


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of a function that does not compile to one graph."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return TorchDynamoException, FailOnRecompileLimitHit


def reason(error: Exception) -> str:
    """Return torch's description of a failure, without its advice."""
    told, *_ = str(error).strip().split("\n\n")
    return f"{type(error).__name__}: {' '.join(told.split())}"


@cache
def _compiled(update: Callable[..., Any], device: str) -> Callable[..., Any]:
    option = "triton.cudagraphs" if device == "cuda" else "cpp_wrapper"
    return torch.compile(update, fullgraph=True, dynamic=False, options={option: True})
