"""Energy Matching (Balcerak et al. 2025): one energy, without time, for transport and density.

Far from the data its descent carries noise to data along straight paths; near them its Boltzmann
law at a small temperature is to be the data's. The first is regression and cheap, the second is
contrastive and needs chains.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ebrl.energies import Energy, over_event
from ebrl.kernels.protocol import normal_like, uniform_like
from ebrl.objectives.protocol import Loss, Objective, bound
from ebrl.objectives.score_matching import gradient_with_graph

Coupling = Literal["transport", "independent"]
SINKHORN_STEPS = 50


class EnergyMatching(nn.Module, Objective):
    """`E weight(t) |∇E(x_t) + x - z|² / d + contrast · contrastive`, with `x_t = (1 - t) z + t x`.

    z is noise from N(0, 1), t uniform. `coupling="transport"` pairs noise and data of a batch by
    entropic optimal transport (Sinkhorn, regularisation `regularisation` times the mean cost), else
    at random. The weight is 1 until `cutoff` and falls to 0 at t = 1. Phase 1 (algorithm 1 of the
    paper) is the default: cutoff 1, nothing contrastive. Phase 2 (algorithm 2) goes on from its
    weights with a cutoff below 1 and a `contrastive` objective, a contrastive divergence whose
    sampler runs at the temperature ε of the law that is wanted, `exp(-E/ε)`, with a small
    `contrast`: 1e-3 in the paper. Its clamp on the contrastive loss, its trimming and the start of
    its chains belong to the contrastive objective.

    Phase 1 alone is no density model: for a Gaussian its optimum is a parabola whose curvature
    depends on how noise and data are paired, and it knows of mode weights only what transport
    needs. Phase 2 is a compromise between both terms, whose density is the better the less weight
    the flow has near t = 1. Raises `ValueError` for an unknown coupling, a cutoff outside (0, 1],
    and for a condition with transport, which would tie the noise to the condition.
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
        if not 0 < cutoff <= 1 or regularisation <= 0 or contrast < 0:
            raise ValueError(
                "expected a cutoff in (0, 1], a regularisation > 0 and a contrast >= 0, got "
                f"{cutoff=}, {regularisation=}, {contrast=}"
            )
        self.contrastive, self.contrast = contrastive, contrast
        self.coupling, self.regularisation, self.cutoff = coupling, regularisation, cutoff

    def forward(
        self,
        energy: Energy,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Loss:
        flow = self._flow(energy, x, condition, generator)
        metrics = {"flow": flow.detach()}
        if self.contrastive is None:
            return Loss(flow, metrics)
        loss, contrastive_metrics = self.contrastive(energy, x, condition, generator=generator)
        metrics |= {"contrastive": loss.detach(), **contrastive_metrics}
        return Loss(flow + self.contrast * loss, metrics)

    def _flow(
        self, energy: Energy, x: Tensor, condition: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        x, noise = x.detach(), normal_like(x, generator)
        if self.coupling == "transport":
            if condition is not None:
                raise ValueError(
                    "transport pairs noise and data across conditions, so that noise would tell of "
                    "the condition: with conditions use coupling='independent'"
                )
            noise = noise[transport(x, noise, self.regularisation, generator)]
        time = uniform_like(x.flatten(1)[:, 0], generator)  # (batch,)
        along = over_event(time, x.ndim - 1)
        _, gradient = gradient_with_graph(bound(energy, condition), torch.lerp(noise, x, along))
        error = (gradient + x - noise).square().flatten(1).mean(1)
        if self.cutoff < 1:
            error = error * ((1 - time) / (1 - self.cutoff)).clamp(max=1)
        return error.mean()


@torch.no_grad()
def transport(
    x: Tensor, noise: Tensor, regularisation: float, generator: torch.Generator
) -> Tensor:
    """Return for each x the index of a noise drawn from the entropic transport plan, `(batch,)`.

    `SINKHORN_STEPS` of Sinkhorn's iteration on squared distances (Cuturi 2013), in logarithms, the
    regularisation falling to its value: started there, small ones would be far from converged.
    """
    cost = torch.cdist(x.flatten(1), noise.flatten(1)).square()
    cost = cost / cost.mean()
    columns = torch.zeros_like(cost[0])
    for step in range(SINKHORN_STEPS):
        entropy = max(regularisation, 0.8**step)
        rows = -entropy * torch.logsumexp((columns - cost) / entropy, 1, keepdim=True)
        columns = -entropy * torch.logsumexp((rows - cost) / entropy, 0)
    uniform = uniform_like(cost, generator).clamp_(min=torch.finfo(cost.dtype).tiny)
    return ((columns - cost) / regularisation - (-uniform.log()).log()).argmax(1)
