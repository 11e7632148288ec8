"""Contrastive divergence: lower the energy of the data, raise that of the model's own samples.

The gradient of `-log p(x)` is `∇E(x) - E_p ∇E`, and chains stand in for `p`. What they do not
reach is not corrected: short chains that start at the data (CD) leave the mass between separated
modes undetermined and may leave modes where no data are; persistent ones (PCD) see both, as far
as they mix. At a temperature T of the sampler the density that fits the data is `exp(-E/T)`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ebrl.energies import Energy, first_order
from ebrl.kernels import MALA, Cycle, IndependenceMetropolis, ReferenceProposal
from ebrl.objectives.protocol import Loss, Objective, bound
from ebrl.sampling import ChainBatch, ChainInfo, Chains, DualAveraging, Sampler
from ebrl.spaces import Space


class ContrastiveDivergence(nn.Module, Objective):
    """Contrastive divergence (Hinton 2002), persistent (Tieleman 2008) where there are `chains`.

    Without chains the sampler starts at the data, and its number of steps is the k of CD-k. With
    them it moves as many chains as the batch has rows; of a conditional energy each keeps the
    condition that it started under. `energy_penalty` weighs the mean squares of both energies
    (Du and Mordatch 2019): it holds back an energy whose chains cannot follow, and flattens it.

    Take a sampler that adapts (`persistent`): unadjusted Langevin with a step that has become too
    large for the energy feeds its own error back until the energy diverges.
    """

    def __init__(
        self, sampler: Sampler, chains: Chains | None = None, *, energy_penalty: float = 0.0
    ):
        super().__init__()
        _expect_weights(energy_penalty=energy_penalty)
        self.sampler, self.chains, self.energy_penalty = sampler, chains, energy_penalty

    def forward(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        data = bound(energy, condition)(x.detach())
        start = starts(self.chains, x, condition, generator)
        model = bound(energy, start.condition)
        samples = self.sampler.sample(model, start.x, generator=generator)
        if self.chains is not None:
            self.chains.write(start.index, samples.x)
        return contrast(data, model(samples.x), samples.info, self.energy_penalty)


def persistent(
    space: Space, chains: int = 10_000, moves: int = 5, restart: float = 0.0
) -> ContrastiveDivergence:
    """Return the default PCD: each of `moves` is a jump of the chain and four steps of MALA.

    The step size follows the acceptance. A jump proposes a draw of the space's reference,
    `IndependenceMetropolis`: it moves mass between modes that no gradient connects. Without it the
    chains cannot answer when one mode's energy drifts from another's, and in the end it runs away.
    It is a restart with a test; `restart` is the probability of one without, which pulls the
    weights of modes towards the reference's. In many dimensions no jump is accepted, and the chains
    are those of MALA alone: there, and where conditions keep changing, `restart` has its use.
    """
    jump = IndependenceMetropolis(ReferenceProposal(space))
    kernel = Cycle([jump, MALA(), MALA(), MALA(), MALA()])
    sampler = Sampler(kernel, space, steps=moves, step_size=0.05, adaptation=DualAveraging())
    return ContrastiveDivergence(sampler, Chains(chains, space, restart))


class ImprovedContrastiveDivergence(nn.Module, Objective):
    """Contrastive divergence and the divergence of its samples (Du et al. 2021, equation 6).

    The samples depend on the energy too: `kl` weighs `KL(q || exp(-E/T))`, of the law q of the
    samples, differentiated through the sampler's last step or all of them (`gradient`) with the
    energy itself held fixed. Its entropy is that of near neighbours in the batch, weighed by
    `entropy`: 1 makes it the divergence, 0 leaves the energy alone, which draws samples together.

    The term asks for energies that chains can follow, it does not complete contrastive divergence,
    whose own gradient has it with the other sign. Of chains in equilibrium it vanishes in the mean,
    and the noise of the neighbours remains: with `kl=1` four times that of contrastive divergence.
    Adam divides by it, so that the weights learn slower: after the 1,500 steps of
    `benchmarks/two_moons.py` the model is still much too broad, where `kl=.1` and persistent
    chains alone are not. Raises `TypeError` for a condition: neighbours tell the entropy of one
    law, not of one for each condition.
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
        _expect_weights(kl=kl, entropy=entropy, energy_penalty=energy_penalty)
        if gradient not in ("last", "unroll"):
            raise ValueError(f"expected gradient 'last' or 'unroll', got {gradient!r}")
        self.sampler, self.chains = sampler, chains
        self.kl, self.entropy, self.energy_penalty = kl, entropy, energy_penalty
        self.gradient: Literal["last", "unroll"] = gradient

    def forward(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        if condition is not None:
            raise TypeError("improved contrastive divergence is not conditional: pass no condition")
        x, model = x.detach(), bound(energy, None)
        data, start = model(x), starts(self.chains, x, None, generator)
        samples = self.sampler.sample(model, start.x, generator=generator, gradient=self.gradient)
        negatives = samples.x.detach()
        if self.chains is not None:
            self.chains.write(start.index, negatives)
        loss, metrics = contrast(data, model(negatives), samples.info, self.energy_penalty)
        entropy = nearest_neighbour_entropy(samples.x)
        cooled = self.sampler.temperature * self.entropy * entropy
        divergence = (first_order(model, samples.x) - cooled).mean()
        return Loss(loss + self.kl * divergence, {**metrics, "entropy": entropy.detach()})


def starts(
    chains: Chains | None, x: Tensor, condition: Tensor | None, generator: torch.Generator
) -> ChainBatch:
    """Return where the sampler starts: at the data, or where as many chains stand."""
    if chains is None:
        return ChainBatch(x.detach(), torch.arange(len(x), device=x.device), condition)
    if len(x) > chains.size:
        raise ValueError(
            f"expected at least as many chains as the batch has rows, got {chains.size} chains "
            f"for {len(x)}: Chains({len(x)}, ...) or a smaller batch"
        )
    start = chains.draw(len(x), generator, condition)
    if start.x.dtype != x.dtype:
        raise ValueError(
            f"expected chains of the data's dtype {x.dtype}, got {start.x.dtype}: "
            f"objective.to({x.dtype})"
        )
    return start


def contrast(data: Tensor, model: Tensor, info: ChainInfo, penalty: float) -> Loss:
    """Return the contrastive loss from the energies of the data and of samples, `(batch,)`."""
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


def nearest_neighbour_entropy(x: Tensor, neighbour: int = 4) -> Tensor:
    """Return the entropy of the law of `x: (n, *event)` in nats, differentiable.

    `d mean log ρ + log V_d + ψ(n) - ψ(k)`, ρ the distance to the k-th nearest other draw and V_d
    the volume of the unit ball (Kozachenko and Leonenko 1987, Singh et al. 2003): consistent for
    independent draws. Its gradient goes with 1/ρ, whose variance is infinite for k d <= 2: hence
    not the nearest neighbour. Draws that coincide with that neighbour are left out. Raises
    `ValueError` for too few draws to have it.
    """
    rows = x.flatten(1)
    n, dimension = rows.shape
    if n <= neighbour:
        raise ValueError(f"expected more than {neighbour} draws, to have that neighbour, got {n}")
    with torch.no_grad():
        # The nearest of all is the draw itself.
        centred = rows - rows.mean(0)  # distances of far points would be all rounding
        index = torch.cdist(centred, centred).topk(neighbour + 1, largest=False).indices[:, -1]
    squared = (rows - rows[index]).square().sum(1)
    distinct = squared > 0
    log_distance = 0.5 * torch.where(distinct, squared, 1.0).log()
    log_ball = 0.5 * dimension * math.log(math.pi) - math.lgamma(dimension / 2 + 1)
    counts = torch.digamma(x.new_tensor([n, neighbour]))
    mean = log_distance.sum() / distinct.sum().clamp_min(1)
    return dimension * mean + log_ball + counts[0] - counts[1]


def _expect_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"expected a weight {name} >= 0, got {weight}")
