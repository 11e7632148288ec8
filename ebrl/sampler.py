"""The driver: a kernel in a space, for so many steps, at a step size and a temperature.

    sampler = Sampler(MALA(), space=Box(-1.0, 1.0), steps=200, step_size=0.05, temperature=0.5)
    samples = sampler.sample(energy, x, generator=generator)

The sampler is given the energy, never owns it. While it runs, the energy's parameters are frozen
and its modules are in evaluation mode; both are as before afterwards, even after an exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ebrl.adaptation import DualAveraging
from ebrl.energies import Energy, Number, expect_one_number_each
from ebrl.kernels.protocol import Kernel
from ebrl.spaces import FreeEnergy, Space, Unbounded

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
    `state_dict`, and stands still in calls with `adapt=False`. Raises `ValueError` for steps or
    step sizes that are not positive and for negative temperatures.
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
    ):
        super().__init__()
        if steps < 0:
            raise ValueError(f"expected steps >= 0, got {steps}")
        if not torch.as_tensor(step_size > 0).all():
            raise ValueError(f"expected a positive step_size, got {step_size}")
        _expect_temperature(temperature)
        self.kernel, self.space = kernel, space or Unbounded()
        self.steps, self.temperature = steps, temperature
        self.fixed_step_size = step_size
        self.adaptation = adaptation
        if adaptation is not None:
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
        thing, when the generator is on another device than x, when neither or both of `x` and `n`
        are given, for an unknown `gradient` and for a negative temperature.
        """
        if gradient not in get_args(Gradient):
            raise ValueError(f"expected gradient in {get_args(Gradient)}, got {gradient!r}")
        if temperature is None:
            temperature = self.temperature
        elif not isinstance(temperature, Tensor):  # a tensor is not read: that waits for the host
            _expect_temperature(temperature)
        x = self._starting_points(x, n, generator)
        if generator.device.type != x.device.type:
            raise ValueError(
                f"expected a generator on {x.device}, where x is, got one on {generator.device}: "
                f"torch.Generator({str(x.device)!r})"
            )
        adaptation = self.adaptation if adapt else None
        run = _Run(self, energy, temperature, generator)
        differentiable = _Run(self, _Differentiable(energy), temperature, generator)
        with evaluating(energy):
            if gradient == "unroll":
                return differentiable.samples(x, self.step_size, self.steps, adaptation)
            last = int(gradient == "last" and self.steps > 0)
            with frozen(energy), torch.no_grad():
                samples = run.samples(x.detach(), self.step_size, self.steps - last, adaptation)
            if not last:
                return samples
            end = differentiable.samples(samples.x, samples.info.step_size, 1, None)
        return Samples(end.x, end.energy, _joined(samples.info, end.info, self.steps))

    def _starting_points(
        self, x: Tensor | None, n: int | None, generator: torch.Generator
    ) -> Tensor:
        if x is not None and n is None:
            return x
        if n is not None and x is None:
            return self.space.reference((n,), generator)
        raise ValueError("expected either starting points x or their number n")


class _Run:
    """One call of a sampler: what stays fixed while the chains move."""

    def __init__(
        self, sampler: Sampler, energy: Energy, temperature: Number, generator: torch.Generator
    ):
        self.kernel, self.space = sampler.kernel, sampler.space
        self.energy, self.temperature, self.generator = energy, temperature, generator

    def samples(
        self, x: Tensor, step_size: Number, steps: int, adaptation: DualAveraging | None
    ) -> Samples:
        """Return where the chains end that start at x."""
        energy = self.space.free(self.energy, self.temperature, step_size)
        state = self.kernel.start(energy, self.space.to_free(x))
        expect_one_number_each(state.energy, state.x, energy.event_ndim)
        acceptance = torch.zeros_like(state.energy.detach())
        diverged = torch.zeros_like(acceptance)
        for _ in range(steps):
            noise = self.kernel.draw(state, self.generator)
            state, info = self.kernel.step(energy, state, noise, step_size, self.temperature)
            acceptance += info.acceptance.detach()
            diverged += info.diverged
            if adaptation is not None:
                step_size = adaptation.update(info.acceptance)
        value = state.energy
        if isinstance(energy, FreeEnergy):
            value = value - energy.added(state.x)
        acceptance = acceptance / max(steps, 1)
        report = ChainInfo(acceptance, diverged, torch.as_tensor(step_size).clone())
        return Samples(self.space.from_free(state.x), value, report)


def _joined(before: ChainInfo, last: ChainInfo, steps: int) -> ChainInfo:
    """Return the report of all steps from those of all but the last and of the last."""
    acceptance = torch.lerp(before.acceptance, last.acceptance, 1 / steps)
    return ChainInfo(acceptance, before.diverged + last.diverged, last.step_size)


class _Differentiable(Energy):
    """An energy whose gradient can itself be differentiated."""

    def __init__(self, energy: Energy):
        super().__init__()
        self.energy, self.event_ndim = energy, energy.event_ndim

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            value = self.energy(x)
            (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return value, gradient


@contextmanager
def evaluating(energy: nn.Module) -> Iterator[None]:
    """Hold modules in evaluation mode; restore the mode of each."""
    training = [module for module in energy.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(energy: nn.Module) -> Iterator[None]:
    """Hold parameters without gradient; restore those that had one."""
    trainable = [parameter for parameter in energy.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _expect_temperature(temperature: Number) -> None:
    if not torch.as_tensor(temperature >= 0).all():
        raise ValueError(f"expected temperature >= 0, got {temperature}")
