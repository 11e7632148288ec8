"""Kernels in turn: `Cycle([IteratedSIR(proposal), MALA()])` jumps between modes, then explores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.kernels.checks import check_restartable
from ebrl.kernels.known import known
from ebrl.kernels.protocol import Info, Kernel
from ebrl.spaces import Coordinates, Space


class CycleState(NamedTuple):
    """The position of a batch of chains, and the state of each kernel after its last move."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    parts: tuple[Any, ...]  # the state of each kernel; the last one's is at x

    @property
    def gradient(self) -> Tensor | None:
        """The gradient at x, `(*batch, *event)`, if the last kernel's state has it."""
        return self.parts[-1].gradient


class Cycle(Kernel[CycleState, tuple[Any, ...]]):
    """One step of each kernel in turn: it leaves a distribution invariant if all of them do.

    All have the same step size and temperature. Each starts from the position, energy and, if
    known, gradient that the one before it reached; velocities are drawn anew. A gradient kernel
    after one without gradients therefore costs one more evaluation. A divergence of any kernel
    counts. Where kernels report the same quantity, such as the acceptance, the last kernel's
    counts. A `Tempered` kernel would lose its replicas: temper the cycle instead.
    """

    def __init__(self, kernels: Sequence[Kernel]):
        if not kernels:
            raise ValueError("expected at least one kernel to cycle through, got none")
        for kernel in kernels:
            check_restartable(kernel, "in a cycle: Tempered(Cycle([...]), ...)")
        self.kernels = tuple(kernels)
        self.coordinates = shared_coordinates(kernels)
        self.best_acceptance = kernels[-1].best_acceptance  # whose acceptance is reported
        self.gradients = sum(kernel.gradients for kernel in kernels)
        self.couples_chains = any(kernel.couples_chains for kernel in kernels)

    def check_space(self, space: Space) -> None:
        for kernel in self.kernels:
            kernel.check_space(space)

    def start(self, energy: Energy, x: Tensor) -> CycleState:
        parts = [self.kernels[0].start(energy, x)]
        for kernel in self.kernels[1:]:
            parts.append(kernel.start(known(energy, parts[-1]), parts[-1].x))
        return CycleState(parts[-1].x, parts[-1].energy, tuple(parts))

    def draw(self, state: CycleState, generator: torch.Generator) -> tuple[Any, ...]:
        return tuple(
            kernel.draw(part, generator)
            for kernel, part in zip(self.kernels, state.parts, strict=True)
        )

    def step(
        self,
        energy: Energy,
        state: CycleState,
        noise: tuple[Any, ...],
        step_size: Number,
        temperature: Number,
    ) -> tuple[CycleState, Info]:
        here, parts = state.parts[-1], []
        extra: dict[str, Tensor] = {}
        lost = torch.zeros_like(state.energy, dtype=torch.bool)
        for kernel, part, own in zip(self.kernels, state.parts, noise, strict=True):
            if part.x is not here.x:
                part = kernel.start(known(energy, here), here.x)
            here, info = kernel.step(energy, part, own, step_size, temperature)
            parts.append(here)
            lost, extra = lost | info.diverged, extra | info.extra
        return CycleState(here.x, here.energy, tuple(parts)), Info(info.acceptance, lost, extra)


def shared_coordinates(kernels: Sequence[Kernel]) -> Coordinates | None:
    """Return the coordinates that all kernels move; `ValueError` if they have none in common."""
    found = {kernel.coordinates for kernel in kernels} - {None}
    if len(found) > 1:
        names = [type(kernel).__name__ for kernel in kernels]
        raise ValueError(f"expected kernels of the same coordinates, got {', '.join(names)}")
    return found.pop() if found else None
