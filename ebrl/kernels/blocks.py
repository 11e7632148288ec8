"""Vectors and categories in turn: a gradient kernel moves the one, a discrete kernel the other."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ebrl.energies import Energy, Number
from ebrl.kernels.checks import check_own_space, check_restartable, check_suits, check_uncoupled
from ebrl.kernels.known import known
from ebrl.kernels.protocol import GradientState, Info, Kernel, gradient_state
from ebrl.ranges import check_at_least
from ebrl.spaces import Product, Space


class BlocksState(NamedTuple):
    """The position of a batch of chains, and each kernel's state there."""

    x: Tensor  # (*batch, d + sites * categories), free coordinates
    energy: Tensor  # (*batch,)
    gradient: Tensor  # of x
    vector: Any
    categories: Any


class BlocksNoise(NamedTuple):
    """The noise of the move of the vector and of those of the categories."""

    vector: Any
    categories: tuple[Any, ...]


class Blocks(Kernel[BlocksState, BlocksNoise]):
    """Gibbs sampling in two blocks, each moved by its own kernel: exact if both kernels are.

    A step moves the vector once given the categories, then the categories `moves` times given the
    vector. Step size, warm-up and reports are those of the vector's kernel; the reports also have
    `discrete_acceptance`, the mean over the discrete moves. Velocities are drawn anew at each step.
    A step costs two gradients more than its moves.

        space = Product(Unbounded(2), Categorical(3, 4))
        Sampler(Blocks(space, MALA(), GibbsWithGradients()), space, steps=1000, step_size=0.1)

    Args:
        space: The sampler's space.
        vector: Moves the vector: MALA, HMC, NUTS or another kernel of vectors.
        categories: Moves the categories: Gibbs, GibbsWithGradients, DMALA or DULA.
        moves: Moves of the categories in a step; Gibbs kernels change one site in each.
    """

    coordinates = "mixed"

    def __init__(self, space: Product, vector: Kernel, categories: Kernel, moves: int = 1):
        check_at_least(1, moves=moves)
        for kernel in (vector, categories):
            check_restartable(kernel, "in a block")
        check_suits(vector, space.continuous)
        check_suits(categories, space.discrete)
        self.space, self.vector, self.categories, self.moves = space, vector, categories, moves
        self.best_acceptance = vector.best_acceptance
        self.couples_chains = vector.couples_chains or categories.couples_chains
        self.gradients = vector.gradients + moves + 2

    def check_space(self, space: Space) -> None:
        check_own_space(self, self.space, space)

    def preconditioned(self, variance: Tensor) -> Kernel:
        kernel = self.vector.preconditioned(self.space.split_free(variance)[0])
        return Blocks(self.space, kernel, self.categories, self.moves)

    def probe(self) -> Kernel:
        return Blocks(self.space, self.vector.probe(), self.categories)

    def start(self, energy: Energy, x: Tensor) -> BlocksState:
        check_uncoupled(energy)
        return self._at(energy, gradient_state(energy, x))

    def _at(self, energy: Energy, here: GradientState) -> BlocksState:
        """Return the states of both kernels at the position of the chains."""
        blocks = self.space.split_free(here.x)
        gradients = self.space.split_free(here.gradient)
        kernels = (self.vector, self.categories)
        states = []
        for block, kernel in enumerate(kernels):
            part = part_of(energy, self.space, blocks, block)
            there = GradientState(blocks[block], here.energy, gradients[block])
            states.append(kernel.start(known(part, there), there.x))
        return BlocksState(*here, *states)

    def draw(self, state: BlocksState, generator: torch.Generator) -> BlocksNoise:
        vector = self.vector.draw(state.vector, generator)
        moves = range(self.moves)
        return BlocksNoise(
            vector, tuple(self.categories.draw(state.categories, generator) for _ in moves)
        )

    def step(
        self,
        energy: Energy,
        state: BlocksState,
        noise: BlocksNoise,
        step_size: Number,
        temperature: Number,
    ) -> tuple[BlocksState, Info]:
        vector, categories = state.vector, state.categories
        part = part_of(energy, self.space, (vector.x, categories.x), 0)
        vector, info = self.vector.step(part, vector, noise.vector, step_size, temperature)
        part = part_of(energy, self.space, (vector.x, categories.x), 1)
        categories = self.categories.start(part, categories.x)
        lost, acceptance = info.diverged, torch.zeros_like(info.acceptance)
        for one in noise.categories:
            categories, report = self.categories.step(part, categories, one, step_size, temperature)
            lost, acceptance = lost | report.diverged, acceptance + report.acceptance / self.moves
        x = torch.cat([vector.x, categories.x.flatten(-2)], -1)
        extra = info.extra | {"discrete_acceptance": acceptance}
        return self._at(energy, gradient_state(energy, x)), Info(info.acceptance, lost, extra)


class PartEnergy:
    """The energy of one block, the other held fixed.

    A plain class, because several are created at every step.
    """

    couples_chains = False

    def __init__(self, energy: Energy, space: Product, blocks: tuple[Tensor, Tensor], moving: int):
        self.energy, self.space, self.moving = energy, space, moving
        self.event_ndim = moving + 1  # a vector, or sites of categories
        self.batch_ndim = blocks[0].ndim - 1
        self.held = blocks[1 - moving].flatten(self.batch_ndim)  # (*batch, numbers)

    def __call__(self, block: Tensor) -> Tensor:
        return self.energy(self._joined(block))

    def value_and_gradient(self, block: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.energy.value_and_gradient(self._joined(block))
        return value, self.space.split_free(gradient)[self.moving]

    def _joined(self, block: Tensor) -> Tensor:
        """Return x of `block: (*batch, *more, *event)`."""
        batch = block.shape[: block.ndim - self.event_ndim]
        more = (1,) * (len(batch) - self.batch_ndim)
        held = self.held.reshape(*self.held.shape[:-1], *more, -1).expand(*batch, -1)
        if self.moving == 0:
            return torch.cat([block, held], -1)
        return torch.cat([held, block.flatten(-2)], -1)


def part_of(energy: Energy, space: Product, blocks: tuple[Tensor, Tensor], moving: int) -> Energy:
    """Return the energy of the vector (0) or of the categories (1), the other held fixed."""
    return cast(Energy, PartEnergy(energy, space, blocks, moving))
