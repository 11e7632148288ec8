"""Warm-up: step size and preconditioner in windows, and the draws after it."""

from __future__ import annotations

import sys

import pytest
import torch
from problems import generator

from ebrl import DualAveraging, FunctionEnergy, Gaussian, Sampler
from ebrl.diagnostics import effective_sample_size, split_r_hat
from ebrl.kernels import GHMC, HMC, MALA, NUTS, SVGD, ULA, Cycle, Kernel, Tempered
from ebrl.sampling import warm_up
from ebrl.sampling.warm_up import window_lengths
from ebrl.spaces import Box, Torus

DEVIATIONS = torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0])
WIDE = Gaussian(torch.tensor([0.0, 1.0, 2.0, 3.0, 400.0]), DEVIATIONS, 5)


@pytest.mark.parametrize("steps", [20, 100, 150, 1000, 2000])
def test_windows_fill_the_warm_up_and_grow(steps: int) -> None:
    first, *windows, last = window_lengths(steps)
    assert first + sum(windows) + last == steps
    assert windows == sorted(windows)
    assert (first, last) == (int(0.15 * steps), int(0.1 * steps))


@pytest.mark.parametrize(
    "kernel", [MALA(), HMC(5), GHMC(5), NUTS(6)], ids=["MALA", "HMC", "GHMC", "NUTS"]
)
def test_scales_five_orders_apart_are_found(kernel: Kernel) -> None:
    x = torch.zeros(4, 5)
    steps = 2000 if isinstance(kernel, MALA) else 500  # which goes far in many moves alone
    warm = warm_up(kernel, WIDE, x, steps, generator=generator())
    sampler = Sampler(warm.kernel, steps=200, step_size=warm.step_size)
    info = sampler.sample(WIDE, warm.x, generator=generator(1)).info
    assert info.acceptance.mean().item() == pytest.approx(kernel.best_acceptance, abs=0.25)
    found = getattr(warm.kernel, "mass", None)
    variance = warm.kernel.preconditioner.tensor if found is None else 1 / found.tensor
    assert ((variance.sqrt() / DEVIATIONS).log().abs() < 0.8).all()


@pytest.mark.parametrize(
    "kernel", [Cycle([MALA()]), Tempered(MALA(), [1.0, 2.0])], ids=["Cycle", "Tempered"]
)
def test_a_kernel_without_preconditioner_is_refused_before_the_first_move(kernel: Kernel) -> None:
    made: list[int] = []
    with pytest.raises(ValueError, match="that warm-up can precondition"):
        warm_up(
            kernel,
            WIDE,
            torch.zeros(4, 5),
            100,
            generator=generator(),
            progress=lambda done, total: made.append(done),
        )
    assert not made


@pytest.mark.parametrize("mode", [0.0, torch.pi])
def test_angles_are_as_wide_as_on_the_circle(mode: float) -> None:
    concentration = torch.tensor([0.5, 100.0])  # of von Mises laws: variance .01 of the second
    energy = FunctionEnergy(lambda x: -(concentration * (x - mode).cos()).sum(-1))
    start = Torus(2).reference((32,), generator(3))
    warm = warm_up(HMC(5), energy, start, 400, generator=generator(), space=Torus(2))
    variance = 1 / warm.kernel.mass.tensor
    assert variance[1] == pytest.approx(0.01, rel=0.4)
    assert 1 < variance[0] < torch.pi**2 / 3 * 1.2  # at most that of uniform angles


def test_reflected_coordinates_are_as_wide_as_the_box() -> None:
    energy = FunctionEnergy(lambda x: (x[:, 1] - 0.5).square() / (2 * 0.01**2))
    box = Box(torch.zeros(2), torch.ones(2), walls="reflect")
    x = torch.full((32, 2), 0.5)
    warm = warm_up(HMC(5), energy, x, 400, generator=generator(), space=box)
    variance = 1 / warm.kernel.mass.tensor
    assert variance[0] == pytest.approx(1 / 12, rel=0.3)
    assert variance[1] == pytest.approx(1e-4, rel=0.4)


def test_a_posterior_in_one_call() -> None:
    # Before it knows the scales a trajectory is as long as it may be: short, to save time.
    samples = Sampler(NUTS(max_depth=6), steps=1).trace(
        WIDE, torch.zeros(4, 5), warmup=300, draws=120, generator=generator()
    )
    assert samples.x.shape == (120, 4, 5)
    assert samples.energy.shape == (120, 4)
    assert samples.info.extra["leapfrogs"].mean() < 20
    assert effective_sample_size(samples.x).min() > 150
    assert split_r_hat(samples.x).max() < 1.03
    error = WIDE.deviation / effective_sample_size(samples.x).sqrt()
    assert ((samples.x.mean((0, 1)) - WIDE.mean).abs() < 4 * error).all()
    assert ((samples.x.std((0, 1)) / DEVIATIONS - 1).abs() < 0.2).all()


@pytest.mark.parametrize("target", [0.4, 0.95])
def test_a_warm_up_reaches_the_target_of_the_samplers_adaptation(target: float) -> None:
    sampler = Sampler(MALA(), steps=100, adaptation=DualAveraging(target))
    start = torch.zeros(64, 5)
    samples = sampler.sample(Gaussian(0.0, 1.0, 5), start, warmup=300, generator=generator())
    assert samples.info.acceptance.mean().item() == pytest.approx(target, abs=0.05)


def test_draws_are_every_so_manyeth_move() -> None:
    x, sampler = torch.zeros(3, 5), Sampler(MALA(), steps=1, step_size=1e-4)
    trace = sampler.trace(WIDE, x, draws=6, generator=generator())
    thinned = sampler.trace(WIDE, x, draws=3, thin=2, generator=generator())
    assert torch.equal(thinned.x, trace.x[1::2])
    assert torch.equal(thinned.energy, trace.energy[1::2])


def test_a_warm_up_in_a_box_stays_there() -> None:
    box = Box(torch.zeros(2), torch.tensor([1.0, 1000.0]), walls="tanh")
    energy = FunctionEnergy(lambda x: x[:, 0] * 3 + x[:, 1] / 100)
    samples = Sampler(NUTS(), box, steps=1).trace(
        energy, torch.full((4, 2), 0.5), warmup=300, draws=200, generator=generator()
    )
    assert box.contains(samples.x).all()
    exponential = lambda rate: 1 / rate - 1 / (torch.tensor(rate).exp() - 1) * 1  # noqa: E731
    assert abs(samples.x[..., 0].mean() - exponential(3.0)) < 0.06
    assert abs(samples.x[..., 1].mean() / 1000 - exponential(10.0)) < 0.03


@pytest.mark.parametrize(("kernel", "thin"), [(NUTS(4), 2), (MALA(), 3)], ids=["NUTS", "MALA"])
def test_each_draw_is_reported_and_the_reports_add_up(kernel: Kernel, thin: int) -> None:
    trace = Sampler(kernel, steps=1, step_size=0.5).trace(
        Gaussian(0.0, 1.0, 3), torch.zeros(4, 3), draws=30, thin=thin, generator=generator()
    )
    assert trace.each.acceptance.shape == trace.each.diverged.shape == (30, 4)
    torch.testing.assert_close(trace.each.acceptance.mean(0), trace.info.acceptance)
    for name, values in trace.each.extra.items():
        torch.testing.assert_close(values.mean(0), trace.info.extra[name])


def test_progress_counts_every_move() -> None:
    seen: list[tuple[int, int]] = []
    Sampler(MALA(), steps=1, step_size=0.5).trace(
        Gaussian(0.0, 1.0, 3),
        torch.zeros(4, 3),
        warmup=50,
        draws=30,
        thin=2,
        generator=generator(),
        progress=lambda made, total: seen.append((made, total)),
    )
    made = [one for one, _ in seen]
    assert made == sorted(set(made))
    assert set(range(1, 51)) <= set(made)
    assert seen[-1] == (110, 110)
    assert {total for _, total in seen} == {110}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_draws_go_to_arviz_with_what_the_kernel_reports() -> None:
    arviz = pytest.importorskip("arviz")
    energy, x = Gaussian(0.0, 1.0, 3), torch.zeros(2, 2, 3)
    samples = Sampler(NUTS(3), steps=1, step_size=0.4).trace(
        energy, x, draws=50, generator=generator()
    )
    data = samples.to_arviz("theta")
    assert data.posterior["theta"].shape == (4, 50, 3)
    chain = samples.x[:, 1, 0].numpy()
    assert (data.posterior["theta"].values[2] == chain).all()
    stats = data.sample_stats
    assert stats["lp"].values[2] == pytest.approx(-samples.energy[:, 1, 0].numpy())
    assert stats["n_steps"].max() == 7
    assert stats["tree_depth"].max() == 3
    assert stats["reached_max_treedepth"].dtype == stats["diverging"].dtype == bool
    assert stats["energy"].shape == stats["acceptance_rate"].shape == (4, 50)
    bulk = arviz.ess(data)["theta"].values
    ours = effective_sample_size(samples.x.flatten(1, 2)).numpy()
    assert bulk == pytest.approx(ours, rel=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kernel", [MALA(), NUTS(3)], ids=["MALA", "NUTS"])
@pytest.mark.parametrize("temperature", [0.5, torch.tensor([0.5, 2.0])], ids=["one", "each"])
def test_arviz_gets_the_log_density_that_was_sampled(
    kernel: Kernel, temperature: float | torch.Tensor
) -> None:
    pytest.importorskip("arviz")
    variance, draws = 4.0, 5
    sampler = Sampler(kernel, steps=1, step_size=0.4, temperature=temperature)
    samples = sampler.trace(
        Gaussian(0.0, variance**0.5, 1), torch.ones(2, 1), draws=draws, generator=generator()
    )
    lp = torch.as_tensor(samples.to_arviz().sample_stats["lp"].values)  # (chains, draws)
    x = samples.x[..., 0].T  # of a chain at T the density is that of N(0, T variance)
    own = torch.as_tensor(temperature).expand(2).unsqueeze(-1)
    law = torch.distributions.Normal(0.0, (own * variance).sqrt())
    assert torch.allclose(lp.diff(), law.log_prob(x).diff(), atol=1e-5)
    still = Sampler(ULA(), steps=1).trace(
        Gaussian(0.0, 1.0, 1), torch.ones(2, 1), draws=2, temperature=0.0, generator=generator()
    )
    assert "lp" not in still.to_arviz().sample_stats


def test_without_arviz_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz", None)
    trace = Sampler(MALA(), steps=1).trace(
        Gaussian(0.0, 1.0, 3), torch.zeros(4, 3), draws=2, generator=generator()
    )
    with pytest.raises(ImportError, match="pip install 'ebrl\\[arviz\\]'"):
        trace.to_arviz()


@pytest.mark.parametrize("kernel", [ULA(), SVGD()], ids=["ULA", "SVGD"])
def test_kernels_that_cannot_be_warmed_up_are_refused(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="expected a kernel"):
        warm_up(kernel, WIDE, torch.zeros(4, 5), 100, generator=generator())
    with pytest.raises(ValueError, match="at least 20 steps, got 5"):
        warm_up(MALA(), WIDE, torch.zeros(4, 5), 5, generator=generator())
    with pytest.raises(ValueError, match=r"at least one chain to warm up, got a batch \(0,\)"):
        warm_up(MALA(), WIDE, torch.zeros(0, 5), 100, generator=generator())


def test_an_energy_without_a_scale_is_refused() -> None:
    for energy, shape in (
        (FunctionEnergy(lambda x: 0 * x.sum(-1)), "flat"),
        (FunctionEnergy(lambda x: x.sum(-1) + torch.inf), "infinite or not smooth"),
    ):
        with pytest.raises(ValueError, match=f"accepts small ones .* it is {shape}"):
            warm_up(MALA(), energy, torch.zeros(4, 2), 40, generator=generator())
    with pytest.raises(TypeError, match="expected an Energy, got function"):
        warm_up(MALA(), lambda x: x.sum(-1), torch.zeros(4, 2), 40, generator=generator())
