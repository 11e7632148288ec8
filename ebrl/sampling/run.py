"""Chains that move along one stage, and their report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, Number, check_one_number_each
from ebrl.kernels.checks import check_gradient_shape, check_not_broadcast
from ebrl.kernels.protocol import Info, Kernel, Walk, added, mapped
from ebrl.sampling import compilation
from ebrl.sampling.adaptation import DualAveraging
from ebrl.sampling.checks import check_number_shapes, check_numbers_at_start
from ebrl.sampling.paths import Stage
from ebrl.spaces import FreeEnergy, Space


class ChainInfo(NamedTuple):
    """The report of a run, on the device of the chains."""

    acceptance: Tensor  # (*batch,), mean acceptance probability over the steps
    diverged: Tensor  # (*batch,), proposals rejected as NaN, infinite or of energy -inf
    step_size: Tensor  # the step size after the run, a scalar or (*batch,)
    temperature: Tensor  # of the last steps, a scalar or (*batch,)
    # Means over the steps of the kernel's own reports.
    extra: dict[str, Tensor] = {}  # noqa: RUF012, nothing changes a report


Progress = Callable[[int, int], object]  # (steps made, steps in all)


class Count:
    """Counts the steps of a run, and reports them to a caller."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.made, self.total = progress, 0, total

    def show(self, made: int) -> None:
        """Report the number of steps made so far."""
        self.made = made
        if self.progress is not None:
            self.progress(made, self.total)


class Run:
    """Chains that move along one stage."""

    def __init__(
        self,
        kernel: Kernel,
        space: Space,
        stage: Stage,
        x: Tensor,
        *,
        compiled: bool = False,
        count: Count | None = None,
    ):
        self.kernel, self.space, self.compiled = kernel, space, compiled
        energy, self.steps, *numbers = stage
        check_number_shapes(stage, x.shape[: x.ndim - energy.event_ndim])
        if compiled:
            numbers = [compilation.as_tensor(number, x) for number in numbers]
        self.step_size, self.temperature = (_of_type(number, x) for number in numbers)
        self.energy = space.free(energy.prepared(), self.temperature, self.step_size)
        self.state: Any = kernel.start(self.energy, space.to_free(x))
        check_one_number_each(self.state.energy, self.state.x, self.energy.event_ndim)
        check_gradient_shape(self.state)
        if self.state.gradient is None and space.coordinates == "real":
            check_not_broadcast(energy, x)
        check_numbers_at_start(self.state, energy)
        zero = torch.zeros_like(self.state.energy.detach())
        self.total = Info(zero, zero)
        self.count = count or Count(None, self.steps)

    def moves(self, generator: torch.Generator, adaptation: DualAveraging | None) -> Iterator[None]:
        """Move the chains, at each iteration by one step, or by a block of compiled steps.

        Steps that adapt the step size are not joined to blocks.
        """
        blocks = self.compiled and adaptation is None
        length = compilation.block_length(self.kernel) if blocks else 1
        for noise in self._noise(generator, length):
            if self.compiled:
                self.state, info = compilation.move(self.kernel, self.state, self._stage(), noise)
            else:
                self.state, info = self.kernel.step(
                    self.energy, self.state, noise[0], self.step_size, self.temperature
                )
            self._add(info, len(noise))
            if adaptation is not None:
                self.step_size = _of_type(adaptation.update(info.acceptance), self.state.x)
            yield

    def to_end(self, generator: torch.Generator, adaptation: DualAveraging | None = None) -> None:
        """Make all moves."""
        for _ in self.moves(generator, adaptation):
            pass

    def walks(self, generator: torch.Generator) -> Iterator[Walk]:
        """Move the chains block by block; yield where they were, with the user's energy."""
        for noise in self._noise(generator, compilation.block_length(self.kernel)):
            if self.compiled:
                walked = compilation.walked(self.kernel, self.state, self._stage(), noise)
            else:
                numbers = self.step_size, self.temperature
                walked = self.kernel.walk(self.energy, self.state, noise, *numbers)
            self.state, walk = walked
            self._add(mapped(lambda field: field.sum(0), walk.info), len(noise))
            places = [self._in_space(*each) for each in zip(walk.x, walk.energy, strict=True)]
            x, value = map(torch.stack, zip(*places, strict=True))
            yield walk._replace(x=x, energy=value)

    def position(self) -> tuple[Tensor, Tensor]:
        """Return the positions of the chains in the space, and the user's energy there."""
        return self._in_space(self.state.x, self.state.energy)

    def _in_space(self, free: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.energy, FreeEnergy):
            value = value - self.energy.added(free)
        return self.space.from_free(free), value

    def _stage(self) -> Stage:
        return Stage(self.energy, self.steps, self.step_size, self.temperature)

    def _noise(self, generator: torch.Generator, length: int) -> Iterator[list[Any]]:
        """Yield the noise of each block of `length` steps."""
        for done in range(0, self.steps, length):
            steps = min(length, self.steps - done)
            yield [self.kernel.draw(self.state, generator) for _ in range(steps)]

    def _add(self, info: Info, moves: int) -> None:
        self.total = added(self.total, info)
        self.count.show(self.count.made + moves)

    def report(self) -> ChainInfo:
        """Return the report of the steps so far."""
        steps = max(self.steps, 1)
        acceptance, diverged, extra = self.total
        step_size, temperature = (
            number.to(acceptance, copy=True)
            if isinstance(number, Tensor)
            else acceptance.new_full((), number)
            for number in (self.step_size, self.temperature)
        )
        means = {name: total / steps for name, total in extra.items()}
        return ChainInfo(acceptance / steps, diverged, step_size, temperature, means)


class Differentiable(Energy):
    """An energy whose gradient can itself be differentiated."""

    def __init__(self, energy: Energy):
        super().__init__()
        self.energy, self.event_ndim = energy, energy.event_ndim
        self.couples_chains = energy.couples_chains

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            value = self.energy(x)
            (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return value, gradient


def differentiable(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages with energies whose gradients can be differentiated."""
    return [stage._replace(energy=Differentiable(stage.energy)) for stage in stages]


def joined(reports: Sequence[ChainInfo], steps: Sequence[int]) -> ChainInfo:
    """Return the joint report of consecutive runs, each of its number of `steps`."""
    if len(reports) == 1:
        return reports[0]
    shares = [part / max(sum(steps), 1) for part in steps]
    acceptance = [r.acceptance * share for r, share in zip(reports, shares, strict=True)]
    extras = [(r.extra, share) for r, share in zip(reports, shares, strict=True) if r.extra]
    names = extras[0][0] if extras else {}
    return ChainInfo(
        torch.stack(acceptance).sum(0),
        torch.stack([report.diverged for report in reports]).sum(0),
        reports[-1].step_size,
        reports[-1].temperature,
        {name: torch.stack([e[name] * share for e, share in extras]).sum(0) for name in names},
    )


def _of_type(number: Number, x: Tensor) -> Number:
    return number.to(x.dtype) if isinstance(number, Tensor) and x.is_floating_point() else number
