"""The driver: a kernel in a space, for so many steps, at a step size and a temperature.

    sampler = Sampler(MALA(), space=Box(-1.0, 1.0), steps=200, step_size=0.05, temperature=0.5)
    samples = sampler.sample(energy, x, generator=generator)

The sampler is given the energy, never owns it. While it runs, the energy's parameters are frozen
and its modules are in evaluation mode; both are as before afterwards, even after an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ebrl.energies import Energy, Number, check_one_number_each
from ebrl.energies.freezing import evaluating, frozen
from ebrl.kernels.importance import IteratedSIR, Proposal
from ebrl.kernels.langevin import ULA
from ebrl.kernels.protocol import Kernel, check_gradient_shape
from ebrl.sampling import compilation
from ebrl.sampling.adaptation import DualAveraging
from ebrl.sampling.paths import Stage
from ebrl.spaces import Box, FreeEnergy, Space, Unbounded

Gradient = Literal["none", "last", "unroll"]


class ChainInfo(NamedTuple):
    """What a run of the chains reports, kept on the device."""

    acceptance: Tensor  # (*batch,), mean acceptance probability over the steps
    diverged: Tensor  # (*batch,), proposals rejected as NaN, -inf or infinitely far
    step_size: Tensor  # the step size after the run, a scalar or (*batch,)


class Samples(NamedTuple):
    """Where the chains ended, the energy there, and what the run reports."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    info: ChainInfo


class Sampler(nn.Module):
    """Moves chains by a kernel.

    `step_size` and `temperature` are numbers or tensors `(*batch,)`. With an `adaptation` the step
    size is its own: it starts at `step_size`, follows the acceptance, persists across calls and in
    `state_dict`, and stands still in calls with `adapt=False`.

    With `compile` the steps run as compiled programs: ULA, MALA and HMC, in every space and along
    paths, give the chain of an eager sampler with the same generator, up to rounding. The first run
    of each shape, length and kind of energy compiles for 5 to 80 s; numbers that an energy holds
    outside of tensors are compiled in. Under `torch.autocast` to bfloat16 a network's products are
    rounded: faster where they are large, and the chain is one of that energy. Adapting and
    unrolling are refused; a `trace` and the step that `gradient="last"` differentiates are eager.

    Raises `ValueError` for steps or step sizes that are not positive, for negative temperatures,
    for an adaptation where walls project and for a kernel that does not compile, `RuntimeError`
    where there is no C++ compiler.
    """

    def __init__(
        self,
        kernel: Kernel,
        space: Space | None = None,
        *,
        steps: int,
        step_size: Number = 0.1,
        temperature: Number = 1.0,
        adaptation: DualAveraging | None = None,
        compile: bool = False,
    ):
        super().__init__()
        if compile:
            compilation.check_compilable(kernel)
        least = [torch.as_tensor(value).min().item() for value in (step_size, temperature)]
        _check_numbers(steps, *least)
        self.kernel, self.space = kernel, space or Unbounded()
        self.steps, self.temperature, self.compiled = steps, temperature, compile
        self.fixed_step_size = step_size
        self.unguarded = True  # runs of ULA, until a chain meets a wall or diverges
        self.adaptation = adaptation
        if adaptation is not None:
            if isinstance(space, Box) and space.walls == "project":
                raise ValueError(
                    "expected no adaptation with walls='project', whose spring keeps the step size "
                    "that it began with: leave it out, or choose other walls"
                )
            adaptation.start(step_size)

    @property
    def step_size(self) -> Number:
        """The step size that the next run starts from."""
        return self.fixed_step_size if self.adaptation is None else self.adaptation.step_size

    def sample(
        self,
        energy: Energy,
        x: Tensor | None = None,
        *,
        generator: torch.Generator,
        n: int | None = None,
        temperature: Number | None = None,
        adapt: bool = True,
        gradient: Gradient = "none",
    ) -> Samples:
        """Run the chains from `x: (*batch, *event)`, or from `n` reference draws of the space.

        `gradient` says what of the run can be differentiated: nothing, the last step, or all of
        it (with respect to the energy's parameters and `x`; these are then not frozen). `x` is
        never modified. Raises `ValueError` when the energy gives other than one number for each
        thing or is one of another shape, when the generator or the energy is on another device than
        x, when x are integers, have too few axes or lie outside the space, when neither or both of
        `x` and `n` are given, for an unknown `gradient` and for a negative temperature.
        """
        x = self._starting_points(energy, x, n, generator)
        stages = [self._stage(energy, temperature)]
        return self._follow(stages, x, generator, self.adaptation if adapt else None, gradient)

    def anneal(
        self,
        stages: Sequence[Stage],
        x: Tensor | None = None,
        *,
        generator: torch.Generator,
        n: int | None = None,
        gradient: Gradient = "none",
    ) -> Samples:
        """Run the chains along a path: each stage goes on where the one before it ended.

        The energy returned is the last stage's, the report is of all steps, and no step size
        adapts. The end has the last stage's law as far as its own steps bring it there. Raises
        `ValueError` for a path without stages and as `sample` does.
        """
        if not stages:
            raise ValueError("expected at least one stage to anneal along, got none")
        for stage in stages:
            _check_numbers(*stage[1:])
        x = self._starting_points(stages[0].energy, x, n, generator)
        return self._follow(list(stages), x, generator, None, gradient)

    def trace(
        self,
        energy: Energy,
        x: Tensor | None = None,
        *,
        generator: torch.Generator,
        n: int | None = None,
        temperature: Number | None = None,
    ) -> Samples:
        """Run as `sample` without adaptation or gradients, and return what every step led to.

        `x` is `(steps, *batch, *event)` and `energy` `(steps, *batch)`, for diagnostics of the
        whole chain; the report is that of `sample`. Raises `ValueError` as `sample` does.
        """
        if self.steps == 0:
            raise ValueError("expected a sampler with at least one step to trace, got steps=0")
        x = self._starting_points(energy, x, n, generator)
        with evaluating(energy), frozen(energy), torch.no_grad():
            run = _Run(self.kernel, self.space, self._stage(energy, temperature), x.detach())
            places = [run.place() for _ in run.moves(generator, None)]
        xs, energies = zip(*places, strict=True)
        return Samples(torch.stack(xs), torch.stack(energies), run.report())

    def _stage(self, energy: Energy, temperature: Number | None) -> Stage:
        chosen = self.temperature if temperature is None else temperature
        _check_numbers(self.steps, self.step_size, chosen)
        return Stage(energy, self.steps, self.step_size, chosen)

    def _follow(
        self,
        stages: list[Stage],
        x: Tensor,
        generator: torch.Generator,
        adaptation: DualAveraging | None,
        gradient: Gradient,
    ) -> Samples:
        """Run the chains along the stages, with a graph where `gradient` asks for one."""
        if gradient not in get_args(Gradient):
            raise ValueError(f"expected gradient in {get_args(Gradient)}, got {gradient!r}")
        if self.compiled:
            unrolls = gradient == "unroll"
            compilation.check_static(adapts=adaptation is not None, unrolls=unrolls)
        energies, final = [stage.energy for stage in stages], stages[-1]
        with evaluating(*energies):
            if gradient == "unroll":
                return self._along(_differentiable(stages), x, generator, adaptation)
            last = int(gradient == "last" and final.steps > 0)
            stages = [*stages[:-1], final._replace(steps=final.steps - last)]
            with frozen(*energies), torch.no_grad():
                samples = self._along(stages, x.detach(), generator, adaptation)
            if not last:
                return samples
            final = final._replace(steps=1, step_size=samples.info.step_size)
            end = self._along(_differentiable([final]), samples.x, generator, None)
        before = sum(stage.steps for stage in stages)
        return Samples(end.x, end.energy, _joined([samples.info, end.info], [before, 1]))

    def _along(
        self,
        stages: list[Stage],
        x: Tensor,
        generator: torch.Generator,
        adaptation: DualAveraging | None,
    ) -> Samples:
        reports = []
        for stage in stages:
            compiled = self.compiled and not torch.is_grad_enabled()
            if compiled:
                stage = compilation.with_tensors(stage, x)
            run = _Run(self.kernel, self.space, stage, x)
            if compiled:
                run.move_compiled(generator)
            elif adaptation is not None or not self._leaps(run, generator):
                for _ in run.moves(generator, adaptation):
                    pass
            x, energy = run.place()
            reports.append(run.report())
        return Samples(x, energy, _joined(reports, [stage.steps for stage in stages]))

    def _leaps(self, run: _Run, generator: torch.Generator) -> bool:
        """Whether the run did without guards; after one that met walls none tries again."""
        if not self.unguarded or run.state.x.device.type != "cpu" or torch.is_grad_enabled():
            return False  # to ask whether it did would wait for an accelerator
        self.unguarded = type(self.kernel) is ULA and run.leap(self.kernel, generator)
        return self.unguarded

    def _starting_points(
        self, energy: Energy, x: Tensor | None, n: int | None, generator: torch.Generator
    ) -> Tensor:
        if (x is None) == (n is None):
            raise ValueError("expected either starting points x or their number n")
        if n is not None:
            x = self.space.reference((n,), generator)
            if x.ndim - 1 != energy.event_ndim:
                raise ValueError(
                    f"expected a space of points with {energy.event_ndim} axes, as the energy "
                    f"takes, got points of shape {tuple(x.shape[1:])}"
                )
        assert x is not None
        numbers = "integers" if self.space.integers else "floating point"
        if x.is_floating_point() == self.space.integers or x.ndim < energy.event_ndim:
            raise ValueError(
                f"expected x of {numbers} and shape (*batch, *event) with {energy.event_ndim} "
                f"event axes, got {x.dtype} of shape {tuple(x.shape)}"
            )
        if generator.device.type != x.device.type:
            raise ValueError(
                f"expected a generator on {x.device}, where x is, got one on {generator.device}: "
                f"torch.Generator({str(x.device)!r})"
            )
        weight = next(chain(energy.parameters(), energy.buffers()), x)
        if weight.device.type != x.device.type:
            raise ValueError(
                f"expected x and generator on {weight.device}, where the energy is, got them on "
                f"{x.device}"
            )
        bounded = not isinstance(self.space, Unbounded)
        # Elsewhere reading would wait for the device.
        if bounded and x.device.type == "cpu" and not self.space.contains(x).all():
            raise ValueError(
                f"expected starting points in the {type(self.space).__name__}, got some outside: "
                "n=... draws them there"
            )
        if self.adaptation is not None:
            self.adaptation.go_to(x.device)
        return x


class _Run:
    """The chains while they move along one stage."""

    def __init__(self, kernel: Kernel, space: Space, stage: Stage, x: Tensor):
        self.kernel, self.space = kernel, space
        energy, self.steps, *numbers = stage
        self.step_size, self.temperature = (_of_type(each, x) for each in numbers)
        self.energy = space.free(energy, self.temperature, self.step_size)
        self.state = kernel.start(self.energy, space.to_free(x))
        check_one_number_each(self.state.energy, self.state.x, self.energy.event_ndim)
        check_gradient_shape(self.state)
        self.acceptance = torch.zeros_like(self.state.energy.detach())
        self.diverged = torch.zeros_like(self.acceptance)

    def moves(self, generator: torch.Generator, adaptation: DualAveraging | None) -> Iterator[None]:
        """Move the chains one step each time that the next is asked for."""
        for _ in range(self.steps):
            noise = self.kernel.draw(self.state, generator)
            self.state, info = self.kernel.step(
                self.energy, self.state, noise, self.step_size, self.temperature
            )
            self.acceptance += info.acceptance.detach()
            self.diverged += info.diverged
            if adaptation is not None:
                self.step_size = _of_type(adaptation.update(info.acceptance), self.state.x)
            yield

    def leap(self, kernel: ULA, generator: torch.Generator) -> bool:
        numbers = (self.steps, self.step_size, self.temperature)
        state = kernel.leap(self.energy, self.state, *numbers, generator)
        if state is not None:
            self.state = state
            self.acceptance += self.steps
        return state is not None

    def move_compiled(self, generator: torch.Generator) -> None:
        stage = Stage(self.energy, self.steps, self.step_size, self.temperature)
        self.state, self.acceptance, self.diverged = compilation.move(
            self.kernel, self.state, stage, generator
        )

    def place(self) -> tuple[Tensor, Tensor]:
        """Return where the chains are in the space and the user's energy there."""
        value = self.state.energy
        if isinstance(self.energy, FreeEnergy):
            value = value - self.energy.added(self.state.x)
        return self.space.from_free(self.state.x), value

    def report(self) -> ChainInfo:
        acceptance = self.acceptance / max(self.steps, 1)
        step_size = torch.as_tensor(self.step_size, dtype=acceptance.dtype).clone()
        return ChainInfo(acceptance, self.diverged, step_size)


def _of_type(number: Number, x: Tensor) -> Number:
    return number.to(x.dtype) if isinstance(number, Tensor) and x.is_floating_point() else number


def _joined(reports: Sequence[ChainInfo], steps: Sequence[int]) -> ChainInfo:
    """Return the report of all steps from those of runs of so many steps each."""
    if len(reports) == 1:
        return reports[0]
    total = max(sum(steps), 1)
    shares = [one.acceptance * (part / total) for one, part in zip(reports, steps, strict=True)]
    lost = torch.stack([one.diverged for one in reports]).sum(0)
    return ChainInfo(torch.stack(shares).sum(0), lost, reports[-1].step_size)


def importance_resampling(
    energy: Energy,
    proposal: Proposal,
    batch: tuple[int, ...],
    *,
    generator: torch.Generator,
    candidates: int = 16,
    temperature: Number = 1.0,
    space: Space | None = None,
) -> Samples:
    """Draw starting points `(*batch, *event)` by sampling importance resampling (Rubin 1987).

    Each is one of `candidates` draws of the proposal, picked with probability ∝ `exp(-E/T) / q`.
    Their law goes from the proposal's, for one candidate, to the target's, for infinitely many. The
    bias is O(1/candidates): the Kullback-Leibler divergence of the target from it is at most the
    relative variance of the weights over `candidates`. Raises `ValueError` for fewer than two and
    as `Sampler.sample` does.
    """
    if candidates < 2:
        raise ValueError(f"expected at least two candidates to pick from, got {candidates}")
    # Iterated resampling from a draw of the proposal keeps the draw with the candidates' right.
    kernel = IteratedSIR(proposal, candidates - 1)
    sampler = Sampler(kernel, space, steps=1, temperature=temperature)
    x = sampler.space.from_free(proposal.sample(batch, generator))
    return sampler.sample(energy, x, generator=generator)


class _Differentiable(Energy):
    """An energy whose gradient can itself be differentiated."""

    def __init__(self, energy: Energy):
        super().__init__()
        self.energy, self.event_ndim = energy, energy.event_ndim
        self.coupled_axis = energy.coupled_axis

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            value = self.energy(x)
            (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return value, gradient


def _check_numbers(steps: int, step_size: Number, temperature: Number) -> None:
    # Tensors are not read: that would wait for the host.
    if steps < 0:
        raise ValueError(f"expected steps >= 0, got {steps}")
    if not isinstance(step_size, Tensor) and not step_size > 0:
        raise ValueError(f"expected a positive step_size, got {step_size}")
    if not isinstance(temperature, Tensor) and not temperature >= 0:
        raise ValueError(f"expected temperature >= 0, got {temperature}")


def _differentiable(stages: list[Stage]) -> list[Stage]:
    return [stage._replace(energy=_Differentiable(stage.energy)) for stage in stages]
