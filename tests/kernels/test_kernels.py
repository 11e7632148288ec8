"""Kernels: the law each leaves invariant, and what all of them keep to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from kernel_problems import NormalProposal
from problems import MODES, PROBLEMS, Problem, generator, pairwise, within_standard_errors
from stepping import run
from torch import Tensor

from ebrl import Energy, FunctionEnergy, Gaussian
from ebrl.kernels import (
    GHMC,
    HMC,
    MALA,
    NUTS,
    ULA,
    GibbsWithGradients,
    GradientDescent,
    IteratedSIR,
    Kernel,
)

CHAINS = 20_000


# What each leaves invariant. Chains start from exact draws, so that no step size is too small to
# mix and none too large: the law must not move. 4 standard errors, some 300 numbers compared.


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    ("kernel", "step_size"),
    [
        *((MALA(), step_size) for step_size in (0.02, 0.3, 1.0)),
        *((HMC(4), step_size) for step_size in (0.05, 0.4, 0.8)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, (MALA, HMC)) else str(value),
)
@pytest.mark.parametrize("problem", PROBLEMS, ids=repr)
def test_metropolis_kernels_are_exact_at_every_step_size(
    problem: Problem, kernel: Kernel, step_size: float, temperature: float
) -> None:
    x = problem.exact(CHAINS, temperature, np.random.default_rng(0))
    state, acceptance, _ = run(kernel, problem.energy, x, 20, step_size, temperature)
    mean, variance = problem.mean(temperature), problem.variance(temperature)
    assert acceptance.mean() > 0.01
    assert within_standard_errors(state.x, mean, variance, 4)


@pytest.mark.parametrize("step_size", [0.5, 1.0])
def test_ula_fails_the_test_that_the_others_pass(step_size: float) -> None:
    problem = PROBLEMS[1]
    x = problem.exact(CHAINS, 1.0, np.random.default_rng(0))
    state, _, _ = run(ULA(), problem.energy, x, 20, step_size)
    assert not within_standard_errors(state.x, problem.mean(1.0), problem.variance(1.0), 4)


@pytest.mark.parametrize("temperature", [0.25, 1.0])
@pytest.mark.parametrize("step_size", [0.1, 0.5, 1.5])
def test_ula_has_the_variance_of_the_discretised_chain(
    step_size: float, temperature: float
) -> None:
    # x <- (1 - η/s²) x + √(2ηT) ξ has the variance T s² / (1 - η / 2s²), exactly.
    deviation = 1.3
    variance = torch.tensor([temperature * deviation**2 / (1 - step_size / (2 * deviation**2))])
    x = variance.sqrt() * torch.randn(CHAINS, 1, generator=generator(7))
    state, acceptance, _ = run(ULA(), Gaussian(0.0, deviation, 1), x, 20, step_size, temperature)
    assert within_standard_errors(state.x, torch.zeros(1), variance, 4)
    assert (acceptance - 1).abs().max() < 1e-5


@pytest.mark.parametrize("kernel", [MALA(), HMC(4)], ids=["MALA", "HMC"])
def test_acceptance_goes_to_one_with_the_step_size(kernel: Kernel) -> None:
    problem = PROBLEMS[1]
    x = problem.exact(2000, 1.0, np.random.default_rng(0)).double()
    rejections = [
        1 - run(kernel, problem.energy, x, 3, step_size)[1].mean().item()
        for step_size in (0.4, 0.1, 0.025)
    ]
    assert rejections[0] > 2 * rejections[1] > 4 * rejections[2] > 0
    assert rejections[2] < 0.01


@pytest.mark.parametrize(
    "kernel", [MALA(), HMC(3), GHMC(2), NUTS(4)], ids=["MALA", "HMC", "GHMC", "NUTS"]
)
def test_metropolis_kernels_move_images_as_vectors(kernel: Kernel) -> None:
    image = FunctionEnergy(lambda x: x.pow(4).sum((-3, -2, -1)), event_ndim=3)
    vector = FunctionEnergy(lambda x: x.pow(4).sum(-1))
    x = torch.randn(6, 2, 4, 3, generator=generator(7), dtype=torch.float64)
    as_image, acceptance, _ = run(kernel, image, x, 5, 0.2)
    as_vector, expected, _ = run(kernel, vector, x.flatten(1), 5, 0.2)
    torch.testing.assert_close(as_image.x.flatten(1), as_vector.x)
    torch.testing.assert_close(acceptance, expected)
    assert acceptance.min() < 0.999


def test_one_leapfrog_step_is_mala() -> None:
    problem, length, temperature = PROBLEMS[1], 0.6, 0.7
    x = problem.exact(100, 1.0, np.random.default_rng(0)).double()
    hmc, mala = HMC(1), MALA()
    state = hmc.start(problem.energy, x)
    noise = hmc.draw(state, generator())
    one, info = hmc.step(problem.energy, state, noise, length, temperature)
    other, expected = mala.step(problem.energy, state, noise, length**2 / 2, temperature)
    torch.testing.assert_close(one.x, other.x)
    torch.testing.assert_close(info.acceptance, expected.acceptance)
    assert info.acceptance.min() < 0.9


def test_hmc_is_the_leapfrog_integrator_and_reversible() -> None:
    energy, kernel, length, temperature = PROBLEMS[1].energy, HMC(7), 0.15, 0.6
    x = PROBLEMS[1].exact(50, 1.0, np.random.default_rng(0)).double()
    state = kernel.start(energy, x)
    noise = kernel.draw(state, generator())
    always = torch.zeros_like(noise.uniform)
    there, info = kernel.step(energy, state, type(noise)(noise.normal, always), length, temperature)
    # Leapfrog as in the books: half a kick, drifts and whole kicks, half a kick.
    position, momentum = x, temperature**0.5 * noise.normal
    start = energy(x) + momentum.square().sum(-1) / 2
    momentum = momentum - length / 2 * energy.value_and_gradient(position)[1]
    for _ in range(7):
        position = position + length * momentum
        momentum = momentum - length * energy.value_and_gradient(position)[1]
    momentum = momentum + length / 2 * energy.value_and_gradient(position)[1]
    gained = energy(position) + momentum.square().sum(-1) / 2 - start
    torch.testing.assert_close(there.x, position)
    torch.testing.assert_close(info.acceptance, (-gained / temperature).exp().clamp(max=1))
    reversed_noise = type(noise)(-momentum / temperature**0.5, always)
    back, _ = kernel.step(energy, there, reversed_noise, length, temperature)
    torch.testing.assert_close(back.x, x)


@pytest.mark.parametrize("start", [3.0, -3.0])
def test_iterated_sir_weighs_modes_that_no_gradient_connects(start: float) -> None:
    kernel = IteratedSIR(NormalProposal(4.0), candidates=4)
    x = torch.full((CHAINS, 1), start)
    state, _, _ = run(kernel, MODES.energy, x, 40)
    # Of the wrong start (1 - rate)^40 is left, and the rate of replacement is above .3.
    standard_error = (0.7 * 0.3 / CHAINS) ** 0.5
    assert (state.x > 0).double().mean() == pytest.approx(MODES.share, abs=4 * standard_error)


@pytest.mark.parametrize("candidates", [1, 4])
def test_iterated_sir_is_exact_from_exact_draws(candidates: int) -> None:
    x = MODES.exact(CHAINS, np.random.default_rng(0))
    kernel = IteratedSIR(NormalProposal(4.0), candidates)
    state, acceptance, _ = run(kernel, MODES.energy, x, 10)
    assert 0.1 < acceptance.mean() < 0.9
    # Mean 3 (.7 - .3), second moment 9 + .25.
    mean, variance = torch.tensor([1.2]), torch.tensor([9.25 - 1.2**2])
    assert within_standard_errors(state.x, mean, variance, 4)


def test_iterated_sir_takes_a_temperature_for_each_chain() -> None:
    temperature = torch.tensor([0.25, 1.0, 2.0]).repeat_interleave(5000)
    kernel = IteratedSIR(NormalProposal(2.0), candidates=8)
    x = torch.zeros(3 * 5000, 1)
    state, _, _ = run(kernel, Gaussian(0.0, 1.0, 1), x, 25, temperature=temperature)
    for chains, one in zip(state.x.split(5000), (0.25, 1.0, 2.0), strict=True):
        assert within_standard_errors(chains, torch.zeros(1), torch.tensor([one]), 4)


def test_iterated_sir_stays_if_no_candidate_has_weight() -> None:
    nowhere = FunctionEnergy(lambda x: torch.full(x.shape[:-1], torch.inf))
    x = torch.arange(5.0)[:, None]
    state, acceptance, lost = run(IteratedSIR(NormalProposal(1.0)), nowhere, x, 3)
    torch.testing.assert_close(state.x, x)
    assert (acceptance == 0).all()
    assert (lost == 0).all()


def test_iterated_sir_leaves_a_start_that_its_proposal_never_draws() -> None:
    class Uniform(NormalProposal):
        def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
            return torch.rand(*batch, 1, generator=generator)

        def log_density(self, x: Tensor) -> Tensor:
            return torch.where((x >= 0) & (x < 1), 0.0, -torch.inf).squeeze(-1)

    state, _, _ = run(IteratedSIR(Uniform(1.0)), Gaussian(0.0, 1.0, 1), torch.full((9, 1), 3.0), 1)
    assert ((state.x >= 0) & (state.x < 1)).all()


# Descent and temperature 0.


def test_descent_minimises_at_every_temperature() -> None:
    problem = PROBLEMS[1]
    x = problem.exact(100, 1.0, np.random.default_rng(0))
    cold, _, _ = run(GradientDescent(), problem.energy, x, 200, 0.2, temperature=0.0)
    hot, _, _ = run(GradientDescent(), problem.energy, x, 200, 0.2, temperature=9.0, seed=2)
    assert torch.equal(cold.x, hot.x)
    torch.testing.assert_close(cold.x, torch.full_like(x, 2.0).log())  # e^x = 2


def test_descent_lowers_the_energy_at_every_step() -> None:
    energy, kernel = PROBLEMS[1].energy, GradientDescent()
    state = kernel.start(energy, torch.randn(50, 2, generator=generator()))
    for _ in range(5):
        before = state.energy
        state, _ = kernel.step(energy, state, None, 0.05, 1.0)
        assert (state.energy < before).all()


def test_momentum_is_that_of_polyak() -> None:
    energy, x = Gaussian(0.0, 1.0, 2), torch.ones(1, 2, dtype=torch.float64)
    state, _, _ = run(GradientDescent(momentum=0.8), energy, x, 4, 0.3)
    position, velocity = 1.0, 0.0
    for _ in range(4):
        velocity = 0.8 * velocity - 0.3 * position
        position += velocity
    torch.testing.assert_close(state.x, torch.full_like(x, position))


def test_descent_stops_at_a_wall() -> None:
    walled = FunctionEnergy(lambda x: torch.where(x[..., 0] > 1, torch.inf, -x[..., 0]))
    state, acceptance, lost = run(GradientDescent(0.9), walled, torch.zeros(1, 1), 20, 0.3)
    assert state.x <= 1
    assert state.velocity.abs() <= 0.3 / (1 - 0.9)
    assert acceptance < 1
    assert lost == 0


@pytest.mark.parametrize("kernel", [ULA(), MALA(), HMC(1)], ids=["ULA", "MALA", "HMC"])
def test_temperature_zero_is_descent(kernel: Kernel) -> None:
    length = 0.3
    step_size = length if isinstance(kernel, HMC) else length**2 / 2
    energy, x = Gaussian(0.0, 1.0, 2), torch.ones(3, 2)
    state, acceptance, _ = run(kernel, energy, x, 10, step_size, temperature=0.0)
    torch.testing.assert_close(state.x, (1 - length**2 / 2) ** 10 * x)
    torch.testing.assert_close(acceptance, torch.ones(3))


@pytest.mark.parametrize(
    ("kernel", "energy", "x"),
    [
        (IteratedSIR(NormalProposal(1.0)), Gaussian(0.0, 1.0, 1), torch.zeros(3, 1)),
        (GibbsWithGradients(), pairwise(3, 2), torch.eye(2)[[0, 1, 0]]),
        (NUTS(), Gaussian(0.0, 1.0, 1), torch.zeros(3, 1)),
    ],
    ids=["IteratedSIR", "GibbsWithGradients", "NUTS"],
)
def test_kernels_without_a_limit_at_temperature_zero_refuse_it(
    kernel: Kernel, energy: Energy, x: Tensor
) -> None:
    with pytest.raises(ValueError, match="expected a positive temperature, got"):
        run(kernel, energy, x, 1, temperature=0.0)


@pytest.mark.parametrize(
    "make", [lambda: HMC(0), lambda: GradientDescent(1.0), lambda: IteratedSIR(None, 0)]
)
def test_impossible_kernels_are_refused(make: Callable[[], Kernel]) -> None:
    with pytest.raises(ValueError, match=r"expected .* got"):
        make()
