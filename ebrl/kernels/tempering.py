"""Parallel tempering: hot replicas cross between modes, and swaps hand positions to colder ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebrl.constants import Constant
from ebrl.energies import Energy, Number, over_event
from ebrl.kernels.checks import check_positive_temperature, check_uncoupled
from ebrl.kernels.draws import take_along, uniform_like
from ebrl.kernels.known import known
from ebrl.kernels.protocol import HasPosition, Info, Kernel, metropolis_test
from ebrl.spaces import Space


class TemperedState(NamedTuple):
    """The position of the coldest replicas, and the states of all."""

    x: Tensor  # (*batch, *event)
    energy: Tensor  # (*batch,)
    replicas: Any  # the kernel's state with the batch (*batch, replicas), coldest first
    swaps: Tensor  # (*batch, replicas - 1), acceptance of the last swaps between neighbours

    @property
    def gradient(self) -> Tensor | None:
        """The gradient at x, `(*batch, *event)`, if the kernel's state has it."""
        known = self.replicas.gradient
        return None if known is None else known.select(self.energy.ndim, 0)


class TemperedNoise(NamedTuple):
    """The noise of the replicas' moves and of their swaps."""

    moves: Any
    uniform: Tensor  # (*batch, replicas - 1)


class Rungs(NamedTuple):
    """Replicas with the fields of any kernel's state."""

    x: Tensor  # (*batch, replicas, *event)
    energy: Tensor  # (*batch, replicas)
    gradient: Tensor | None


class Tempered(Kernel[TemperedState, TemperedNoise]):
    """Parallel tempering (Swendsen and Wang 1986; Geyer 1991): exact if its kernel is.

    `temperatures` are multiples of the sampler's own: they rise from 1, best geometrically, up to a
    temperature that connects the modes. Each step moves every replica by `kernel` at its own
    temperature, all in one batch, and then proposes swaps of neighbours: first the even pairs, then
    the odd. Velocities are drawn anew at each step. Swap acceptances, in the state and the report,
    should exceed .2.

    All replicas start at the position of the chain, and the hot ones take many steps to reach their
    own distribution. Until then the cold chain is biased, even from exact draws: 60 runs of 5 steps
    gave a mode of weight .8 a share of .824. Contrastive divergence, `Annealing`, `Cycle` and
    `Blocks`, which start a kernel again and again, refuse this one. Reports are those of the
    coldest replica, but a divergence of any replica counts.

    Raises:
        ValueError: For temperatures that do not rise from 1, a `Tempered` kernel, an energy or a
            kernel (SVGD) that couples chains, and a sampler at temperature 0.
    """

    stateful = True

    def __init__(self, kernel: Kernel, temperatures: Sequence[float] | Tensor):
        ladder = torch.as_tensor(temperatures, dtype=torch.float64)
        if ladder.ndim != 1 or len(ladder) < 2 or ladder[0] != 1 or not (ladder.diff() > 0).all():
            raise ValueError(
                "expected temperatures that rise from 1, multiples of the sampler's, "
                f"got {ladder.tolist()}"
            )
        if isinstance(kernel, Tempered):
            raise ValueError("expected one ladder of temperatures, got one in another: merge them")
        if kernel.couples_chains:
            raise ValueError(
                "expected a kernel that moves each replica alone, got one whose chains move "
                f"together, {type(kernel).__name__}: temper MALA or HMC"
            )
        self.kernel, self.temperatures = kernel, Constant(ladder)
        self.best_acceptance, self.gradients = kernel.best_acceptance, kernel.gradients
        self.coordinates = kernel.coordinates

    def check_space(self, space: Space) -> None:
        self.kernel.check_space(space)

    def start(self, energy: Energy, x: Tensor) -> TemperedState:
        check_uncoupled(energy)
        axis = x.ndim - energy.event_ndim
        repeats = (*(1,) * axis, len(self.temperatures.tensor), *(1,) * energy.event_ndim)
        replicas = self.kernel.start(energy, x.unsqueeze(axis).repeat(repeats))
        return _coldest(replicas, torch.zeros_like(replicas.energy[..., 1:]))

    def draw(self, state: TemperedState, generator: torch.Generator) -> TemperedNoise:
        moves = self.kernel.draw(state.replicas, generator)
        return TemperedNoise(moves, uniform_like(state.swaps, generator))

    def step(
        self,
        energy: Energy,
        state: TemperedState,
        noise: TemperedNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[TemperedState, Info]:
        check_positive_temperature(temperature)
        shape = state.replicas.energy.shape
        ladder = self.temperatures.to(state.energy) * over_event(temperature, 1)
        ladder = ladder.expand(shape)  # (*batch, replicas)
        if isinstance(step_size, Tensor) and step_size.ndim > 0:
            step_size = step_size.unsqueeze(-1).expand(shape)
        replicas, info = self.kernel.step(energy, state.replicas, noise.moves, step_size, ladder)
        swapped, swaps = exchanged(replicas, ladder, noise.uniform)
        replicas = self.kernel.start(known(energy, swapped), swapped.x)
        extra = {name: of_all[..., 0] for name, of_all in info.extra.items()}
        extra["swaps"] = swaps
        report = Info(info.acceptance[..., 0], info.diverged.any(-1), extra)
        return _coldest(replicas, swaps), report


def exchanged(replicas: HasPosition, temperatures: Tensor, uniform: Tensor) -> tuple[Rungs, Tensor]:
    """Swap neighbours with probability `min(1, exp((1/T - 1/T')(E - E')))`.

    `temperatures` is `(*batch, replicas)`, and `uniform` and the acceptances that are returned with
    the replicas are `(*batch, replicas - 1)`.
    """
    colder = (1 / temperatures).diff().neg()  # (*batch, replicas - 1)
    rungs = torch.arange(temperatures.shape[-1], device=temperatures.device)
    energy, swaps = replicas.energy, torch.zeros_like(uniform)
    order = rungs.expand(temperatures.shape)
    for parity in (0, 1):  # pairs of one parity share no replica
        waits = (rungs[:-1] % 2 != parity).expand(uniform.shape)
        acceptance, accepted = metropolis_test(colder * energy.diff().neg(), waits, uniform)
        swaps = swaps + acceptance
        swapped = accepted.long()
        partner = rungs + torch.nn.functional.pad(swapped, (0, 1))
        partner = partner - torch.nn.functional.pad(swapped, (1, 0))
        energy, order = energy.gather(-1, partner), order.gather(-1, partner)
    axis, gradient = order.ndim - 1, replicas.gradient
    if gradient is not None:
        gradient = take_along(gradient, order, axis)
    return Rungs(take_along(replicas.x, order, axis), energy, gradient), swaps


def _coldest(replicas: Any, swaps: Tensor) -> TemperedState:
    axis = replicas.energy.ndim - 1
    return TemperedState(replicas.x.select(axis, 0), replicas.energy[..., 0], replicas, swaps)
