"""Annealed importance sampling (Neal 2001), from a known distribution to another and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ebrl.energies import Energy, check_energy, in_dtype_of
from ebrl.energies.evaluating import evaluating
from ebrl.generators import check_generator
from ebrl.kernels import HMC, GibbsWithGradients, Kernel, Proposal
from ebrl.kernels.checks import check_not_broadcast, check_restartable, check_suits
from ebrl.ranges import check_at_least, check_positive
from ebrl.sampling import DualAveraging, Sampler, Samples
from ebrl.spaces import Space, Unbounded


class Annealed(NamedTuple):
    """Chains at the end of a path, with their log weights."""

    x: Tensor  # (runs, chains, *event)
    log_weights: Tensor  # (runs, chains), float64
    acceptance: Tensor  # (rungs - 2,), of the rungs between, mean over the chains


class Annealing:
    """The path `(1 - β) E_reference + β E/T` from a reference distribution to `exp(-E/T)`.

    The mean of the weights is Z on the way up, and 1/Z on the way down from samples of the target.
    Call `fit_step_sizes` first, or all rungs use `step_size`. The weights are unbiased only if the
    step sizes do not depend on the weighted chains themselves. The arguments are those of
    `estimators.log_normalizer`.
    """

    def __init__(
        self,
        energy: Energy,
        *,
        space: Space | None = None,
        reference: Proposal | None = None,
        kernel: Kernel | None = None,
        temperature: float = 1.0,
        ladder: int | Sequence[float] = 100,
        steps: int = 1,
        step_size: float = 0.1,
    ):
        check_positive(temperature=temperature)
        check_energy(energy)
        self.energy, self.temperature = energy, temperature
        self.space = space or Unbounded()
        self.proposal = reference or _SpaceReference(self.space)
        self.reference = _ProposalEnergy(self.proposal, energy.event_ndim)
        self.kernel = kernel or _kernel_for(self.space)
        check_suits(self.kernel, self.space)
        check_restartable(self.kernel, "at each rung")
        self.ladder = sigmoid_ladder(ladder) if isinstance(ladder, int) else list(ladder)
        ends = (self.ladder[0], self.ladder[-1]) if len(self.ladder) > 1 else None
        if ends != (0, 1) or sorted(self.ladder) != self.ladder:
            raise ValueError(f"expected a ladder from 0 up to 1, got {ladder}")
        self.steps = steps
        self.step_sizes = [step_size] * len(self.ladder)

    def up(self, batch: tuple[int, int], generator: torch.Generator) -> Annealed:
        """Anneal draws of the reference, `batch = (runs, chains)` of them, to the target."""
        return self._run(self._start(batch, generator), range(len(self.ladder)), generator)

    def down(self, x: Tensor, generator: torch.Generator) -> Annealed:
        """Anneal samples of the target, `(runs, chains, *event)`, to the reference."""
        return self._run(x, range(len(self.ladder) - 1, -1, -1), generator)

    def long_run(self, up: Annealed, steps: int, generator: torch.Generator) -> Tensor:
        """Return samples of the target: chains resampled by weight, then moved `steps` steps."""
        shares = torch.softmax(up.log_weights, -1)
        chosen = torch.multinomial(shares, shares.shape[1], replacement=True, generator=generator)
        x = torch.stack([run[index] for run, index in zip(up.x, chosen, strict=True)])
        return self._move(x, -1, steps, generator).x

    def fit_step_sizes(self, chains: int, generator: torch.Generator) -> None:
        """Adapt the step size of each rung to an acceptance of .65, on chains of its own."""
        if self.kernel.best_acceptance is None:  # a kernel without a step size, such as Gibbs
            return
        adaptation = DualAveraging(0.65, gain=5.0, memory=20)
        size = self.step_sizes[0]
        sampler = Sampler(
            self.kernel, self.space, steps=self.steps, step_size=size, adaptation=adaptation
        )
        x = self._start((1, chains), generator)
        last = len(self.ladder) - 1
        # Step sizes lag behind the rungs. On the way down they are then too small, not too large.
        for rung in (*range(1, last), *[last] * 20, *range(last, 0, -1)):
            x = sampler.sample(self._energy(rung), x, generator=generator).x
            self.step_sizes[rung] = float(sampler.step_size)

    def _run(self, x: Tensor, rungs: range, generator: torch.Generator) -> Annealed:
        batch = x.shape[: x.ndim - self.energy.event_ndim]
        log_weights = x.new_zeros(batch, dtype=torch.float64)
        acceptance = []
        for before, rung in pairwise(rungs):
            with evaluating(self.energy), torch.no_grad():
                tilt = (self.reference(x) - self.energy(x) / self.temperature).double()
            log_weights += (self.ladder[rung] - self.ladder[before]) * tilt
            if rung != rungs[-1]:
                moved = self._move(x, rung, self.steps, generator)
                x = moved.x
                acceptance.append(moved.info.acceptance.mean())
        return Annealed(x, log_weights, torch.stack(acceptance) if acceptance else x.new_empty(0))

    def _start(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        check_generator(generator)
        x = self.proposal.sample(batch, generator)
        x = in_dtype_of(self.energy, x)
        if self.space.coordinates == "real":
            check_not_broadcast(self.energy, x)
        return x

    def _move(self, x: Tensor, rung: int, steps: int, generator: torch.Generator) -> Samples:
        sampler = Sampler(self.kernel, self.space, steps=steps, step_size=self.step_sizes[rung])
        return sampler.sample(self._energy(rung), x, generator=generator)

    def _energy(self, rung: int) -> Energy:
        share = self.ladder[rung]
        if share == 1:  # 0 times an infinite energy would be NaN
            return self.energy / self.temperature
        return (1 - share) * self.reference + (share / self.temperature) * self.energy


def sigmoid_ladder(rungs: int) -> list[float]:
    """Return rungs from 0 to 1, dense at both ends (Grosse et al. 2015, section 5.1)."""
    check_at_least(2, rungs=rungs)
    logistic = torch.sigmoid(torch.linspace(-4.0, 4.0, rungs, dtype=torch.float64))
    ladder = (logistic - logistic[0]) / (logistic[-1] - logistic[0])
    return ladder.tolist()


def _kernel_for(space: Space) -> Kernel:
    """Return the default kernel of a space; `ValueError` where there is none."""
    if space.coordinates == "real":
        return HMC(5)
    if space.coordinates == "one-hot":
        return GibbsWithGradients()
    raise ValueError(
        f"expected a kernel for {type(space).__name__}, which has no default: kernel=Blocks(…) for "
        "a Product, kernel=Edits(space) for Strings"
    )


class _SpaceReference(NamedTuple):
    """A space's reference distribution, as a proposal."""

    space: Space

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.space.reference(batch, generator)

    def log_density(self, x: Tensor) -> Tensor:
        return self.space.reference_log_density(x)


class _ProposalEnergy(Energy):
    """`-log q`."""

    def __init__(self, proposal: Proposal, event_ndim: int):
        super().__init__()
        self.proposal, self.event_ndim = proposal, event_ndim

    def forward(self, x: Tensor) -> Tensor:
        return -self.proposal.log_density(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self(x)
            if not value.requires_grad:  # uniform
                return value, torch.zeros_like(x)
            return value.detach(), torch.autograd.grad(value.sum(), x)[0]
