"""Metropolis over the edits of a string: substitutions, insertions and deletions.

Every edit goes through a string with a hole. A substitution empties a place and fills it, an
insertion opens a hole and fills it, a deletion empties a place and closes it. What fills a hole is
drawn from a law that sees all but the hole, so that the way back has the same law.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.kernels.discrete import gumbel_like
from ebrl.kernels.importance import take
from ebrl.kernels.protocol import (
    Info,
    Kernel,
    check_positive_temperature,
    check_uncoupled,
    metropolis,
    precise,
    uniform_like,
)
from ebrl.strings import PADDING, Strings, string_lengths


class Filling(Protocol):
    """The law of what fills a hole."""

    def log_probabilities(self, x: Tensor, place: Tensor) -> Tensor:
        """Return the normalised law of the category at one place, given all others.

        Args:
            x: Strings `(*batch, longest)` with any category at the place.
            place: `(*batch,)` int64.

        Returns:
            `(*batch, end)`, -inf for integers that are no category.
        """
        ...


class UniformFilling:
    """Every category of the space as likely."""

    def __init__(self, space: Strings):
        self.space = space

    def log_probabilities(self, x: Tensor, place: Tensor) -> Tensor:
        """Return log probabilities `(*batch, end)`, the same for each category."""
        space = self.space
        law = torch.full((space.end,), -torch.inf, device=x.device)
        law[space.first :] = -torch.tensor(float(space.end - space.first)).log()
        return law.expand(*place.shape, space.end)


class EditState(NamedTuple):
    """Where a batch of chains stands, and the energy there."""

    x: Tensor  # (*batch, longest) int64
    energy: Tensor  # (*batch,)

    @property
    def gradient(self) -> None:
        """No gradient is known."""


class EditNoise(NamedTuple):
    """What picks the kind of edit, its place and what fills it, and the noise of its acceptance."""

    kind: Tensor  # (*batch,) in [0, 1)
    place: Tensor  # (*batch,) in [0, 1)
    gumbel: Tensor  # (*batch, end)
    uniform: Tensor  # (*batch,)


class Edits(Kernel[EditState, EditNoise]):
    """One edit a step, accepted by Metropolis and Hastings: exact.

    A step costs one call of the filling and one energy. `step_size` plays no part. An edit that
    leads out of the space is rejected.

    Args:
        space: The strings that chains move among.
        filling: By default, every category as likely.
        substitutions: The share of edits that substitute; insertions and deletions share the rest.

    Raises:
        ValueError: The share lies outside [0, 1], or the temperature is 0.
    """

    def __init__(
        self, space: Strings, filling: Filling | None = None, *, substitutions: float = 0.5
    ):
        if not 0 <= substitutions <= 1:
            raise ValueError(f"expected 0 <= substitutions <= 1, got {substitutions}")
        self.space, self.filling = space, filling or UniformFilling(space)
        self.substitutions = substitutions

    def start(self, energy: Energy, x: Tensor) -> EditState:
        check_uncoupled(energy)
        return EditState(x, precise(energy(x), x))

    def draw(self, state: EditState, generator: torch.Generator) -> EditNoise:
        kind, place, uniform = (uniform_like(state.energy, generator) for _ in range(3))
        wide = state.energy.unsqueeze(-1).expand(*state.energy.shape, self.space.end)
        return EditNoise(kind, place, gumbel_like(wide, generator), uniform)

    def step(
        self,
        energy: Energy,
        state: EditState,
        noise: EditNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[EditState, Info]:
        check_positive_temperature(temperature)
        length = string_lengths(state.x)
        half = (1 - self.substitutions) / 2
        inserts, deletes = noise.kind < half, noise.kind >= 1 - half
        possible = torch.where(inserts, length < self.space.longest, length > 0)
        possible &= ~deletes | (length > self.space.shortest)
        places = (length + inserts.long()).clamp(1, self.space.longest)
        place = (noise.place * places).long().minimum(places - 1)
        holed = torch.where(inserts.unsqueeze(-1), opened(state.x, place), state.x)
        law = self.filling.log_probabilities(holed, place)  # (*batch, end)
        category = (law + noise.gumbel).argmax(-1)
        there = take(law, category)
        back = take(law, take(state.x, place))  # of a substitution or deletion, undone
        x = holed.scatter(-1, place.unsqueeze(-1), category.unsqueeze(-1))
        x = torch.where(deletes.unsqueeze(-1), closed(state.x, place), x)
        x = torch.where(possible.unsqueeze(-1), x, state.x)
        proposal = self.start(energy, x)
        log_ratio = (state.energy - proposal.energy) / temperature
        log_ratio = log_ratio - torch.where(deletes, 0.0, there) + torch.where(inserts, 0.0, back)
        log_ratio = log_ratio.masked_fill(~possible, -torch.inf)
        return metropolis(proposal, state, log_ratio, noise.uniform)


def opened(x: Tensor, place: Tensor) -> Tensor:
    """Return strings with a hole before `place: (*batch,)`; the last integer drops out."""
    at = torch.arange(x.shape[-1], device=x.device)
    moved = x.gather(-1, (at - (at > place.unsqueeze(-1)).long()).clamp_min(0))
    # The hole counts as a category, or the string would seem to end there.
    return moved.scatter(-1, place.unsqueeze(-1).clamp_max(x.shape[-1] - 1), 1)


def closed(x: Tensor, place: Tensor) -> Tensor:
    """Return strings without what is at `place: (*batch,)`."""
    longer = torch.nn.functional.pad(x, (0, 1), value=PADDING)
    at = torch.arange(x.shape[-1], device=x.device)
    return longer.gather(-1, at + (at >= place.unsqueeze(-1)).long())
