"""The sampler: a kernel in a space, with a number of steps, a step size and a temperature.

    sampler = Sampler(MALA(), space=Box(-1.0, 1.0), steps=200, step_size=0.05, temperature=0.5)
    samples = sampler.sample(energy, x, generator=generator)

The sampler does not own the energy, and differentiates it with respect to x alone. While it runs,
the energy's modules are in evaluation mode; see `ebrl.energies.evaluating`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ebrl.energies import Energy, Number, check_energy
from ebrl.energies.evaluating import evaluating
from ebrl.kernels.checks import check_is_kernel, check_suits
from ebrl.kernels.protocol import Kernel, mapped
from ebrl.ranges import check_whole
from ebrl.sampling import compilation
from ebrl.sampling.adaptation import DualAveraging, check_adaptable_in
from ebrl.sampling.checks import check_sampler_numbers
from ebrl.sampling.paths import Stage
from ebrl.sampling.run import Count, Progress, Run, differentiable, joined
from ebrl.sampling.samples import Samples, Trace
from ebrl.sampling.starts import starting_points
from ebrl.sampling.warm_up import warm_up
from ebrl.spaces import Space, Unbounded

Gradient = Literal["none", "last", "unroll"]


class Sampler(nn.Module):
    """Moves chains by a kernel.

    A compiled sampler runs its steps as compiled programs. With ULA, MALA, HMC and NUTS, in all of
    their spaces, in warm-ups and along paths, it gives the chain of an eager sampler with the same
    generator, up to rounding. The first run of each shape, length and kind of energy compiles for
    5 to 80 s; numbers that an energy holds outside of tensors are compiled in. Under
    `torch.autocast` to bfloat16 the products of a network are rounded, and the chain follows that
    rounded energy. While the step size adapts, each step runs as a program of its own.
    `gradient="unroll"` is refused; the last step under `gradient="last"` runs eagerly.

    Args:
        space: Where x may be; all of R^d by default.
        steps: Kernel steps of a run.
        step_size: A number or `(*batch,)`.
        temperature: A number or `(*batch,)`.
        adaptation: Owns the step size: it starts at `step_size`, follows the acceptance, persists
            across calls and in `state_dict`, and does not change in calls with `adapt=False`.

    Raises:
        TypeError: If `kernel` is not a kernel, such as the class of one.
        ValueError: For numbers that are not positive, a kernel of other coordinates or of another
            space, an adaptation that cannot work, and a kernel that does not compile.
        RuntimeError: If there is no C++ compiler to compile with.
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
        check_is_kernel(kernel)
        space = space or Unbounded()
        check_suits(kernel, space)
        if compile:
            compilation.check_compilable(kernel)
        check_sampler_numbers(steps, step_size, temperature)
        self.kernel, self.space = kernel, space
        self.steps, self.temperature, self.compiled = steps, temperature, compile
        self.fixed_step_size = step_size
        self.adaptation = adaptation
        if adaptation is not None:
            check_adaptable_in(space)
            adaptation.start(step_size, kernel)

    def extra_repr(self) -> str:
        numbers = f"step_size={self.fixed_step_size}, temperature={self.temperature}"
        parts = f"{type(self.kernel).__name__}, {type(self.space).__name__}"
        return f"{parts}, steps={self.steps}, {numbers}"

    @property
    def step_size(self) -> Number:
        """The step size at the start of the next run."""
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
        warmup: int = 0,
        progress: Progress | None = None,
    ) -> Samples:
        """Run the chains and return their ends; x is never modified.

        Args:
            energy: An energy of x alone.
            x: Where the chains start, `(*batch, *event)`.
            generator: The random stream, on the device of x.
            n: Number of chains to start from reference draws of the space instead.
            temperature: The temperature of this run, in place of the sampler's own.
            adapt: Whether the adaptation, if there is one, follows this run.
            gradient: What the ends are differentiable with respect to: nothing, the energy's
                parameters in the last step alone, from a start without a graph ("last"), or x and
                the parameters in all steps ("unroll"). Discrete moves are not differentiable.
            warmup: Steps that fit the step size and the kernel's preconditioner to the energy
                first, by `warm_up`; the chains must share one energy. It reaches the acceptance
                that is the adaptation's target, if there is one. The sampler stays as it is.
            progress: Called with the number of steps made so far and in total, warm-up included.
                For a `tqdm` bar: `lambda made, total: bar.update(made - bar.n)`.

        Raises:
            TypeError: Unless `energy` is an `Energy`, x a `Tensor` and `generator` a
                `torch.Generator`.
            ValueError: For arguments that do not fit the energy, the space or each other, and if
                a chain starts where the energy is NaN or -inf, or its gradient NaN.
        """
        with torch.inference_mode(False):
            x = self._start(energy, x, n, generator)
            stage = self._stage(energy, self.steps, temperature, warmup)
            kernel, count = self.kernel, Count(progress, warmup + self.steps)
            if warmup > 0:
                kernel, stage, x = self._warmed_up(stage, x, warmup, generator, count)
            adaptation = self.adaptation if adapt and warmup == 0 else None
            return self._follow(kernel, [stage], x, generator, adaptation, gradient, count)

    def trace(
        self,
        energy: Energy,
        x: Tensor | None = None,
        *,
        draws: int,
        generator: torch.Generator,
        n: int | None = None,
        temperature: Number | None = None,
        warmup: int = 0,
        thin: int = 1,
        progress: Progress | None = None,
    ) -> Trace:
        """Run the chains and return draws along the way.

        The step size does not adapt, draws have no graph, and the sampler's number of steps plays
        no part. The other arguments, and errors, are those of `sample`.

        Args:
            draws: Number of draws of each chain.
            thin: Steps from one draw to the next.
        """
        check_whole(1, draws=draws, thin=thin)
        with torch.inference_mode(False):
            x = self._start(energy, x, n, generator)
            stage = self._stage(energy, draws * thin, temperature, warmup)
            kernel, count = self.kernel, Count(progress, warmup + stage.steps)
            if warmup > 0:
                kernel, stage, x = self._warmed_up(stage, x, warmup, generator, count)
            return self._draws(kernel, stage, x, generator, count, thin)

    def anneal(
        self,
        stages: Sequence[Stage],
        x: Tensor | None = None,
        *,
        generator: torch.Generator,
        n: int | None = None,
        gradient: Gradient = "none",
    ) -> Samples:
        """Run the chains along a path: each stage continues from the end of the one before it.

        The ends have the distribution of the last stage as far as its own steps reach it. Steps,
        step sizes and temperatures are those of the stages; no step size adapts. The other
        arguments, and errors, are those of `sample`.

        Returns:
            The ends of the chains, with the energy of the last stage and the report of all steps.
        """
        if not stages:
            raise ValueError("expected at least one stage to anneal along, got none")
        for stage in stages:
            check_energy(stage.energy)
            check_sampler_numbers(*stage[1:])
        with torch.inference_mode(False):
            x = self._start(stages[0].energy, x, n, generator)
            count = Count(None, sum(stage.steps for stage in stages))
            return self._follow(self.kernel, list(stages), x, generator, None, gradient, count)

    def _start(
        self, energy: Energy, x: Tensor | None, n: int | None, generator: torch.Generator
    ) -> Tensor:
        x = starting_points(self.space, energy, x, n, generator)
        if self.adaptation is not None and self.adaptation.anchor.device != x.device:
            self.adaptation.to(x.device)
        return x

    def _stage(self, energy: Energy, steps: int, temperature: Number | None, warmup: int) -> Stage:
        temperature = self.temperature if temperature is None else temperature
        check_sampler_numbers(steps, self.step_size, temperature)
        check_whole(0, warmup=warmup)
        return Stage(energy, steps, self.step_size, temperature)

    def _warmed_up(
        self, stage: Stage, x: Tensor, steps: int, generator: torch.Generator, count: Count
    ) -> tuple[Kernel, Stage, Tensor]:
        """Return the kernel, the stage with its step size, and the chains after a warm-up."""
        kernel, step_size, x = warm_up(
            self.kernel,
            stage.energy,
            x,
            steps,
            generator=generator,
            space=self.space,
            temperature=stage.temperature,
            acceptance=None if self.adaptation is None else self.adaptation.target,
            compile=self.compiled,
            progress=lambda made, _: count.show(made),
        )
        return kernel, stage._replace(step_size=step_size), x

    def _draws(
        self,
        kernel: Kernel,
        stage: Stage,
        x: Tensor,
        generator: torch.Generator,
        count: Count,
        thin: int,
    ) -> Trace:
        """Run the chains and keep every `thin`-th position."""
        xs, energies, reports, done = [], [], [], 0
        with evaluating(stage.energy), torch.no_grad():
            run = Run(kernel, self.space, stage, x.detach(), compiled=self.compiled, count=count)
            for walk in run.walks(generator):
                kept = slice(thin - 1 - done % thin, None, thin)
                xs.append(walk.x[kept])
                energies.append(walk.energy[kept])
                reports.append(walk.info)
                done += len(walk.x)
        info = mapped(lambda *fields: torch.cat(fields), *reports)
        dtype = energies[0].dtype
        each = mapped(lambda field: field.unflatten(0, (-1, thin)).to(dtype).mean(1), info)
        each = each._replace(diverged=info.diverged.unflatten(0, (-1, thin)).any(1))
        return Trace(torch.cat(xs), torch.cat(energies), run.report(), each)

    def _check_gradient(self, gradient: Gradient) -> None:
        """Raise `ValueError` for a gradient that is unknown, or that the steps do not have."""
        if gradient not in get_args(Gradient):
            raise ValueError(f"expected gradient in {get_args(Gradient)}, got {gradient!r}")
        if gradient != "none" and self.space.coordinates in ("one-hot", "integer"):
            raise ValueError(
                f"expected gradient='none' in {type(self.space).__name__}, whose discrete x has no "
                f"derivative, got {gradient!r}"
            )
        if self.compiled and gradient == "unroll":
            raise ValueError('gradient="unroll" differentiates an eager chain: leave compile=False')

    def _follow(
        self,
        kernel: Kernel,
        stages: list[Stage],
        x: Tensor,
        generator: torch.Generator,
        adaptation: DualAveraging | None,
        gradient: Gradient,
        count: Count,
    ) -> Samples:
        """Run the chains along the stages, with the graph that `gradient` asks for."""
        self._check_gradient(gradient)

        def along(stages: list[Stage], x: Tensor, adaptation: DualAveraging | None) -> Samples:
            reports = []
            for stage in stages:
                compiled = self.compiled and not torch.is_grad_enabled()
                run = Run(kernel, self.space, stage, x, compiled=compiled, count=count)
                run.to_end(generator, adaptation)
                x, energy = run.position()
                reports.append(run.report())
            return Samples(x, energy, joined(reports, [stage.steps for stage in stages]))

        with evaluating(*(stage.energy for stage in stages)):
            if gradient == "unroll":
                return along(differentiable(stages), x, adaptation)
            final = stages[-1]
            last = int(gradient == "last" and final.steps > 0)
            stages = [*stages[:-1], final._replace(steps=final.steps - last)]
            with torch.no_grad():
                samples = along(stages, x.detach().clone(), adaptation)
            if not last:
                return samples
            final = final._replace(steps=1, step_size=samples.info.step_size)
            end = along(differentiable([final]), samples.x, None)
        before = sum(stage.steps for stage in stages)
        return Samples(end.x, end.energy, joined([samples.info, end.info], [before, 1]))
