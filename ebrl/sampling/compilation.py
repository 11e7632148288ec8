"""Chains as compiled programs: blocks of steps in one graph, their noise drawn outside of it.

The noise is drawn step by step from the caller's generator, as in an eager run: both give the same
chain up to rounding. Step sizes and temperatures are tensors, so that a graph serves all of them.
There is one graph for each shape, length of a block, kernel and kind of energy. On a CUDA device a
block is replayed as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ebrl import programs
from ebrl.energies import Energy, Number
from ebrl.kernels import HMC, MALA, NUTS, ULA, Info, Kernel, nuts
from ebrl.kernels.protocol import Walk, added, mapped
from ebrl.sampling.paths import Stage

BLOCK = 20  # gradients in a graph: longer ones compile longer and hold more noise


def check_compilable(kernel: Kernel) -> None:
    """Raise `ValueError` for a kernel that is not tested to compile.

    Raises `RuntimeError` if there is no C++ compiler.
    """
    if type(kernel) not in (ULA, MALA, HMC, NUTS):
        raise ValueError(
            f"expected one of ULA, MALA, HMC and NUTS to compile, got {type(kernel).__name__}: "
            "leave compile=False"
        )
    if compiler := programs.missing_compiler():
        raise RuntimeError(
            f"compile=True needs a C++ compiler and found no {compiler!r}: install g++, name "
            "another in the environment variable CXX, or leave compile=False"
        )


def as_tensor(number: Number, x: Tensor) -> Tensor:
    """Return the number as a tensor beside x: each Python number would need its own graph."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return number if isinstance(number, Tensor) else x.new_full((), number, dtype=dtype)


def block_length(kernel: Kernel) -> int:
    """Return the number of steps in one graph."""
    return max(BLOCK // kernel.gradients, 1)


def move(kernel: Kernel, state: Any, stage: Stage, noise: Sequence[Any]) -> tuple[Any, Info]:
    """Make a step with each noise, and return the last state and the sum of what they report.

    Raises:
        RuntimeError: For an energy that does not compile to one graph, and for more graphs than
            `ebrl.programs.KEPT`.
    """
    if isinstance(kernel, NUTS):
        state, walk = walked(kernel, state, stage, noise)
        return state, mapped(lambda field: field.sum(0), walk.info)
    energy, _, step_size, temperature = stage
    return _run(_block, energy, state.x, kernel, energy, state, noise, step_size, temperature)


def walked(kernel: Kernel, state: Any, stage: Stage, noise: Sequence[Any]) -> tuple[Any, Walk]:
    """Make a step with each noise, and return the last state and the results of all."""
    energy, _, step_size, temperature = stage
    if not isinstance(kernel, NUTS):
        return _run(_walk, energy, state.x, kernel, energy, state, noise, step_size, temperature)
    steps, room = len(noise), block_length(kernel)  # of one length, so that there is one graph
    padded = [*noise, *[noise[0]] * (room - steps)]
    block = mapped(lambda *fields: torch.stack(fields), *padded)
    one = state.x.new_ones(state.x.shape[state.energy.ndim :])
    mass = one if kernel.mass is None else kernel.mass.to(state.x)
    dynamics = nuts.Dynamics(step_size, temperature, mass)
    count = torch.full_like(state.energy, steps, dtype=torch.long)
    state, walk = _run(_trees, energy, state.x, energy, state, block, count, dynamics)
    return state, mapped(lambda field: field[:steps], walk)


def _run(program: Callable[..., Any], energy: Energy, x: Tensor, *arguments: Any) -> Any:
    """Run a compiled program; a failure to compile is a `RuntimeError` that names the cure."""
    try:
        return programs.run(program, arguments, x.device.type, replayed=program is not _trees)
    except programs.failures() as error:
        raise RuntimeError(
            f"the chain on {type(energy).__name__} did not compile, {type(error).__name__} "
            "above: leave compile=False, or make sure that the energy never branches on values and "
            "keeps changing numbers in tensors (each new Python number compiles another graph; at "
            f"most {programs.KEPT} are kept)"
        ) from error


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
    return mapped(Tensor.contiguous, state), total  # as the next block expects it


def _walk(
    kernel: Kernel,
    energy: Energy,
    state: Any,
    noise: list[Any],
    step_size: Number,
    temperature: Number,
) -> tuple[Any, Walk]:
    state, walk = kernel.walk(energy, state, noise, step_size, temperature)
    return mapped(Tensor.contiguous, state), walk


def _trees(
    energy: Energy, state: Any, block: Any, steps: Tensor, dynamics: nuts.Dynamics
) -> tuple[Any, Walk]:
    """Make steps of NUTS in one loop of the graph, until all trees are finished."""
    from torch._higher_order_ops.while_loop import while_loop

    def unfinished(trees: nuts.Trees) -> Tensor:
        return (trees.done < steps).any()

    def leaf(trees: nuts.Trees) -> tuple[nuts.Trees]:
        tree = nuts.leapfrog_trees(energy, trees.tree, dynamics)
        trees = nuts.record_finished(trees._replace(tree=tree), block, steps, dynamics)
        return (mapped(torch.clone, trees),)

    trees = mapped(torch.clone, nuts.start_trees(state, block, dynamics))
    (trees,) = while_loop(unfinished, leaf, (trees,))
    return trees.tree.chosen, trees.walk
