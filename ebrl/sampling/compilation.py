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
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.kernels import HMC, MALA, ULA, Kernel
from ebrl.sampling.paths import Stage

BLOCK = 20  # steps in a graph: longer ones compile longer and hold more noise
GRAPHS = 64  # torch's own limit is 8, fewer than the shapes of one training run
_COMPILERS = {"darwin": "clang++", "win32": "cl"}  # torch's choice, elsewhere g++


class Moved(NamedTuple):
    """Where steps led to, and sums over them of what they report."""

    state: Any
    acceptance: Tensor  # (*batch,)
    diverged: Tensor  # (*batch,)


def check_compilable(kernel: Kernel) -> None:
    """Raise `ValueError` for a kernel whose step is no static graph or is not tested as one.

    Raises `RuntimeError` where there is no C++ compiler.
    """
    if type(kernel) not in (ULA, MALA, HMC):
        raise ValueError(
            f"expected one of ULA, MALA and HMC to compile, got {type(kernel).__name__}: "
            "leave compile=False"
        )
    compiler = os.environ.get("CXX", _COMPILERS.get(sys.platform, "g++"))
    if shutil.which(compiler) is None:
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


def move(kernel: Kernel, state: Any, stage: Stage, generator: torch.Generator) -> Moved:
    """Return what the stage's steps from the state lead to, without a graph of gradients.

    Raises `RuntimeError` for an energy that does not compile to one graph, and for more graphs than
    `GRAPHS`.
    """
    energy, steps, step_size, temperature = stage
    moved = Moved(state, torch.zeros_like(state.energy), torch.zeros_like(state.energy))
    # Loaded here: the compiler takes a second.
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    block = _compiled(state.x.device.type)
    torch.compiler.cudagraph_mark_step_begin()
    try:
        with torch._dynamo.config.patch(recompile_limit=GRAPHS):
            for done in range(0, steps, BLOCK):
                noise = [kernel.draw(state, generator) for _ in range(min(BLOCK, steps - done))]
                moved = block(kernel, energy, moved, noise, step_size, temperature)
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        raise RuntimeError(
            f"the chain on {type(energy).__name__} did not compile, {type(error).__name__} above: "
            "leave compile=False, or see that the energy never branches on values and holds "
            f"numbers that change as tensors (of others each is a graph, and {GRAPHS} are kept)"
        ) from error
    return _apart(moved) if state.x.device.type == "cuda" else moved


@cache
def _compiled(device: str) -> Callable[..., Moved]:
    """Return the compiled block for a kind of device, made at first use."""
    option = "triton.cudagraphs" if device == "cuda" else "cpp_wrapper"
    return torch.compile(_block, fullgraph=True, dynamic=False, options={option: True})


def _apart(moved: Moved) -> Moved:
    """Return a copy: what a graph returns it overwrites when it is replayed."""
    state, acceptance, diverged = moved
    state = type(state)(*(field.clone() for field in state))
    return Moved(state, acceptance.clone(), diverged.clone())


def _block(
    kernel: Kernel,
    energy: Energy,
    moved: Moved,
    noise: list[Any],
    step_size: Number,
    temperature: Number,
) -> Moved:
    state, acceptance, diverged = moved
    for one in noise:
        state, info = kernel.step(energy, state, one, step_size, temperature)
        acceptance = acceptance + info.acceptance
        diverged = diverged + info.diverged
    state = type(state)(*(field.contiguous() for field in state))  # as the next block expects it
    return Moved(state, acceptance, diverged)
