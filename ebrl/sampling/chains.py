"""Persistent chains: a population that is kept between the calls that move it.

chains = Chains(10_000, Box(-1.0, 1.0))
batch = chains.draw(256, generator)
chains.write(batch.rows, sampler.sample(energy, batch.x, generator=generator).x)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebrl.generators import check_generator
from ebrl.kernels.protocol import where
from ebrl.ranges import check_at_least, check_probabilities
from ebrl.spaces import Space


class ChainBatch(NamedTuple):
    """Some of the chains, and their rows in the population."""

    x: Tensor  # (n, *event), a copy
    rows: Tensor  # (n,), distinct integers
    condition: Tensor | None  # (n, *features), what each chain is conditioned on


class Chains(nn.Module):
    """A population of `size` chains that start from the reference distribution of `space`.

    Each chain that is drawn restarts with probability `restart` (.05 in Du and Mordatch 2019), and
    always when drawn for the first time. Restarts find lost modes but pull the weights of all modes
    towards the reference's: use 0 where the kernel jumps between modes. A chain keeps its condition
    until it restarts, with the condition that comes with that draw. The chains are on the device of
    the first generator and are saved in `state_dict`. Their dtype is that of the module
    (`chains.double()`), or of the space if it holds integers. No draw waits for the host.
    """

    positions: Tensor  # (size, *event), (0,) before the first draw
    conditions: Tensor  # (size, *features), (0,) where there are none
    started: Tensor  # (size,) bool

    def __init__(self, size: int, space: Space, restart: float = 0.05):
        super().__init__()
        check_at_least(1, size=size)
        check_probabilities(restart=restart)
        self.size, self.space, self.restart = size, space, restart
        with torch.inference_mode(False):
            self.register_buffer("positions", torch.empty(0))
            self.register_buffer("conditions", torch.empty(0))
            self.register_buffer("started", torch.zeros(size, dtype=torch.bool))

    @torch.inference_mode(False)  # what is kept must serve a training later
    @torch.no_grad()
    def draw(
        self, n: int, generator: torch.Generator, condition: Tensor | None = None
    ) -> ChainBatch:
        """Return `n` distinct chains, each with its condition, which may differ from the one given.

        Chains that restart take their row of `condition: (n, *features)`. Either all draws have
        conditions, of one shape, or none has.
        """
        if not 1 <= n <= self.size:
            raise ValueError(f"expected between 1 and {self.size} chains, all distinct, got {n}")
        check_generator(generator)
        if condition is not None and condition.shape[:1] != (n,):
            raise ValueError(
                f"expected a condition for each of {n} chains, got shape {tuple(condition.shape)}"
            )
        fresh = self.space.reference((n,), generator)
        if self.positions.ndim == 1:
            self._begin(fresh, condition)
        self._check_same_kind(generator, condition)
        rows = torch.randperm(self.size, generator=generator, device=fresh.device)[:n]
        chance = torch.rand(n, generator=generator, device=fresh.device)
        restarted = ~self.started[rows] | (chance < self.restart)
        self.started.index_fill_(0, rows, True)  # assigning True would wait for the device
        x = _renewed(self.positions, rows, restarted, fresh)
        if condition is not None:
            condition = _renewed(self.conditions, rows, restarted, condition)
        return ChainBatch(x, rows, condition)

    @torch.inference_mode(False)
    @torch.no_grad()
    def write(self, rows: Tensor, x: Tensor) -> None:
        """Put chains `x: (n, *event)` back into the rows `rows: (n,)` that they were drawn from."""
        expected = (*rows.shape, *self.positions.shape[1:])
        if x.shape != expected:
            raise ValueError(f"expected x of shape {expected}, got {tuple(x.shape)}")
        self.positions[rows] = x.to(self.positions)

    def _begin(self, fresh: Tensor, condition: Tensor | None) -> None:
        """Allocate chains of the shape of `fresh`, on its device."""
        dtype = self.positions.dtype if fresh.is_floating_point() else fresh.dtype
        self.positions = fresh.new_zeros(self.size, *fresh.shape[1:], dtype=dtype)
        self.started = self.started.to(fresh.device)
        if condition is not None:
            self.conditions = condition.new_zeros(self.size, *condition.shape[1:])
        self.conditions = self.conditions.to(fresh.device)

    def _check_same_kind(self, generator: torch.Generator, condition: Tensor | None) -> None:
        here, kept = self.positions.device, self.conditions
        if generator.device.type != here.type:
            raise ValueError(
                f"expected a generator on {here}, where the chains are, got one on "
                f"{generator.device}: torch.Generator({str(here)!r}), or move the chains"
            )
        if (len(kept) > 0) != (condition is not None):
            raise ValueError(
                "chains keep the condition they started under: expected one with "
                f"{'every' if len(kept) else 'no'} draw, as with the first"
            )
        if condition is not None and condition.shape[1:] != kept.shape[1:]:
            raise ValueError(
                f"expected conditions of shape {tuple(kept.shape[1:])}, as those of the first "
                f"draw, got {tuple(condition.shape[1:])}"
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # The loaded population may have started where this one has not, or the reverse.
        for name in ("positions", "conditions"):
            loaded = state_dict.get(prefix + name)
            if loaded is not None:
                setattr(self, name, torch.empty_like(loaded, device=self.started.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _renewed(store: Tensor, rows: Tensor, restarted: Tensor, fresh: Tensor) -> Tensor:
    """Write `fresh: (n, …)` to the rows that restarted; return what they then hold."""
    held = where(restarted, fresh.to(store), store[rows])
    store[rows] = held
    return held
