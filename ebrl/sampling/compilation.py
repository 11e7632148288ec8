"""Chains as compiled programs: blocks of steps in one graph, their noise drawn outside of it.

The noise comes from the caller's generator, step by step as in an eager run, so that both give the
same chain up to rounding. Step sizes and temperatures are tensors, which no graph is specialised
to. There is one graph for each shape, length of a block, kernel and kind of energy. On a CUDA
device a block is replayed as one CUDA graph.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.kernels import HMC, MALA, ULA, Info, Kernel
from ebrl.sampling.paths import Stage

BLOCK = 20  # gradients in a graph: longer ones compile longer and hold more noise
GRAPHS = 64  # torch's own limit is 8, fewer than the shapes of one training run
_COMPILERS = {"darwin": "clang++", "win32": "cl"}  # torch's choice, elsewhere g++


def missing_compiler() -> str | None:
    """Return the name of the C++ compiler that torch would run, if there is no such program."""
    compiler = os.environ.get("CXX", _COMPILERS.get(sys.platform, "g++"))
    return compiler if shutil.which(compiler) is None else None


def check_compilable(kernel: Kernel) -> None:
    """Raise `ValueError` for a kernel whose step is no static graph or is not tested as one.

    Raises `RuntimeError` where there is no C++ compiler.
    """
    if type(kernel) not in (ULA, MALA, HMC):
        raise ValueError(
            f"expected one of ULA, MALA and HMC to compile, got {type(kernel).__name__}: "
            "leave compile=False"
        )
    if compiler := missing_compiler():
        raise RuntimeError(
            f"compile=True needs a C++ compiler and found no {compiler!r}: install g++, name "
            "another in the environment variable CXX, or leave compile=False"
        )


def check_static(*, adapts: bool, unrolls: bool) -> None:
    """Raise `ValueError` for a run that changes its step size or keeps a graph of gradients."""
    if adapts:
        raise ValueError(
            "a compiled chain keeps its step size: pass adapt=False, or adapt with compile=False"
        )
    if unrolls:
        raise ValueError('gradient="unroll" differentiates an eager chain: leave compile=False')


def with_tensors(stage: Stage, x: Tensor) -> Stage:
    """Return the stage with its numbers as tensors: each Python number would be its own graph."""

    def as_tensor(number: Number) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return number if isinstance(number, Tensor) else x.new_full((), number, dtype=dtype)

    return stage._replace(
        step_size=as_tensor(stage.step_size), temperature=as_tensor(stage.temperature)
    )


def moves(
    kernel: Kernel, state: Any, stage: Stage, generator: torch.Generator
) -> Iterator[tuple[Any, Info]]:
    """Yield the state after each block of the stage's steps, and the sum of what they reported.

    Raises:
        RuntimeError: For an energy that does not compile to one graph, and for more graphs than
            `GRAPHS`.
    """
    energy, steps, step_size, temperature = stage
    # Loaded here: the compiler takes a second.
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    block, on_gpu = _compiled(state.x.device.type), state.x.device.type == "cuda"
    length = max(BLOCK // kernel.gradients, 1)
    for done in range(0, steps, length):
        noise = [kernel.draw(state, generator) for _ in range(min(length, steps - done))]
        torch.compiler.cudagraph_mark_step_begin()
        try:
            with torch._dynamo.config.patch(recompile_limit=GRAPHS):
                state, info = block(kernel, energy, state, noise, step_size, temperature)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            raise RuntimeError(
                f"the chain on {type(energy).__name__} did not compile, {type(error).__name__} "
                "above: leave compile=False, or see that the energy never branches on values and "
                "holds numbers that change as tensors (of others each is a graph, and "
                f"{GRAPHS} are kept)"
            ) from error
        if on_gpu:  # what a graph returns it overwrites when it is replayed
            state = type(state)(*(field.clone() for field in state))
        yield state, info


@cache
def _compiled(device: str) -> Callable[..., tuple[Any, Info]]:
    """Return the compiled block for a kind of device, made at first use."""
    option = "triton.cudagraphs" if device == "cuda" else "cpp_wrapper"
    return torch.compile(_block, fullgraph=True, dynamic=False, options={option: True})


def added(total: Info, info: Info) -> Info:
    """Return the sum of two reports, without a graph; the first one may lack the extra fields."""
    extra = info.extra and {
        name: one.detach() + (total.extra[name] if total.extra else 0)
        for name, one in info.extra.items()
    }
    return Info(total.acceptance + info.acceptance.detach(), total.diverged + info.diverged, extra)


def _block(
    kernel: Kernel,
    energy: Energy,
    state: Any,
    noise: list[Any],
    step_size: Number,
    temperature: Number,
) -> tuple[Any, Info]:
    zero = torch.zeros_like(state.energy)
    total = Info(zero, zero)
    for one in noise:
        state, info = kernel.step(energy, state, one, step_size, temperature)
        total = added(total, info)
    state = type(state)(*(field.contiguous() for field in state))  # as the next block expects it
    return state, total
