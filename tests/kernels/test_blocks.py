"""Vectors and categories together, against a target whose categories can be counted."""

from __future__ import annotations

import math

import pytest
import torch
from problems import generator
from torch import Tensor

from ebrl import FunctionEnergy, Sampler
from ebrl.kernels import DMALA, HMC, MALA, Blocks, Gibbs, GibbsWithGradients, Kernel
from ebrl.spaces import Binary, Box, Categorical, HalfLine, Product, Space, Unbounded

BIAS = torch.tensor([[0.0, 0.7, -0.4], [0.3, 0.0, 0.9]])
PULL = torch.tensor([[0.0, 0.4, 0.8], [0.3, -0.3, 0.0]])


def mixed_energy(space: Product) -> FunctionEnergy:
    """Given the categories, x is `N(Σ pull, 1/4)`; the categories weigh exp(-Σ bias)."""

    def energy(x: Tensor) -> Tensor:
        vector, sites = space.split(x)
        centre = (sites * PULL).sum((-2, -1))
        return 2 * (vector[:, 0] - centre).square() + (sites * BIAS).sum((-2, -1))

    return FunctionEnergy(energy)


def exact(temperature: float) -> tuple[Tensor, Tensor]:
    """Return the probability and the mean of x of each of the nine states of the categories."""
    bias = (BIAS[0].unsqueeze(1) + BIAS[1]).flatten()
    pull = (PULL[0].unsqueeze(1) + PULL[1]).flatten()
    return torch.softmax(-bias / temperature, 0), pull


@pytest.mark.parametrize("temperature", [0.6, 1.5])
@pytest.mark.parametrize(
    ("vector", "categories", "moves"),
    [(MALA(), Gibbs(), 2), (MALA(), GibbsWithGradients(), 2), (HMC(3), DMALA(), 1)],
    ids=["MALA and Gibbs", "MALA and GibbsWithGradients", "HMC and DMALA"],
)
def test_categories_and_vector_follow_the_joint_law(
    vector: Kernel, categories: Kernel, moves: int, temperature: float
) -> None:
    space = Product(Unbounded(1), Categorical(2, 3))
    sampler = Sampler(
        Blocks(space, vector, categories, moves),
        space,
        steps=80,
        step_size=0.3 if isinstance(vector, HMC) else 0.1,
        temperature=temperature,
    )
    chains = 4000
    samples = sampler.sample(mixed_energy(space), n=chains, generator=generator())
    x, sites = space.split(samples.x)
    assert space.contains(samples.x).all()
    state, (probability, centre) = space.discrete.index(sites), exact(temperature)
    shares = torch.bincount(state, minlength=9) / chains
    error = (probability * (1 - probability) / chains).sqrt()
    assert ((shares - probability).abs() < 4 * error).all()
    apart = x[:, 0] - centre[state]
    variance = temperature / 4
    assert apart.mean().abs() < 4 * (variance / chains) ** 0.5
    assert abs(apart.var() / variance - 1) < 4 * (2 / chains) ** 0.5
    torch.testing.assert_close(samples.energy, mixed_energy(space)(samples.x))
    assert samples.info.extra["discrete_acceptance"].mean() > 0.1


def test_binary_numbers_beside_a_half_line() -> None:
    # x > 0 has the rate 1 or 4, and each bit is on with its own odds: p(on) ∝ e / rate.
    space = Product(HalfLine(1), Binary(2))

    def energy(x: Tensor) -> Tensor:
        vector, bits = space.split(x)
        return vector[:, 0] * (1 + 3 * bits[:, 0]) - bits.sum(-1)

    sampler = Sampler(Blocks(space, MALA(), Gibbs(), 2), space, steps=80, step_size=0.3)
    chains = 4000
    samples = sampler.sample(FunctionEnergy(energy), n=chains, generator=generator())
    vector, bits = space.split(samples.x)
    for bit, odds in ((0, math.e / 4), (1, math.e)):
        p = odds / (1 + odds)
        assert abs(bits[:, bit].mean() - p) < 4 * (p * (1 - p) / chains) ** 0.5
    for on, rate in ((0, 1.0), (1, 4.0)):
        mine = vector[bits[:, 0] == on, 0]
        assert abs(mine.mean() - 1 / rate) < 4 / rate / len(mine) ** 0.5


def test_a_warm_up_preconditions_the_vector() -> None:
    space = Product(Unbounded(2), Categorical(1, 2))

    def energy(x: Tensor) -> Tensor:
        vector, sites = space.split(x)
        apart = (vector - sites[:, 0, :1]) / torch.tensor([0.2, 10.0])
        return apart.square().sum(-1) / 2

    samples = Sampler(Blocks(space, HMC(5), Gibbs()), space, steps=1).trace(
        FunctionEnergy(energy), n=8, warmup=250, draws=150, generator=generator()
    )
    vector, _ = space.split(samples.x)
    assert (vector[..., 1].std() / 10 - 1).abs() < 0.2
    assert samples.info.acceptance.mean() > 0.4


@pytest.mark.parametrize("discrete", [Categorical(2, 3), Binary(2, 2)], ids=["categories", "bits"])
@pytest.mark.parametrize(
    "continuous", [Unbounded(2), HalfLine(2), Box(-torch.ones(2), 1.0, "tanh")]
)
def test_a_product_splits_and_joins(continuous: Space, discrete: Categorical | Binary) -> None:
    space = Product(continuous, discrete)
    x = space.reference((3, 5), generator())
    assert space.contains(x).all()
    assert torch.equal(space.join(*space.split(x)), x)
    torch.testing.assert_close(space.from_free(space.to_free(x)), x)
    apart = [
        part.reference_log_density(each)
        for part, each in zip((continuous, discrete), space.split(x), strict=True)
    ]
    torch.testing.assert_close(space.reference_log_density(x), apart[0] + apart[1])


def test_what_is_no_product_is_refused() -> None:
    with pytest.raises(ValueError, match="walls are 'tanh' or 'reflect', got 'reject'"):
        Product(Box(0.0, 1.0), Binary(2))
    with pytest.raises(ValueError, match="moves >= 1, got 0"):
        Blocks(Product(Unbounded(1), Binary(2)), MALA(), Gibbs(), moves=0)
