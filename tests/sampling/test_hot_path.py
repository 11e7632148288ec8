"""The sampler's step: it waits for no host, and ranks have streams of their own."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ebrl.energies import Energy, Gaussian
from ebrl.kernels import HMC, MALA, ULA, Kernel
from ebrl.sampling import Sampler
from ebrl.spaces import Box, Space

UNIT = Box(-torch.ones(2), torch.ones(2), "tanh")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kernel", [ULA(), MALA(), HMC(3)], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("space", [None, UNIT], ids=["unbounded", "tanh"])
def test_no_step_waits_for_the_host(kernel: Kernel, space: Space | None) -> None:
    """Tensors without data raise where a number is read."""
    energy: Energy = Gaussian(0.0, 1.0, 2)
    energy = energy if space is None else space.free(energy, 1.0, 0.1)
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
        state = kernel.start(energy, fakes.from_tensor(torch.zeros(4, 2)))
        noise = kernel.draw(state, generator())
        state, info = kernel.step(energy, state, noise, torch.tensor(0.1), torch.tensor(1.0))
    assert state.x.shape == (4, 2)
    assert info.acceptance.shape == (4,)


def test_ranks_that_start_alike_go_ways_of_their_own() -> None:
    """Each rank owns a generator; the same seed gives the same chains on every rank."""
    sampler = Sampler(MALA(), steps=5, step_size=0.1)
    x = torch.zeros(8, 2)
    ranks = [sampler.sample(Gaussian(0.0, 1.0, 2), x, generator=generator(r)).x for r in (0, 1, 0)]
    assert (ranks[0] != ranks[1]).all()
    assert torch.equal(ranks[0], ranks[2])
