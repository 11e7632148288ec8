"""Diffusion recovery likelihood: energies of blurred data, from samplers that need not go far."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from ebrl.energies import Energy, Number, align_left, over_event
from ebrl.kernels.checks import check_restartable
from ebrl.kernels.draws import normal_like
from ebrl.objectives.contrastive import contrastive_loss
from ebrl.objectives.levels import with_level
from ebrl.objectives.protocol import Loss, Objective, conditioned
from ebrl.sampling import Sampler
from ebrl.spaces import Unbounded


class RecoveryLikelihood(nn.Module, Objective):
    """Recovery likelihood along a ladder of noise levels (Gao et al. 2021, algorithm 1).

    `E(x given σ_t)` is the energy of data blurred by noise `σ_t`. It is learnt by contrasting x at
    level t with what the sampler recovers from the same x at the next level,

        p(x | y) ∝ exp(-E(x given σ_t) - |y - x|² / 2s²),    s² = σ_{t+1}² - σ_t²,

    which is near a Gaussian when s is small, so that short chains suffice. Where s is as wide as
    the gaps between modes they do not, and training diverges: add levels. Noise is added without
    shrinking x (the paper also shrinks it, which is the same up to units). The sampler moves
    `u = (x - y)/s` from 0, so that one step size serves all levels. A level is blind to the weights
    of modes further than s apart; only the highest levels learn them.

    Args:
        sampler: A sampler in an unbounded space.
        sigmas: Two or more ascending noise levels, from 0 only if the data have a density. The
            energy is given σ_t as the last feature of its condition, `(batch, 1)` if there is no
            other; an energy without a condition needs exactly two sigmas, that is one level.

    Raises:
        ValueError: If the sampler's space is bounded, its kernel is `Tempered`, which is biased in
            short runs, or there are several levels and the energy takes no condition.
    """

    sigmas: Tensor  # (levels + 1,)

    def __init__(self, sampler: Sampler, sigmas: Sequence[float]):
        super().__init__()
        if len(sigmas) < 2 or not sigmas[0] >= 0 or not all(a < b for a, b in pairwise(sigmas)):
            raise ValueError(f"expected two or more ascending sigmas from 0 on, got {sigmas}")
        if not isinstance(sampler.space, Unbounded):
            raise ValueError(
                "expected a sampler without walls (it moves x in units of the noise), got one in "
                f"{type(sampler.space).__name__}"
            )
        check_restartable(sampler.kernel, "in training")
        self.sampler = sampler
        self.register_buffer("sigmas", torch.tensor(sigmas), persistent=False)

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        x, levels, sigmas = x.detach(), len(self.sigmas) - 1, self.sigmas.to(x)
        level = torch.randint(levels, (len(x),), generator=generator, device=x.device)
        spread = self._spread(x)[level]  # (batch,)
        event_ndim = x.ndim - 1
        clean = x + over_event(sigmas[level], event_ndim) * normal_like(x, generator)
        noisy = clean + over_event(spread, event_ndim) * normal_like(x, generator)
        model = self._at(energy, sigmas[level], condition)
        recovery = Recovery(model, noisy, spread, self.sampler.temperature)
        samples = self.sampler.sample(recovery, torch.zeros_like(x), generator=generator)
        return contrastive_loss(model(clean), model(recovery.place(samples.x)), samples.info)

    def recover(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Tensor:
        """Return draws at the lowest level from x at the highest, `(batch, *event)` both.

        If the highest sigma is much wider than the data, draws from a Gaussian of that deviation
        become new samples. The sampler's step size does not adapt.
        """
        spreads = self._spread(x)
        for level in reversed(range(len(spreads))):
            model = self._at(energy, self.sigmas[level].to(x).expand(len(x)), condition)
            recovery = Recovery(model, x, spreads[level], self.sampler.temperature)
            start = torch.zeros_like(x)
            u = self.sampler.sample(recovery, start, generator=generator, adapt=False).x
            x = recovery.place(u)
        return x

    def _spread(self, x: Tensor) -> Tensor:
        """Return the noise between each level and the next, `(levels,)`."""
        return self.sigmas.to(x).square().diff().sqrt()

    def _at(self, energy: Energy, sigma: Tensor, condition: Tensor | None) -> Energy:
        if not energy.takes_condition:
            if len(self.sigmas) > 2:
                raise ValueError(
                    f"expected an energy that takes the noise level as its condition, for "
                    f"{len(self.sigmas) - 1} levels; got one that takes none: pass two sigmas"
                )
            return conditioned(energy, condition)
        return energy.given(
            sigma.unsqueeze(-1) if condition is None else with_level(condition, sigma)
        )


class Recovery(Energy):
    """The energy of `u` given a noisy y: that of `x = y + s u`, plus `T |u|²/2`.

    T is the temperature that the sampler divides by: the noise is equally large at every T. The
    batch axes of y and s, `(*batch, *event)` and `(*batch,)`, are the leading ones of u: a kernel
    may evaluate several candidates for each y.
    """

    def __init__(self, energy: Energy, noisy: Tensor, spread: Tensor, temperature: Number):
        super().__init__()
        self.energy, self.event_ndim = energy, energy.event_ndim
        self.couples_chains = energy.couples_chains
        self.noisy, self.spread, self.temperature = noisy, spread, temperature

    def place(self, u: Tensor) -> Tensor:
        """Return `x = y + s u`."""
        shape, batch_ndim = self.noisy.shape, self.noisy.ndim - self.event_ndim
        candidate_axes = (1,) * (u.ndim - self.noisy.ndim)
        noisy = self.noisy.reshape(*shape[:batch_ndim], *candidate_axes, *shape[batch_ndim:])
        return noisy + self._over_event(self.spread, u) * u

    def forward(self, u: Tensor) -> Tensor:
        return self.energy(self.place(u)) + self._pull(u)

    def value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(self.place(u))
        pull = self._over_event(self.temperature, u) * u
        return value + self._pull(u), self._over_event(self.spread, u) * gradient + pull

    def _pull(self, u: Tensor) -> Tensor:
        event_axes = tuple(range(-self.event_ndim, 0))
        return (self._over_event(self.temperature, u) * u.square()).sum(event_axes) / 2

    def _over_event(self, per_chain: Number, u: Tensor) -> Number:
        """Shape the numbers of each y so that they broadcast over its candidates and events."""
        return over_event(align_left(per_chain, u.ndim - self.event_ndim), self.event_ndim)
