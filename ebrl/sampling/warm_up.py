"""Warm-up: fit the step size and the preconditioner to an energy, in windows as in Stan.

kernel, step_size, x = warm_up(NUTS(), energy, x, 1000, generator=generator)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.energies.evaluating import evaluating
from ebrl.kernels.checks import check_suits
from ebrl.kernels.protocol import Kernel
from ebrl.sampling import compilation
from ebrl.sampling.adaptation import DualAveraging, check_adaptable, check_adaptable_in
from ebrl.sampling.paths import Stage
from ebrl.sampling.run import Count, Progress, Run
from ebrl.sampling.starts import check_types
from ebrl.spaces import Space, Unbounded

FIRST, LAST = 0.15, 0.1  # shares of the steps before and after the preconditioner is fitted
NARROWEST = 25  # steps of the first window that fits it; the length doubles with each window


class WarmedUp(NamedTuple):
    """The results of a warm-up."""

    kernel: Kernel
    step_size: Tensor  # a scalar
    x: Tensor  # (*batch, *event), where the chains are


def warm_up(
    kernel: Kernel,
    energy: Energy,
    x: Tensor,
    steps: int,
    *,
    generator: torch.Generator,
    space: Space | None = None,
    temperature: Number = 1.0,
    acceptance: float | None = None,
    compile: bool = False,
    progress: Progress | None = None,
) -> WarmedUp:
    """Fit step size and preconditioner to an energy (Stan reference manual, section 14.2).

    The first steps adapt only the step size. Windows of growing length follow: after each, the
    kernel is preconditioned by the variance of the coordinates over the window and the chains, and
    the step size is searched for again. The last steps adapt only the step size.

    Args:
        kernel: One with a preconditioner or mass: MALA, HMC, GHMC or NUTS.
        energy: An energy of x alone, the same for all chains.
        x: Starting points `(*batch, *event)`, of at least one chain.
        steps: Kernel steps of the whole warm-up; at least 20.
        generator: The random stream.
        space: All of R^d by default.
        acceptance: The mean acceptance to reach; by default the best one of the kernel.
        compile: Whether to run each step as a compiled program; see `Sampler`.
        progress: Called with the number of steps made so far and in total.

    Raises:
        ValueError: For other kernels, a box whose walls project, no chains, or fewer than 20 steps.
    """
    check_types(energy, x, generator)
    check_adaptable(kernel)
    check_adaptable_in(space := space or Unbounded())
    check_suits(kernel, space)
    if compile:
        compilation.check_compilable(kernel)
    batch = x.shape[: x.ndim - energy.event_ndim]
    _check_counts(steps, batch)
    step_size = x.new_ones(())
    windows, count = window_lengths(steps), Count(progress, steps)
    first = space.to_free(x)[(0,) * len(batch)]
    of_ones = kernel.preconditioned(torch.ones_like(first))  # raises where a kernel has none
    if compile:  # one program with and without a preconditioner
        kernel = of_ones
    with evaluating(energy), torch.no_grad():
        for index, length in enumerate(windows):
            stage = Stage(energy, length, step_size, temperature)
            run = Run(kernel, space, stage, x, compiled=compile, count=count)
            run.step_size = first_step_size(kernel, run, generator)
            adaptation = DualAveraging(acceptance).to(x.device)
            adaptation.start(run.step_size, kernel)
            fits = 0 < index < len(windows) - 1
            positions = [run.state.x for _ in run.moves(generator, adaptation) if fits]
            x, step_size = space.from_free(run.state.x), adaptation.step_size
            if fits:
                kernel = kernel.preconditioned(shrunk_variance(torch.stack(positions), run, space))
    return WarmedUp(kernel, step_size, x)


def _check_counts(steps: int, batch: tuple[int, ...]) -> None:
    """Raise `ValueError` for too few steps and for no chains."""
    if steps < 20:
        raise ValueError(f"expected a warm-up of at least 20 steps, got {steps}")
    if 0 in batch:
        raise ValueError(f"expected at least one chain to warm up, got a batch {tuple(batch)}")


def window_lengths(steps: int) -> list[int]:
    """Return the lengths of all windows: the first, those that precondition, the last."""
    first, last = int(FIRST * steps), int(LAST * steps)
    rest, windows = steps - first - last, []
    length = min(NARROWEST, rest)
    while rest > 0:
        # A window that would leave less than the length of its successor takes the rest, too.
        length = rest if rest < 3 * length else length
        windows.append(length)
        rest, length = rest - length, 2 * length
    return [first, *windows, last]


def first_step_size(kernel: Kernel, run: Run, generator: torch.Generator) -> Tensor:
    """Double or halve the step size until the mean acceptance over all chains crosses .8.

    After algorithm 4 of Hoffman and Gelman 2014. Raises `ValueError` if it never does.
    """
    probe, step_size = kernel.probe(), torch.as_tensor(run.step_size, dtype=torch.float64)
    state: Any = probe.start(run.energy, run.state.x)
    rises = None
    for _ in range(60):
        noise = probe.draw(state, generator)
        size = step_size.to(state.energy)
        _, info = probe.step(run.energy, state, noise, size, run.temperature)
        accepts = bool(info.acceptance.mean() > 0.8)
        if rises is None:
            rises = accepts
        if accepts != rises:
            return step_size.to(run.state.energy)
        step_size = step_size * (2.0 if rises else 0.5)
    raise ValueError(
        "expected an energy that refuses large steps and accepts small ones where the chains are, "
        f"got one that {'refuses' if not rises else 'accepts'} steps of every size: it is "
        f"{'flat' if rises else 'infinite or not smooth'} there"
    )


def shrunk_variance(positions: Tensor, run: Run, space: Space) -> Tensor:
    """Return the variances of the coordinates, `(*event,)`, shrunk a little to .001, as in Stan.

    The positions are those of a run, `(steps, *batch, *event)`.
    """
    event = positions.shape[positions.ndim - run.energy.event_ndim :]
    rows = positions.reshape(-1, *event)
    weight = len(rows) / (len(rows) + 5)
    return weight * space.free_variance(rows) + 1e-3 * (1 - weight)
