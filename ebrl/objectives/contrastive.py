"""Contrastive divergence: lower the energy of the data, raise that of the model's own samples.

The gradient of `-log p(x)` is `∇E(x) - E_p ∇E`, and chains stand in for draws of `p`. Regions that
they do not reach are not corrected. Short chains that start at the data (CD) leave the weights of
separated modes undetermined, and may leave modes where there are no data. Persistent chains (PCD)
correct both, as far as they mix. With a sampler at temperature T, `exp(-E/T)` fits the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from ebrl.energies import Energy, first_order
from ebrl.kernels.checks import check_restartable
from ebrl.objectives.protocol import Loss, Objective, as_module, conditioned
from ebrl.ranges import check_at_least
from ebrl.sampling import ChainBatch, ChainInfo, Chains, Sampler, Samples
from ebrl.sampling.sampler import Gradient


class ContrastiveDivergence(nn.Module, Objective):
    """Contrastive divergence (Hinton 2002), persistent (Tieleman 2008) where there are `chains`.

    Use a sampler that adapts its step size (`persistent`): where the step size of unadjusted
    Langevin is too large for the energy, its error feeds back into training until the energy
    diverges.

    Args:
        sampler: Moves the samples. Without `chains` they start at the data, and the sampler's
            number of steps is the k of CD-k.
        chains: The persistent population, of which each call moves as many as the batch has rows.
            Under a conditional energy, each chain keeps the condition that it started under.
        energy_penalty: Weight of the mean squares of both energies (Du and Mordatch 2019). It holds
            back an energy whose chains cannot follow, and flattens it.

    Raises:
        ValueError: If there are fewer chains than rows of data, or they have another dtype, and for
            a `Tempered` kernel, which is biased in short runs.
    """

    def __init__(
        self, sampler: Sampler, chains: Chains | None = None, *, energy_penalty: float = 0.0
    ):
        super().__init__()
        check_at_least(0, energy_penalty=energy_penalty)
        check_restartable(sampler.kernel, "in training")
        self.sampler, self.chains, self.energy_penalty = sampler, chains, energy_penalty

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        return self.contrast(energy, x, condition, generator)[0]

    def contrast(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None,
        generator: Generator,
        gradient: Gradient = "none",
    ) -> tuple[Loss, Samples]:
        """Return the loss and its samples, with the graph that `gradient` asks `sample` for."""
        data = conditioned(energy, condition)(x.detach())  # (batch,)
        start = self._start(x, condition, generator)
        model = conditioned(energy, start.condition)
        samples = self.sampler.sample(model, start.x, generator=generator, gradient=gradient)
        negatives = samples.x.detach()
        if self.chains is not None:
            self.chains.write(start.rows, negatives)
        loss = contrastive_loss(data, model(negatives), samples.info, self.energy_penalty)
        return loss, samples

    def check_inside(self, x: Tensor) -> None:
        """Raise `ValueError` if data lie where the chains never go: nothing would oppose them."""
        space = self.sampler.space
        try:
            outside = int((~space.contains(x)).sum())
        except RuntimeError as error:  # what torch raises for shapes that do not broadcast
            raise ValueError(
                f"expected data of as many numbers as the {type(space).__name__} of the "
                f"objective's chains has, got rows of shape {tuple(x.shape[1:])}: {error}"
            ) from error
        if outside:
            raise ValueError(
                f"expected data in the {type(space).__name__} of the objective's chains, got "
                f"{outside} of {len(x)} rows outside: widen it, or use persistent_around(data)"
            )

    def _start(self, x: Tensor, condition: Tensor | None, generator: Generator) -> ChainBatch:
        """Return where the sampler starts: at the data, or at as many chains."""
        if self.chains is None:
            return ChainBatch(x.detach(), torch.arange(len(x), device=x.device), condition)
        if len(x) > self.chains.size:
            raise ValueError(
                f"expected at least as many chains as the batch has rows, got {self.chains.size} "
                f"chains for {len(x)}: Chains({len(x)}, ...) or a smaller batch"
            )
        start = self.chains.draw(len(x), generator, condition)
        if start.x.dtype != x.dtype:
            raise ValueError(
                f"expected chains of the data's dtype {x.dtype}, got {start.x.dtype}: "
                f"objective.to({x.dtype})"
            )
        return start


class ImprovedContrastiveDivergence(nn.Module, Objective):
    """Contrastive divergence and the divergence of its samples (Du et al. 2021, equation 6).

    The samples depend on the energy too: `kl` weighs `T KL(q || exp(-E/T))`, in units of the
    energy, where q is the distribution of the samples, differentiated through the sampler with the
    energy itself held fixed. The entropy of q is estimated from neighbours in the batch.

    The term rewards energies that chains can follow. It is not the term that contrastive divergence
    leaves out of its gradient: that one has the opposite sign. For chains in equilibrium the term
    has mean 0, but its noise remains. With `kl=1` the noise is four times that of contrastive
    divergence, which slows Adam down, and two moons come out much too broad; with `kl=.1` they do
    not.

    The other arguments are those of `ContrastiveDivergence`.

    Args:
        kl: Weight of the divergence.
        entropy: Weight of the entropy in the divergence; without it the samples contract.
        gradient: Differentiate through the sampler's "last" step, or "unroll" all of them.

    Raises:
        ValueError: For a sampler of discrete x, whose moves have no derivative.
        TypeError: For a condition: neighbours estimate the entropy of a single distribution.
    """

    def __init__(
        self,
        sampler: Sampler,
        chains: Chains | None = None,
        *,
        kl: float = 1.0,
        entropy: float = 1.0,
        gradient: Literal["last", "unroll"] = "last",
        energy_penalty: float = 0.0,
    ):
        super().__init__()
        check_at_least(0, kl=kl, entropy=entropy)
        if gradient not in ("last", "unroll"):
            raise ValueError(f"expected gradient 'last' or 'unroll', got {gradient!r}")
        if sampler.space.coordinates != "real":
            raise ValueError(
                "expected a sampler of real coordinates, through which x is differentiated, got "
                f"one of {sampler.space.coordinates} coordinates: use ContrastiveDivergence"
            )
        self.contrastive = ContrastiveDivergence(sampler, chains, energy_penalty=energy_penalty)
        self.kl, self.entropy = kl, entropy
        self.gradient: Literal["last", "unroll"] = gradient

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        if condition is not None:
            raise TypeError("improved contrastive divergence is not conditional: pass no condition")
        (loss, metrics), samples = self.contrastive.contrast(
            energy, x, None, generator, self.gradient
        )
        entropy = nearest_neighbour_entropy(samples.x)
        cooled = self.contrastive.sampler.temperature * self.entropy * entropy
        divergence = (first_order(energy, samples.x) - cooled).mean()
        return Loss(loss + self.kl * divergence, {**metrics, "entropy": entropy.detach()})


def contrastive_parts(objective: Objective | None) -> Iterator[ContrastiveDivergence]:
    """Yield the contrastive divergences that an objective is or holds."""
    for part in as_module(objective).modules():
        if isinstance(part, ContrastiveDivergence):
            yield part


def contrastive_loss(data: Tensor, model: Tensor, info: ChainInfo, penalty: float = 0.0) -> Loss:
    """Return the contrastive loss from the energies of the data and of samples, `(batch,)` both."""
    gap = model.mean() - data.mean()
    loss = -gap
    if penalty:
        loss = loss + penalty * (data.square().mean() + model.square().mean())
    metrics = {
        "energy_data": data.mean(),
        "energy_gap": gap,
        "acceptance": info.acceptance.mean(),
        "diverged": info.diverged.sum(),
        "step_size": info.step_size.mean(),
    }
    return Loss(loss, {name: value.detach() for name, value in metrics.items()})


def nearest_neighbour_entropy(x: Tensor) -> Tensor:
    """Return the entropy of the distribution of `x: (n, *event)` in nats, differentiable.

    `d mean log ρ + log V_d + ψ(n) - ψ(k)` with ρ the distance to the k-th nearest neighbour and V_d
    the volume of the unit ball (Kozachenko and Leonenko 1987, Singh et al. 2003): consistent for
    independent draws. Its gradient is of the order of 1/ρ, whose variance is infinite for
    k d <= 2, hence k = 4. Draws that coincide with their k-th neighbour are left out. k draws or
    fewer are a `ValueError`.
    """
    rows, neighbour = x.flatten(1), 4
    n, dimension = rows.shape
    if n <= neighbour:
        raise ValueError(f"expected more than {neighbour} draws, to have that neighbour, got {n}")
    with torch.no_grad():
        centred = rows - rows.mean(0)  # far from the origin rounding would swamp the distances
        # The nearest neighbour of all is the draw itself.
        # By a matrix product the distances within a tight mode would be rounding alone.
        distance = torch.cdist(centred, centred, compute_mode="donot_use_mm_for_euclid_dist")
        index = distance.topk(neighbour + 1, largest=False).indices[:, -1]
    squared = (rows - rows[index]).square().sum(1)
    distinct = squared > 0
    log_distance = 0.5 * torch.where(distinct, squared, 1.0).log()
    log_ball = 0.5 * dimension * math.log(math.pi) - math.lgamma(dimension / 2 + 1)
    counts = torch.digamma(x.new_tensor([n, neighbour]))
    mean = log_distance.sum() / distinct.sum().clamp_min(1)
    return dimension * mean + log_ball + counts[0] - counts[1]
