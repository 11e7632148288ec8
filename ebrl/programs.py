"""Functions as compiled programs: one graph each, which a CUDA device replays as one CUDA graph."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

Result = TypeVar("Result")  # tensors, or tuples, lists and dictionaries of them
KEPT = 64  # programs of a function; torch's 8 are too few for the shapes of one training
_COMPILERS = {"darwin": "clang++", "win32": "cl"}  # torch's choice, elsewhere g++


def missing_compiler() -> str | None:
    """Return the name of the C++ compiler that torch would run, if there is no such program."""
    compiler = os.environ.get("CXX", _COMPILERS.get(sys.platform, "g++"))
    return compiler if shutil.which(compiler) is None else None


def run(
    function: Callable[..., Result],
    arguments: tuple[Any, ...],
    device: str,
    *,
    replayed: bool = True,
    **settings: Any,
) -> Result:
    """Return `function(*arguments)`, run as one compiled program.

    Args:
        function: A function, not a bound method: programs are kept for each function.
        arguments: Its arguments. Tensors may change; every other value is compiled in.
        device: The type of the tensors' device.
        replayed: Whether a CUDA device replays the program as one CUDA graph.
        settings: Settings of `torch._dynamo.config` during compilation.

    Raises:
        One of `failures()`, before anything is changed, where the function is not a single graph.
    """
    import torch._dynamo.config  # loaded here: the compiler takes a second

    if device == "cuda":
        torch.compiler.cudagraph_mark_step_begin()
    with torch._dynamo.config.patch(recompile_limit=KEPT, **settings):
        result: Result = _compiled(function, device, replayed)(*arguments)
    if device == "cuda":  # a replayed CUDA graph overwrites the tensors that it returned before
        result = tree_map_only(Tensor, torch.clone, result)
    return result


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of a function that does not compile to one graph."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return TorchDynamoException, FailOnRecompileLimitHit


@cache
def _compiled(function: Callable[..., Any], device: str, replayed: bool) -> Callable[..., Any]:
    option = "triton.cudagraphs" if device == "cuda" else "cpp_wrapper"
    options: dict[str, Any] = {option: True} if replayed or device != "cuda" else {}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)
