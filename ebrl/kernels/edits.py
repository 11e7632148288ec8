"""Metropolis-Hastings over the edits of a string: substitutions, insertions and deletions.

Every edit passes through a string with a hole. A substitution empties a place and fills it, an
insertion opens a hole and fills it, a deletion empties a place and closes it. The distribution that
fills a hole depends on all other places, so that the reverse edit has the same distribution.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.kernels.checks import check_own_space, check_positive_temperature, check_uncoupled
from ebrl.kernels.draws import gumbel_like, take, uniform_like
from ebrl.kernels.protocol import Info, Kernel, metropolis, precise
from ebrl.ranges import check_probabilities
from ebrl.spaces import PADDING, Space, Strings, string_lengths


class Filling(Protocol):
    """The distribution of the category that fills a hole."""

    def log_probabilities(self, x: Tensor, place: Tensor) -> Tensor:
        """Return the log probabilities of the category at one place, given all others.

        x are strings `(*batch, longest)` with any integer but padding at `place: (*batch,)` int64.
        The result is normalised, `(*batch, end)`, and -inf for integers that are not categories.
        """
        ...


class UniformFilling:
    """The uniform distribution over the categories of the space."""

    def __init__(self, space: Strings):
        self.space = space

    def log_probabilities(self, x: Tensor, place: Tensor) -> Tensor:
        """Return log probabilities `(*batch, end)`, the same for each category."""
        space = self.space
        uniform = torch.full((space.end,), -torch.inf, device=x.device)
        uniform[space.first :] = -math.log(space.end - space.first)
        return uniform.expand(*place.shape, space.end)


class EditState(NamedTuple):
    """The position of a batch of chains, and the energy there."""

    x: Tensor  # (*batch, longest) int64
    energy: Tensor  # (*batch,)
    gradient: None = None  # not known


class EditNoise(NamedTuple):
    """The noise of the kind of edit, its place and its category, and of the acceptance test."""

    kind: Tensor  # (*batch,) in [0, 1)
    place: Tensor  # (*batch,) in [0, 1)
    gumbel: Tensor  # (*batch, end)
    uniform: Tensor  # (*batch,)


class Edits(Kernel[EditState, EditNoise]):
    """One edit a step, with a Metropolis-Hastings test: exact at temperatures above 0.

    A step costs one call of the filling and one energy. `step_size` has no effect. An edit that
    leads out of the space is rejected.

    Args:
        space: The sampler's space.
        filling: The distribution that fills a hole; by default uniform over the categories.
        substitutions: The share of edits that substitute; insertions and deletions share the rest.
    """

    coordinates = "integer"

    def __init__(
        self, space: Strings, filling: Filling | None = None, *, substitutions: float = 0.5
    ):
        check_probabilities(substitutions=substitutions)
        self.space, self.filling = space, filling or UniformFilling(space)
        self.substitutions = substitutions

    def check_space(self, space: Space) -> None:
        check_own_space(self, self.space, space)

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
        log_p = self.filling.log_probabilities(holed, place)  # (*batch, end)
        category = (log_p + noise.gumbel).argmax(-1)
        forward = take(log_p, category)  # of a substitution or an insertion
        backward = take(log_p, take(state.x, place))  # that undoes a substitution or a deletion
        x = holed.scatter(-1, place.unsqueeze(-1), category.unsqueeze(-1))
        x = torch.where(deletes.unsqueeze(-1), closed(state.x, place), x)
        x = torch.where(possible.unsqueeze(-1), x, state.x)
        proposed = self.start(energy, x)
        log_ratio = (state.energy - proposed.energy) / temperature
        log_ratio = log_ratio - torch.where(deletes, 0.0, forward)
        log_ratio = log_ratio + torch.where(inserts, 0.0, backward)
        log_ratio = log_ratio.masked_fill(~possible, -torch.inf)
        return metropolis(proposed, state, log_ratio, noise.uniform)


def opened(x: Tensor, place: Tensor) -> Tensor:
    """Return strings with a hole inserted at `place: (*batch,)`; the last integer drops out."""
    at = torch.arange(x.shape[-1], device=x.device)
    moved = x.gather(-1, (at - (at > place.unsqueeze(-1)).long()).clamp_min(0))
    # The hole holds any integer but padding, which would end the string there.
    return moved.scatter(-1, place.unsqueeze(-1).clamp_max(x.shape[-1] - 1), 1)


def closed(x: Tensor, place: Tensor) -> Tensor:
    """Return strings without the category at `place: (*batch,)`."""
    longer = torch.nn.functional.pad(x, (0, 1), value=PADDING)
    at = torch.arange(x.shape[-1], device=x.device)
    return longer.gather(-1, at + (at >= place.unsqueeze(-1)).long())
