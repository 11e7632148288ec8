"""Diagnostics: against closed forms, and against what each is there to see."""

from __future__ import annotations

import math

import pytest
import torch
from problems import MODES, generator
from torch import Tensor

from ebrl import FunctionEnergy, Gaussian, Sampler
from ebrl.estimators import (
    acceptance,
    effective_sample_size,
    energy_gap,
    kernel_stein_discrepancy,
    maximum_mean_discrepancy,
    split_r_hat,
)
from ebrl.kernels import MALA
from ebrl.sampling import ChainInfo


def autoregressive(correlation: float, steps: int, chains: int, *event: int) -> Tensor:
    """Return stationary chains of variance 1 with this correlation at lag 1."""
    noise = torch.randn(steps, chains, *event, generator=generator(), dtype=torch.float64)
    x = [noise[0]]
    for z in noise[1:]:
        x.append(correlation * x[-1] + (1 - correlation**2) ** 0.5 * z)
    return torch.stack(x)


@pytest.mark.parametrize("kind", ["bulk", "mean"])
@pytest.mark.parametrize("correlation", [-0.4, 0.0, 0.5, 0.9])
def test_the_effective_size_of_an_autoregression_is_its_closed_form(
    correlation: float, kind: str
) -> None:
    trace = autoregressive(correlation, 4000, 4, 3)
    size = effective_sample_size(trace, kind)
    expected = 16_000 * (1 - correlation) / (1 + correlation)
    assert size.shape == (3,)
    torch.testing.assert_close(size, torch.full_like(size, expected), rtol=0.1, atol=0)


def test_the_tail_of_an_autoregression_mixes_as_its_quantiles() -> None:
    # Of indicators at a quantile, the correlation at lag t is that of a bivariate normal's orthant;
    # for independent draws both tails are worth what they are.
    assert effective_sample_size(autoregressive(0.0, 4000, 4), "tail") > 0.85 * 16_000
    slow = autoregressive(0.9, 4000, 4)
    below = (slow <= torch.tensor(-1.6449)).double()
    lags = torch.arange(1, 60, dtype=torch.float64)
    centred = below - 0.05
    correlations = [
        ((centred[:-lag] * centred[lag:]).mean() / (0.05 * 0.95)).item() for lag in range(1, 60)
    ]
    expected = 16_000 / (1 + 2 * sum(correlations))
    assert len(correlations) == len(lags)
    assert effective_sample_size(slow, "tail").item() == pytest.approx(expected, rel=0.2)


def test_sizes_and_r_hat_are_those_of_arviz() -> None:
    # ArviZ 0.23 (ess bulk, tail, mean and rhat) on this trace, which it can rebuild exactly.
    frequency = 0.1 + 0.01 * torch.arange(4, dtype=torch.float64)
    x = [torch.zeros(4, dtype=torch.float64)]
    for t in range(1, 400):
        x.append(0.6 * x[-1] + torch.sin(t * t * frequency))
    trace = torch.stack(x)
    got = [effective_sample_size(trace, kind).item() for kind in ("bulk", "tail", "mean")]
    got.append(split_r_hat(trace).item())
    assert got == pytest.approx([440.6031, 440.2887, 402.8998, 1.002111], rel=1e-4)


def test_ranks_make_bulk_and_r_hat_blind_to_monotone_maps() -> None:
    trace = autoregressive(0.7, 500, 4)
    heavy = trace.sinh().exp()
    torch.testing.assert_close(effective_sample_size(trace), effective_sample_size(heavy))
    assert effective_sample_size(heavy, "mean") != effective_sample_size(trace, "mean")


def test_r_hat_sees_chains_that_differ_in_place_in_spread_and_in_time() -> None:
    good = autoregressive(0.3, 1000, 4)
    chain = torch.arange(4.0, dtype=torch.float64)
    drift = torch.linspace(0, 1, 1000, dtype=torch.float64)
    assert split_r_hat(good) < 1.01
    assert split_r_hat(good + 0.5 * chain) > 1.1
    assert split_r_hat(good * (1 + chain)) > 1.1
    assert split_r_hat(good + drift.unsqueeze(1)) > 1.02
    assert effective_sample_size(good + 0.5 * chain) < 100


def test_a_sampler_between_modes_has_a_large_r_hat() -> None:
    sampler = Sampler(MALA(), steps=200, step_size=0.1)
    x = torch.tensor([[3.0], [-3.0], [3.0], [-3.0]])
    trace = sampler.trace(MODES.energy, x, draws=sampler.steps, generator=generator()).x
    assert split_r_hat(trace).shape == (1,)
    assert split_r_hat(trace) > 1.5
    assert effective_sample_size(trace) < 20


def test_chains_that_stand_still_or_are_lost_have_no_size() -> None:
    constant = torch.ones(20, 3, 1)
    assert effective_sample_size(constant).isnan().all()
    assert split_r_hat(constant).isnan().all()
    lost = torch.randn(20, 3, 2, generator=generator())
    lost[5, 1, 0] = math.nan
    for kind in ("bulk", "tail", "mean"):
        assert effective_sample_size(lost, kind).isnan().tolist() == [True, False]
    assert split_r_hat(lost).isnan().tolist() == [True, False]


def test_chains_that_stand_apart_have_an_infinite_r_hat() -> None:
    for places in ([0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 2.0]):
        assert split_r_hat(torch.tensor(places).expand(20, -1)).item() == math.inf
    spins = torch.randint(2, (100, 4, 200), generator=generator()).float()
    assert split_r_hat(spins).isfinite().all()


def test_the_trace_keeps_its_event_axes() -> None:
    trace = torch.randn(50, 3, 2, 5, generator=generator())
    assert effective_sample_size(trace, "tail").shape == (2, 5)
    one = effective_sample_size(trace[:, :, 1, 3])
    torch.testing.assert_close(effective_sample_size(trace)[1, 3], one)


@pytest.mark.parametrize("bad", [torch.zeros(7, 2), torch.zeros(100)], ids=str)
def test_traces_too_short_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="steps, chains"):
        effective_sample_size(bad)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'bulk', 'tail' or 'mean', got 'median'"):
        effective_sample_size(torch.zeros(10, 2), "median")


def test_acceptance_sums_up_a_run() -> None:
    info = ChainInfo(
        torch.tensor([0.8, 0.0, 0.6, 0.2]),
        torch.tensor([0.0, 3.0, 1.0, 0.0]),
        step_size=torch.tensor(0.1),
        temperature=torch.tensor(1.0),
    )
    summary = acceptance(info)
    assert summary.mean.item() == pytest.approx(0.4)
    assert (summary.lowest, summary.stuck, summary.diverged) == (0.0, 0.25, 4.0)


# Discrepancies.

TARGET = Gaussian(torch.tensor([1.0, -0.5]), torch.tensor([0.7, 1.3]), 2)


def test_the_stein_discrepancy_is_the_kernels_by_autograd() -> None:
    x = torch.randn(5, 2, generator=generator(), dtype=torch.float64)

    def score(y: Tensor) -> Tensor:
        return -TARGET.value_and_gradient(y)[1] / 0.5

    def stein(a: Tensor, b: Tensor) -> float:
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        k = (0.8**2 + (a - b).square().sum()) ** -0.5
        (da,) = torch.autograd.grad(k, a, create_graph=True)
        (db,) = torch.autograd.grad(k, b, create_graph=True)
        trace = sum(torch.autograd.grad(da[i], b, retain_graph=True)[0][i] for i in range(2))
        sa, sb = score(a.detach()), score(b.detach())
        return (sa @ sb * k + sa @ db + sb @ da + trace).item()

    pairs = [stein(x[i], x[j]) for i in range(5) for j in range(5) if i != j]
    got = kernel_stein_discrepancy(TARGET, x, temperature=0.5, bandwidth=0.8)
    assert got.value.item() == pytest.approx(sum(pairs) / 20)


def test_the_stein_discrepancy_knows_its_law_and_its_error() -> None:
    right = [
        kernel_stein_discrepancy(TARGET, TARGET.sample((200,), generator(seed)))
        for seed in range(40)
    ]
    scores = torch.stack([each.value / each.standard_error for each in right])
    assert scores.mean().abs() < 4 / 40**0.5
    assert 0.5 < scores.std() < 1.7
    shifted = TARGET.sample((400,), generator()) + 0.3
    wrong = kernel_stein_discrepancy(TARGET, shifted)
    assert wrong.value > 5 * wrong.standard_error
    hotter = kernel_stein_discrepancy(TARGET, TARGET.sample((400,), generator()), temperature=2.0)
    assert hotter.value > 5 * hotter.standard_error


def test_the_mean_discrepancy_of_gaussians_is_its_closed_form() -> None:
    shift, h = 0.8, 1.5
    x = torch.randn(1500, 1, generator=generator(1), dtype=torch.float64)
    y = torch.randn(1500, 1, generator=generator(2), dtype=torch.float64) + shift
    wide = h**2 + 2
    expected = 2 * (h**2 / wide) ** 0.5 * (1 - math.exp(-(shift**2) / (2 * wide)))
    got = maximum_mean_discrepancy(x, y, bandwidth=h)
    assert got.value.item() == pytest.approx(expected, abs=4 * got.standard_error.item())
    assert got.value > 5 * got.standard_error
    same = maximum_mean_discrepancy(x, y - shift)
    assert same.value.abs() < 4 * same.standard_error


def test_the_mean_discrepancy_sees_the_share_of_modes_that_stein_does_not() -> None:
    sign = torch.where(torch.rand(600, 1, generator=generator()) < 0.3, 1.0, -1.0)
    noise = torch.randn(600, 1, generator=generator(1))
    wrong = 3 * sign + 0.5 * noise  # shares .3 and .7 where they should be .7 and .3
    right = -3 * sign + 0.5 * noise
    stein = kernel_stein_discrepancy(MODES.energy, wrong)
    mean = maximum_mean_discrepancy(wrong, right[torch.randperm(600, generator=generator())])
    assert mean.value > 5 * mean.standard_error
    assert stein.value < 3 * stein.standard_error


def test_discrepancies_take_images_and_refuse_what_they_cannot_compare() -> None:
    image = FunctionEnergy(lambda x: x.square().sum((-3, -2, -1)) / 2, event_ndim=3)
    x = torch.randn(20, 1, 3, 3, generator=generator())
    flat = kernel_stein_discrepancy(Gaussian(0.0, 1.0, 9), x.flatten(1))
    torch.testing.assert_close(kernel_stein_discrepancy(image, x).value, flat.value)
    with pytest.raises(ValueError, match="as many draws"):
        maximum_mean_discrepancy(x, x[:10])
    with pytest.raises(ValueError, match=r"got \(20, 8, 2\): of a trace pass trace.x.flatten"):
        kernel_stein_discrepancy(Gaussian(0.0, 1.0, 2), torch.zeros(20, 8, 2))
    with pytest.raises(ValueError, match=r"expected at least 4 draws, \(n, \*event\), got \(50,\)"):
        maximum_mean_discrepancy(torch.zeros(50), torch.zeros(50))
    with pytest.raises(ValueError, match="at least 4 draws"):
        maximum_mean_discrepancy(x[:3], x[:3])


# Training.


def test_the_energy_gap_is_the_difference_of_means() -> None:
    energy = Gaussian(0.0, 1.0, 1)
    data = torch.randn(4000, 1, generator=generator(1))
    samples = 2 * torch.randn(5000, 1, generator=generator(2))
    gap = energy_gap(energy, data, samples, temperature=2.0)
    assert gap.value.item() == pytest.approx(0.75, abs=4 * gap.standard_error.item())
    # Var(x²/2) is 1/2 and 16 times that, over T².
    assert gap.standard_error.item() == pytest.approx((0.125 / 4000 + 2 / 5000) ** 0.5, rel=0.1)
