"""Dual averaging: the acceptance it reaches, for all chains or for each."""

from __future__ import annotations

import pytest
import torch
from problems import generator
from torch import Tensor

from ebrl import DualAveraging, FunctionEnergy, Gaussian, Sampler
from ebrl.energies import Energy
from ebrl.kernels import (
    GHMC,
    HMC,
    MALA,
    NUTS,
    SVGD,
    ULA,
    Cycle,
    GradientDescent,
    Kernel,
    Underdamped,
)

SCALES = torch.tensor([0.03, 0.3, 3.0, 30.0])


class Scaled(Energy):
    """Normals whose deviation is each chain's own, `(*batch,)`."""

    def __init__(self, per_chain: Tensor):
        super().__init__()
        self.per_chain = per_chain

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.per_chain.unsqueeze(-1)).square().sum(-1) / 2


@pytest.mark.parametrize(
    ("kernel", "adaptation", "start"),
    [
        (MALA(), DualAveraging(), 10.0),
        (MALA(torch.linspace(0.1, 2.25, 8)), DualAveraging(), 0.01),
        (HMC(2), DualAveraging(0.651, gain=5.0), 0.01),
        (GHMC(2), DualAveraging(0.651, gain=5.0), 0.01),
        (NUTS(3), DualAveraging(0.8), 0.05),
        (NUTS(3), DualAveraging(0.8), 5.0),
    ],
    ids=["MALA", "preconditioned", "HMC", "GHMC", "NUTS", "NUTS from above"],
)
def test_one_step_size_reaches_the_target(
    kernel: Kernel, adaptation: DualAveraging, start: float
) -> None:
    energy, stream = Gaussian(0.0, torch.linspace(0.3, 1.5, 8), 8), generator()
    sampler = Sampler(kernel, steps=100, step_size=start, adaptation=adaptation)
    x = sampler.sample(energy, torch.randn(60, 8, generator=stream), generator=stream).x
    samples = sampler.sample(energy, x, generator=stream, adapt=False)
    assert samples.info.acceptance.mean().item() == pytest.approx(adaptation.target, abs=0.03)


def test_each_chain_finds_the_step_size_of_its_own_scale() -> None:
    deviations = SCALES.repeat_interleave(100)
    x = deviations[:, None] * torch.randn(400, 3, generator=generator())
    adaptation, stream, reached = DualAveraging(gain=10.0, shape=(400,)), generator(1), []
    sampler = Sampler(MALA(), steps=600, step_size=0.1, adaptation=adaptation)
    x = sampler.sample(Scaled(deviations), x, generator=stream).x
    assert sampler.step_size.shape == (400,)
    samples = sampler.sample(Scaled(deviations), x, generator=stream, adapt=False)
    for scale, acceptance, step_size in zip(
        SCALES, samples.info.acceptance.split(100), sampler.step_size.split(100), strict=True
    ):
        assert acceptance.mean().item() == pytest.approx(0.574, abs=0.03)
        assert acceptance.std() < 0.08
        reached.append((step_size / scale.square()).mean().item())
    # In units of the scale all is the same: for x/s the step size is η/s².
    assert reached == pytest.approx([sum(reached) / 4] * 4, rel=0.05)
    pooled = Sampler(MALA(), steps=100, step_size=0.1, adaptation=DualAveraging())
    pooled.sample(Scaled(deviations), x, generator=stream)
    alike = pooled.sample(Scaled(deviations), x, generator=stream, adapt=False).info.acceptance
    assert alike.view(4, 100).mean(1).std() > 0.3  # what one step size for all would do


def test_chains_along_an_axis_of_one_share_a_step_size() -> None:
    deviations = SCALES[:, None].expand(4, 200)
    x = deviations[..., None] * torch.randn(4, 200, 3, generator=generator())
    sampler = Sampler(MALA(), steps=150, step_size=0.1, adaptation=DualAveraging(shape=(4, 1)))
    x = sampler.sample(Scaled(deviations), x, generator=generator(1)).x
    samples = sampler.sample(Scaled(deviations), x, generator=generator(2), adapt=False)
    assert samples.info.step_size.shape == (4, 1)
    assert (samples.info.acceptance.mean(1) - 0.574).abs().max() < 0.03


def test_chains_adapt_independently() -> None:
    acceptance = torch.rand(30, 5, generator=generator())
    order = torch.tensor([3, 0, 2, 4, 1])
    one, other, single = (DualAveraging(shape=shape) for shape in ((5,), (5,), ()))
    for adaptation in (one, other, single):
        adaptation.start(0.2, MALA())
    for row in acceptance:
        step_size, permuted = one.update(row), other.update(row[order])
        torch.testing.assert_close(step_size[order], permuted)
        torch.testing.assert_close(step_size[2], single.update(row[2:3]))
    torch.testing.assert_close(one.step_size[2], single.step_size)


@pytest.mark.parametrize("shape", [(6,), (2, 1)])
def test_the_step_sizes_of_chains_persist_and_are_saved(shape: tuple[int, ...]) -> None:
    energy, x = Gaussian(0.0, 1.0, 2), torch.zeros(6, 2)
    x = x if shape == (6,) else x.view(2, 3, 2)

    def sampler() -> Sampler:
        return Sampler(MALA(), steps=20, step_size=1e-3, adaptation=DualAveraging(shape=shape))

    one, two = sampler(), sampler()
    one.sample(energy, x, generator=generator())
    reached = one.step_size.clone()
    assert (reached > 0.01).all()
    assert len(reached.unique()) == len(reached)
    frozen = one.sample(energy, x, generator=generator(), adapt=False)
    assert torch.equal(one.step_size, reached)
    assert torch.equal(frozen.info.step_size, reached)
    two.load_state_dict(one.state_dict())
    again = two.sample(energy, x, generator=generator(5))
    assert torch.equal(one.sample(energy, x, generator=generator(5)).x, again.x)
    assert torch.equal(one.step_size, two.step_size)


def test_chains_may_start_at_step_sizes_of_their_own() -> None:
    adaptation = DualAveraging(shape=(3,))
    adaptation.start(torch.tensor([0.1, 0.2, 0.4]), MALA())
    torch.testing.assert_close(adaptation.step_size, torch.tensor([0.1, 0.2, 0.4]))


def test_an_adaptation_remembers_something() -> None:
    with pytest.raises(ValueError, match="memory >= 1, got 0"):
        DualAveraging(memory=0)


def test_what_does_not_fit_the_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a step size that fits shape \(\), got shape \(3,\)"):
        DualAveraging().start(torch.ones(3), MALA())
    adaptation = DualAveraging(shape=(4, 1))
    adaptation.start(0.1, MALA())
    adaptation.update(torch.rand(2, 4, 5))
    for wrong in ((5,), (3, 5), ()):
        with pytest.raises(ValueError, match=r"acceptances that fit shape \(4, 1\), got shape"):
            adaptation.update(torch.rand(wrong))


@pytest.mark.parametrize("kernel", [ULA(), Underdamped(), SVGD(), GradientDescent()])
def test_a_kernel_that_never_rejects_is_refused(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="a kernel whose step size changes its acceptance"):
        Sampler(kernel, steps=3, adaptation=DualAveraging())


@pytest.mark.parametrize(
    ("kernel", "best"), [(MALA(), 0.574), (HMC(2), 0.651), (Cycle([HMC(2), NUTS(3)]), 0.8)]
)
def test_the_kernel_names_the_acceptance_to_reach(kernel: Kernel, best: float) -> None:
    sampler = Sampler(kernel, steps=3, adaptation=DualAveraging())
    assert sampler.adaptation.target == best


def test_the_step_size_on_a_flat_energy_stays_below_its_cap() -> None:
    flat = FunctionEnergy(lambda x: 0 * x.sum(-1))
    sampler = Sampler(MALA(), steps=50, step_size=0.1, adaptation=DualAveraging(largest=0.5))
    samples = sampler.sample(flat, torch.zeros(9, 2), generator=generator())
    assert sampler.step_size <= 0.5
    assert samples.info.step_size <= 0.5
