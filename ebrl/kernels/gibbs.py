"""Gibbs kernels: draws from the conditional distribution of a site or a layer."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ebrl.energies import RBM, Energy, Number, over_event
from ebrl.kernels.checks import check_uncoupled
from ebrl.kernels.discrete import check_one_hot
from ebrl.kernels.draws import gumbel_like, take, uniform_like
from ebrl.kernels.known import Known
from ebrl.kernels.protocol import Info, Kernel, diverged
from ebrl.spaces import PairEnergy

Scan = Literal["random", "systematic"]


class GibbsState(NamedTuple):
    """The position of a batch of chains, the energy there, and the site that moved last."""

    x: Tensor  # (*batch, sites, categories)
    energy: Tensor  # (*batch,)
    site: Tensor  # (*batch,) integers, -1 before the first step
    gradient: None = None  # not known


class GibbsNoise(NamedTuple):
    """The site that moves, and the noise of its category (the Gumbel-max trick)."""

    site: Tensor  # (*batch,) integers
    gumbel: Tensor  # (*batch, categories)


class Gibbs(Kernel[GibbsState, GibbsNoise]):
    """One site a step, drawn from its distribution given the others (Geman and Geman 1984): exact.

    A step evaluates the energy at the site's `categories - 1` other values in one batch. `scan` is
    "random" or "systematic", which visits every site in turn from a random first one. Within
    `Cycle`, `Tempered` and `Blocks`, which restart the kernel at each step, both scans are random.
    At temperature 0 the site takes the value of lowest energy. `step_size` has no effect. Raises
    `ValueError` for energies of anything but one-hot categories.
    """

    coordinates = "one-hot"

    def __init__(self, scan: Scan = "random"):
        if scan not in get_args(Scan):
            raise ValueError(f"expected scan in {get_args(Scan)}, got {scan!r}")
        self.scan = scan

    def start(self, energy: Energy, x: Tensor) -> GibbsState:
        check_uncoupled(energy)
        check_one_hot(energy)
        value = energy(x)
        return GibbsState(x, value, torch.full_like(value, -1, dtype=torch.long))

    def draw(self, state: GibbsState, generator: torch.Generator) -> GibbsNoise:
        site = torch.empty_like(state.site).random_(state.x.shape[-2], generator=generator)
        return GibbsNoise(site, gumbel_like(state.x[..., 0, :], generator))

    def step(
        self,
        energy: Energy,
        state: GibbsState,
        noise: GibbsNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[GibbsState, Info]:
        sites, categories = state.x.shape[-2:]
        site = noise.site
        if self.scan == "systematic":
            site = torch.where(state.site < 0, site, (state.site + 1) % sites)
        now = take(state.x, site).argmax(-1, keepdim=True)  # (*batch, 1)
        values = (now + torch.arange(categories, device=now.device)) % categories  # its own first
        values = one_hot(values, categories).to(state.x)  # (*batch, categories, categories)
        here = one_hot(site.unsqueeze(-1), sites).bool().mT  # (*batch, sites, 1)
        others = torch.where(
            here.unsqueeze(-3), values[..., 1:, :].unsqueeze(-2), state.x.unsqueeze(-3)
        )  # (*batch, categories - 1, sites, categories)
        fresh = energy(others)
        lost = diverged(others, fresh)
        energies = torch.cat([state.energy.unsqueeze(-1), fresh.masked_fill(lost, torch.inf)], -1)
        energies = energies.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        chosen = (energies - over_event(temperature, 1) * noise.gumbel).argmin(-1)
        x = torch.where(here, take(values, chosen).unsqueeze(-2), state.x)
        moved = GibbsState(x, take(energies, chosen), site)
        return moved, Info(torch.ones_like(moved.energy), lost.any(-1))


class BlockGibbsState(NamedTuple):
    """The position of a batch of chains, the energy, and the logits of the hidden units there."""

    x: Tensor  # (*batch, visible, 2)
    energy: Tensor  # (*batch,)
    hidden_logits: Tensor  # (*batch, hidden)
    gradient: None = None  # not known


class BlockGibbsNoise(NamedTuple):
    """The noise of the hidden units, and then of the visible units."""

    hidden: Tensor  # (*batch, hidden)
    visible: Tensor  # (*batch, visible)


class BlockGibbs(Kernel[BlockGibbsState, BlockGibbsNoise]):
    """All hidden units of an RBM given the visible ones, then these given the hidden: exact.

    `Sampler(BlockGibbs(), Binary(visible), …)`. `step_size` has no effect. Raises `TypeError` for
    any energy but an `RBM` in a `Binary` space, and `ValueError` for a temperature other than the
    number 1: the free energy over T is not the free energy at temperature T.
    """

    coordinates = "one-hot"

    def start(self, energy: Energy, x: Tensor) -> BlockGibbsState:
        visible = x[..., 1]
        rbm = _as_rbm(energy)
        return BlockGibbsState(x, rbm(visible), rbm.hidden_logits(visible))

    def draw(self, state: BlockGibbsState, generator: torch.Generator) -> BlockGibbsNoise:
        hidden, visible = state.hidden_logits, state.x[..., 0]
        return BlockGibbsNoise(uniform_like(hidden, generator), uniform_like(visible, generator))

    def step(
        self,
        energy: Energy,
        state: BlockGibbsState,
        noise: BlockGibbsNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[BlockGibbsState, Info]:
        if isinstance(temperature, Tensor) or temperature != 1:
            raise ValueError(f"block Gibbs is exact at temperature 1.0 alone, got {temperature}")
        hidden = (noise.hidden < torch.sigmoid(state.hidden_logits)).to(state.x)
        visible = noise.visible < torch.sigmoid(_as_rbm(energy).visible_logits(hidden))
        moved = self.start(energy, one_hot(visible.long(), 2).to(state.x))
        return moved, Info(torch.ones_like(moved.energy), torch.zeros_like(moved.energy).bool())


def _as_rbm(energy: Energy) -> RBM:
    energy = energy.energy if isinstance(energy, Known) else energy
    own = energy.energy if isinstance(energy, PairEnergy) else energy  # the user's
    if own is energy or not isinstance(own, RBM):
        raise TypeError(
            "expected an RBM in a binary space, Sampler(BlockGibbs(), Binary(visible), …), "
            f"got {type(own).__name__}"
        )
    return own
