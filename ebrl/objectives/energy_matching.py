"""Energy Matching (Balcerak et al. 2025): one energy, without time, for transport and density.

Far from the data, descent on the energy carries noise to data along straight paths; this part is
learnt by regression, which is cheap. Near the data, the Boltzmann distribution of the energy at a
small temperature is that of the data; this part is learnt by contrast with chains.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from ebrl.energies import Energy, over_event
from ebrl.kernels.draws import gumbel_like, normal_like, uniform_like
from ebrl.objectives.protocol import Loss, Objective, conditioned
from ebrl.objectives.score_matching import gradient_with_graph
from ebrl.ranges import check_at_least, check_positive

Coupling = Literal["transport", "independent"]
SINKHORN_STEPS = 50


class EnergyMatching(nn.Module, Objective):
    """`E weight(t) |∇E(x_t) + x - z|² / d + contrast · contrastive`, with `x_t = (1 - t) z + t x`.

    z is noise from N(0, 1) and t uniform; the weight is 1 until `cutoff` and falls to 0 at t = 1.

    The default is phase 1 (algorithm 1 of the paper): cutoff 1, no contrastive term. Phase 1 alone
    gives no density model: for a Gaussian its optimum is a parabola whose curvature depends on the
    coupling, and it learns about mode weights only what transport needs. Phase 2 (algorithm 2)
    continues from its weights with a cutoff below 1 and a contrastive divergence. It is a
    compromise: the density is better the less weight the flow has near t = 1. The paper's clamping
    and trimming of the contrastive loss, and its starts of chains, are settings of `contrastive`.

    Args:
        contrastive: A contrastive divergence whose sampler has the temperature ε of the target.
        contrast: Weight of the contrastive loss; 1e-3 in the paper.
        coupling: "transport" pairs the noise and data of a batch by entropic optimal transport
            (Sinkhorn), "independent" at random.
        regularisation: Entropic regularisation of the transport, in units of its mean cost.
        cutoff: Time at which the flow's weight begins to fall.

    Raises:
        ValueError: For a condition with transport, which would make the noise depend on it.
    """

    def __init__(
        self,
        contrastive: Objective | None = None,
        *,
        contrast: float = 1e-3,
        coupling: Coupling = "transport",
        regularisation: float = 0.05,
        cutoff: float = 1.0,
    ):
        super().__init__()
        if coupling not in get_args(Coupling):
            raise ValueError(f"expected a coupling of {get_args(Coupling)}, got {coupling!r}")
        if not 0 < cutoff <= 1:
            raise ValueError(f"expected 0 < cutoff <= 1, got {cutoff}")
        check_positive(regularisation=regularisation)
        check_at_least(0, contrast=contrast)
        self.contrastive, self.contrast = contrastive, contrast
        self.coupling, self.regularisation, self.cutoff = coupling, regularisation, cutoff

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        flow = self._flow(energy, x, condition, generator)
        metrics = {"flow": flow.detach()}
        if self.contrastive is None:
            return Loss(flow, metrics)
        loss, contrastive_metrics = self.contrastive(energy, x, condition, generator=generator)
        metrics |= {"contrastive": loss.detach(), **contrastive_metrics}
        return Loss(flow + self.contrast * loss, metrics)

    def _flow(
        self, energy: Energy, x: Tensor, condition: Tensor | None, generator: Generator
    ) -> Tensor:
        x, noise = x.detach(), normal_like(x, generator)
        if self.coupling == "transport":
            if condition is not None:
                raise ValueError(
                    "transport pairs noise and data across conditions, which makes the noise "
                    "depend on the condition: with conditions use coupling='independent'"
                )
            noise = noise[transport(x, noise, self.regularisation, generator)]
        time = uniform_like(x.flatten(1)[:, 0], generator)  # (batch,)
        x_t = torch.lerp(noise, x, over_event(time, x.ndim - 1))
        _, gradient = gradient_with_graph(conditioned(energy, condition), x_t)
        error = (gradient + x - noise).square().flatten(1).mean(1)  # (batch,)
        if self.cutoff < 1:
            error = error * ((1 - time) / (1 - self.cutoff)).clamp(max=1)
        return error.mean()


@torch.no_grad()
def transport(x: Tensor, noise: Tensor, regularisation: float, generator: Generator) -> Tensor:
    """Return for each x the index of a noise drawn from the entropic transport plan, `(batch,)`.

    It runs `SINKHORN_STEPS` Sinkhorn iterations on squared distances (Cuturi 2013), in log space.
    The regularisation decreases to its final value: with a small value from the start, the plan
    would be far from converged.
    """
    cost = torch.cdist(x.flatten(1), noise.flatten(1)).square()
    cost = cost / cost.mean()
    columns = torch.zeros_like(cost[0])
    for step in range(SINKHORN_STEPS):
        entropy = max(regularisation, 0.8**step)
        rows = -entropy * torch.logsumexp((columns - cost) / entropy, 1, keepdim=True)
        columns = -entropy * torch.logsumexp((rows - cost) / entropy, 0)
    return ((columns - cost) / regularisation + gumbel_like(cost, generator)).argmax(1)
