"""Temperatures, step sizes and their adaptation."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from problems import generator
from sampler_problems import GAUSSIAN, mala

from ebrl import DualAveraging, FunctionEnergy, Gaussian, Sampler
from ebrl.kernels import (
    HMC,
    MALA,
    Kernel,
    Tempered,
)
from ebrl.spaces import Box


def test_each_chain_has_its_temperature_and_step_size() -> None:
    temperature = torch.tensor([0.25, 1.0, 4.0]).repeat_interleave(4000)
    sampler = mala(30, step_size=0.5 * temperature, temperature=temperature)
    x = sampler.sample(GAUSSIAN, torch.zeros(12_000, 2), generator=generator()).x
    for chains, variance in zip(x.split(4000), (0.25, 1.0, 4.0), strict=True):
        # A variance of n Gaussians has the relative standard error √(2/n); mixing is complete.
        assert chains.var().item() == pytest.approx(variance, rel=4 * (2 / 8000) ** 0.5)


def test_the_temperature_of_a_call_comes_first() -> None:
    cold = mala(30, step_size=0.1).sample(
        GAUSSIAN, torch.zeros(500, 2), generator=generator(), temperature=0.01
    )
    assert cold.x.var().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    ("kernel", "target", "gain", "start"),
    [
        (MALA(), 0.574, 20.0, 1e-3),
        (MALA(), 0.574, 20.0, 30.0),
        (HMC(2), 0.651, 5.0, 1e-2),
        (HMC(2), 0.8, 5.0, 0.3),
    ],
    ids=["MALA from below", "MALA from above", "HMC", "HMC at .8"],
)
def test_adaptation_reaches_its_target(
    kernel: Kernel, target: float, gain: float, start: float
) -> None:
    # Two leapfrog steps: after more, orbits come back and acceptance rises again with the step.
    energy = Gaussian(0.0, torch.linspace(0.3, 1.5, 8), 8)
    sampler = Sampler(kernel, steps=150, step_size=start, adaptation=DualAveraging(target, gain))
    stream = generator()
    x = sampler.sample(energy, torch.randn(200, 8, generator=stream), generator=stream).x
    x = sampler.sample(energy, x, generator=stream).x
    samples = sampler.sample(energy, x, generator=stream, adapt=False)
    assert samples.info.acceptance.mean().item() == pytest.approx(target, abs=0.03)


def test_adaptation_persists_between_calls_and_in_the_state() -> None:
    x = torch.zeros(50, 2)
    sampler = mala(20, step_size=1e-3, adaptation=DualAveraging())
    first = sampler.sample(GAUSSIAN, x, generator=generator())
    reached = sampler.step_size.clone()
    assert reached > 0.01
    assert first.info.step_size > 0.01
    frozen = sampler.sample(GAUSSIAN, x, generator=generator(), adapt=False)
    assert sampler.step_size == reached
    assert frozen.info.step_size == reached
    restored = mala(20, step_size=1e-3, adaptation=DualAveraging())
    restored.load_state_dict(sampler.state_dict())
    one = sampler.sample(GAUSSIAN, x, generator=generator(5))
    two = restored.sample(GAUSSIAN, x, generator=generator(5))
    assert torch.equal(one.x, two.x)
    assert sampler.step_size == restored.step_size != reached


def test_adaptation_follows_an_energy_that_changes() -> None:
    sampler, stream = mala(50, adaptation=DualAveraging(memory=100)), generator()
    x = torch.zeros(200, 2)
    for _ in range(6):
        x = sampler.sample(GAUSSIAN, x, generator=stream).x
    wide = sampler.step_size.item()
    for _ in range(12):
        x = sampler.sample(GAUSSIAN / 0.01, x, generator=stream).x
    # A hundredth of the variance takes a hundredth of the step.
    assert sampler.step_size.item() == pytest.approx(wide / 100, rel=0.15)


def test_an_adaptation_belongs_to_one_sampler() -> None:
    adaptation = DualAveraging()
    mala(20, adaptation=adaptation).sample(GAUSSIAN, torch.zeros(9, 2), generator=generator())
    with pytest.raises(ValueError, match="an adaptation of the sampler's own"):
        mala(20, adaptation=adaptation)


@pytest.mark.parametrize(
    "kernel", [MALA(), HMC(2), Tempered(MALA(), [1.0, 2.0])], ids=["MALA", "HMC", "Tempered"]
)
def test_a_start_without_a_number_is_an_error(kernel: Kernel) -> None:
    sampler = Sampler(kernel, steps=5)
    no_energy = FunctionEnergy(lambda x: x.sum(-1).log())
    for start, value in ((-1.0, "nan"), (0.0, "-inf")):
        with pytest.raises(ValueError, match=f"the energy where every chain starts, got {value}"):
            sampler.sample(no_energy, torch.full((4, 2), start), generator=generator())
    no_gradient = FunctionEnergy(lambda x: x.square().sum(-1).sqrt())
    with pytest.raises(ValueError, match="a number for the gradient where every chain starts"):
        sampler.sample(no_gradient, torch.zeros(4, 2), generator=generator())


def test_no_chains_adapt_nothing() -> None:
    sampler = Sampler(MALA(), steps=3, step_size=0.2, adaptation=DualAveraging())
    samples = sampler.sample(Gaussian(0.0, 1.0, 2), torch.zeros(0, 2), generator=generator())
    assert samples.x.shape == (0, 2)
    assert float(sampler.step_size) == pytest.approx(0.2)


@pytest.mark.parametrize("chains", [5, 20])  # the steps of a block are 20
@pytest.mark.parametrize("walls", ["tanh", "reflect"])
def test_draws_of_chains_at_temperatures_of_their_own_have_the_users_energy(
    chains: int, walls: Literal["tanh", "reflect"]
) -> None:
    sampler = Sampler(
        MALA(),
        Box(-2.0, 2.0, walls),
        steps=1,
        step_size=0.1,
        temperature=torch.linspace(0.2, 3.0, chains),
    )
    drawn = sampler.trace(GAUSSIAN, torch.zeros(chains, 2), draws=40, generator=generator())
    torch.testing.assert_close(drawn.energy, GAUSSIAN(drawn.x))
