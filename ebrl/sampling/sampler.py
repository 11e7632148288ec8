"""The driver: a kernel in a space, for so many steps, at a step size and a temperature.

    sampler = Sampler(MALA(), space=Box(-1.0, 1.0), steps=200, step_size=0.05, temperature=0.5)
    samples = sampler.sample(energy, x, generator=generator)

The sampler is given the energy, never owns it. While it runs, the energy's parameters are frozen
and its modules are in evaluation mode; both are as before afterwards, even after an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ebrl.energies import Energy, Number
from ebrl.energies.evaluating import evaluating
from ebrl.kernels.protocol import Kernel
from ebrl.sampling import compilation
from ebrl.sampling.adaptation import DualAveraging
from ebrl.sampling.paths import Stage
from ebrl.sampling.run import ChainInfo, Run, differentiable, joined
from ebrl.spaces import Box, Space, Unbounded

Gradient = Literal["none", "last", "unroll"]


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
        with evaluating(energy), torch.no_grad():
            run = Run(self.kernel, self.space, self._stage(energy, temperature), x.detach())
            places = [run.position() for _ in run.moves(generator, None)]
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
                return self._along(differentiable(stages), x, generator, adaptation)
            last = int(gradient == "last" and final.steps > 0)
            stages = [*stages[:-1], final._replace(steps=final.steps - last)]
            with torch.no_grad():
                samples = self._along(stages, x.detach(), generator, adaptation)
            if not last:
                return samples
            final = final._replace(steps=1, step_size=samples.info.step_size)
            end = self._along(differentiable([final]), samples.x, generator, None)
        before = sum(stage.steps for stage in stages)
        return Samples(end.x, end.energy, joined([samples.info, end.info], [before, 1]))

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
            run = Run(self.kernel, self.space, stage, x)
            if compiled:
                run.move_compiled(generator)
            else:
                for _ in run.moves(generator, adaptation):
                    pass
            x, energy = run.position()
            reports.append(run.report())
        return Samples(x, energy, joined(reports, [stage.steps for stage in stages]))

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


def _check_numbers(steps: int, step_size: Number, temperature: Number) -> None:
    # Tensors are not read: that would wait for the host.
    if steps < 0:
        raise ValueError(f"expected steps >= 0, got {steps}")
    if not isinstance(step_size, Tensor) and not step_size > 0:
        raise ValueError(f"expected a positive step_size, got {step_size}")
    if not isinstance(temperature, Tensor) and not temperature >= 0:
        raise ValueError(f"expected temperature >= 0, got {temperature}")
