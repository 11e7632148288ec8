"""The noise and the report of an update of `EnergyActorCritic`."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ebrl.agents.proposal import Divergence, perplexity
from ebrl.estimators import SoftValue


class UpdateNoise(NamedTuple):
    """All the randomness of one update."""

    proposal: Tensor  # (batch, components, action_dim), normal
    candidates: Tensor  # (batch, candidates, action_dim), normal
    offset: Tensor  # (batch, 1), uniform


class UpdateReport(NamedTuple):
    """The report of an update, which the host reads only when the logs are written."""

    critic_loss: Tensor
    divergence: Divergence | None  # None where the policy was not due
    soft: SoftValue  # of the next observations

    def metrics(self) -> dict[str, Tensor]:
        """Return the metrics; those of the policy only if it was updated."""
        found = {
            "critic_loss": self.critic_loss,
            "soft_value": self.soft.value,
            "effective_sample_size": self.soft.effective_sample_size,
        }
        if self.divergence is not None:
            temperature = self.divergence.temperature
            energy, entropy = self.divergence.energy, self.divergence.entropy
            found |= {
                "actor_loss": energy - temperature * entropy,
                "ent_coef": temperature,
                "entropy": entropy,
                "energy": energy,
                "mixture_perplexity": perplexity(self.divergence.weights),
            }
        return found
