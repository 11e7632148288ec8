"""Hamiltonian kernels, masses and preconditioners: exact where they say so, biased as they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import CURVED, PROBLEMS, Problem, generator, within_standard_errors
from stepping import IMAGE, run
from torch import Tensor

from ebrl import FunctionEnergy, Gaussian
from ebrl.energies import Repulsion
from ebrl.kernels import GHMC, HMC, MALA, NUTS, ULA, Kernel, Underdamped
from ebrl.kernels.hamiltonian import leapfrog
from ebrl.kernels.protocol import gradient_state

CHAINS = 20_000

# Kernels of a diagonal that differs along the event, with small, middling and large step sizes.
EXACT: dict[str, tuple[Callable[[Tensor], Kernel], tuple[float, float, float]]] = {
    "MALA": (MALA, (0.02, 0.2, 0.7)),
    "HMC": (lambda mass: HMC(3, mass), (0.05, 0.4, 0.7)),
    "GHMC": (lambda mass: GHMC(2, 0.5, mass), (0.05, 0.4, 0.9)),
    "GHMC of one leapfrog": (lambda mass: GHMC(1, 3.0), (0.05, 0.4, 0.9)),
}


def diagonal(dimension: int) -> Tensor:
    return torch.linspace(0.4, 1.6, dimension)


@pytest.mark.parametrize("temperature", [0.4, 2.0])
@pytest.mark.parametrize("size", [0, 1, 2], ids=["small", "middling", "large"])
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("problem", [*PROBLEMS, *CURVED], ids=repr)
def test_exact_kernels_leave_their_target_invariant(
    problem: Problem, name: str, size: int, temperature: float
) -> None:
    mean, variance = problem.mean(temperature), problem.variance(temperature)
    make, step_sizes = EXACT[name]
    x = problem.exact(CHAINS, temperature, np.random.default_rng(1))
    kernel = make(diagonal(len(mean)))
    state, acceptance, _ = run(kernel, problem.energy, x, 8, step_sizes[size], temperature)
    assert acceptance.mean() > 0.005
    assert within_standard_errors(state.x, mean, variance, 4)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("step_size", [0.1, 0.6])
def test_preconditioned_ula_has_the_variance_of_the_discretised_chain(
    step_size: float, temperature: float
) -> None:
    # x <- (1 - ηp/s²) x + √(2ηpT) ξ: with p = s² all coordinates mix, and are biased, alike.
    deviations = torch.tensor([0.2, 1.0, 5.0])
    variance = temperature * deviations.square() / (1 - step_size / 2)
    x = variance.sqrt() * torch.randn(CHAINS, 3, generator=generator(7))
    energy, kernel = Gaussian(0.0, deviations, 3), ULA(deviations.square())
    state, _, _ = run(kernel, energy, x, 20, step_size, temperature)
    assert within_standard_errors(state.x, torch.zeros(3), variance, 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda mass: ULA(None if mass is None else 1 / mass),
        lambda mass: MALA(None if mass is None else 1 / mass),
        lambda mass: HMC(3, mass),
        lambda mass: GHMC(2, mass=mass),
        lambda mass: Underdamped(mass=mass),
        lambda mass: NUTS(5, mass),
    ],
    ids=["ULA", "MALA", "HMC", "GHMC", "Underdamped", "NUTS"],
)
def test_a_diagonal_is_a_change_of_coordinates(make: Callable[[Tensor | None], Kernel]) -> None:
    mass = torch.rand(1, 3, 2, generator=generator(), dtype=torch.float64) + 0.5
    scaled = FunctionEnergy(lambda y: IMAGE(y / mass.sqrt()), event_ndim=3)
    x = torch.randn(20, 1, 3, 2, generator=generator(5), dtype=torch.float64)
    one, acceptance, _ = run(make(mass), IMAGE, x, 4, 0.15, 0.7)
    other, expected, _ = run(make(None), scaled, x * mass.sqrt(), 4, 0.15, 0.7)
    torch.testing.assert_close(one.x, other.x / mass.sqrt())
    torch.testing.assert_close(acceptance, expected)


def test_one_leapfrog_step_with_a_mass_is_preconditioned_mala() -> None:
    problem, length = PROBLEMS[1], 0.5
    mass = torch.tensor([0.5, 2.0], dtype=torch.float64)
    x = problem.exact(100, 1.0, np.random.default_rng(0)).double()
    hmc, mala = HMC(1, mass), MALA(1 / mass)
    state = hmc.start(problem.energy, x)
    noise = hmc.draw(state, generator())
    one, info = hmc.step(problem.energy, state, noise, length, 0.7)
    other, expected = mala.step(problem.energy, state, noise, length**2 / 2, 0.7)
    torch.testing.assert_close(one.x, other.x)
    torch.testing.assert_close(info.acceptance, expected.acceptance)
    assert info.acceptance.min() < 0.9


@pytest.mark.parametrize("masses", [False, True], ids=["unit mass", "masses"])
def test_leapfrog_is_reversible_on_images_and_keeps_the_energy_to_second_order(
    masses: bool,
) -> None:
    stream = generator(2)
    x = torch.randn(6, 2, 3, 3, generator=stream, dtype=torch.float64)
    velocity = torch.randn(6, 2, 3, 3, generator=stream, dtype=torch.float64)
    mass = torch.rand(2, 3, 3, generator=stream, dtype=torch.float64) + 0.5 if masses else None

    def total(state: Tensor, velocity: Tensor) -> Tensor:
        weight = 1.0 if mass is None else mass
        return IMAGE(state) + (weight * velocity.square()).sum((-3, -2, -1)) / 2

    errors = []
    for steps in (20, 40):
        end, last = gradient_state(IMAGE, x), velocity
        for _ in range(steps):
            end, last = leapfrog(IMAGE, end, last, 0.4 / steps, mass)
        errors.append((total(end.x, last) - total(x, velocity)).abs().mean())
        back, turned = end, -last
        for _ in range(steps):
            back, turned = leapfrog(IMAGE, back, turned, 0.4 / steps, mass)
        torch.testing.assert_close(back.x, x)
        torch.testing.assert_close(turned, -velocity)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


# The kernels that keep their velocity.


def test_ghmc_of_infinite_friction_is_hmc() -> None:
    energy, x = PROBLEMS[1].energy, torch.randn(50, 2, generator=generator(4)).double()
    one, acceptance, _ = run(GHMC(3, math.inf), energy, x, 5, 0.4, 0.7)
    other, expected, _ = run(HMC(3), energy, x, 5, 0.4, 0.7)
    torch.testing.assert_close(one.x, other.x)
    torch.testing.assert_close(acceptance, expected)


def test_friction_keeps_the_documented_share_of_the_velocity() -> None:
    # Where nothing pulls, v' = c v + √(1 - c²) ξ √(T/mass) from the first step on.
    flat = FunctionEnergy(lambda x: 0 * x.sum(-1))
    mass, temperature = torch.tensor([0.25, 4.0]), 0.7
    kernel, stream = GHMC(2, friction=0.5, mass=mass), generator()
    state = kernel.start(flat, torch.zeros(CHAINS, 2))
    before = None
    for _ in range(3):
        state, _ = kernel.step(flat, state, kernel.draw(state, stream), 0.3, temperature)
        assert within_standard_errors(state.velocity, torch.zeros(2), temperature / mass, 4)
        if before is not None:
            product = state.velocity * before * mass / temperature
            kept = math.exp(-0.5 * 2 * 0.3)
            error = product.std(0) / CHAINS**0.5
            assert ((product.mean(0) - kept).abs() < 4 * error).all()
        before = state.velocity


def test_ghmc_reverses_the_velocity_on_rejection() -> None:
    energy, kernel = PROBLEMS[1].energy, GHMC(3, friction=0.1)
    state = kernel.start(energy, PROBLEMS[1].exact(200, 1.0, np.random.default_rng(0)).double())
    noise = kernel.draw(state, generator())
    always = noise._replace(uniform=torch.zeros_like(noise.uniform))
    never = noise._replace(uniform=torch.ones_like(noise.uniform))
    first, _ = kernel.step(energy, state, always, 0.2, 1.0)
    stayed, _ = kernel.step(energy, first, never, 0.2, 1.0)
    assert torch.equal(stayed.x, first.x)
    moved, _ = kernel.step(energy, first, always, 0.2, 1.0)
    # Time reversed: from the turned velocity of the end the path leads back to the start of it.
    end, back = gradient_state(energy, moved.x), -moved.velocity
    for _ in range(3):
        end, back = leapfrog(energy, end, back, 0.2, None)
    torch.testing.assert_close(end.x, stayed.x)
    torch.testing.assert_close(back, stayed.velocity)


def test_ghmc_with_little_friction_moves_ballistically() -> None:
    # The square of the distance from the start after a time t is (vt)² = 2t², diffusion's is 2t.
    flat, x = FunctionEnergy(lambda x: 0 * x.sum(-1)), torch.zeros(2000, 2)
    state, _, _ = run(GHMC(1, friction=0.001), flat, x, 100, 0.3)
    assert state.x.square().sum(-1).mean() == pytest.approx(2 * 30**2, rel=0.1)


def test_underdamped_is_ghmc_without_its_test() -> None:
    energy, x = PROBLEMS[1].energy, torch.randn(50, 2, generator=generator(4)).double()
    underdamped, ghmc = Underdamped(0.7), GHMC(1, 0.7)
    one, other = underdamped.start(energy, x), ghmc.start(energy, x)
    stream = generator()
    for _ in range(6):
        noise = ghmc.draw(other, stream)
        one, _ = underdamped.step(energy, one, noise.normal, 0.5, 0.7)
        noise = noise._replace(uniform=torch.zeros_like(noise.uniform))
        other, info = ghmc.step(energy, other, noise, 0.5, 0.7)
        assert info.acceptance.min() < 1
    torch.testing.assert_close(one.x, other.x)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("step_size", [0.2, 0.8])
def test_underdamped_has_the_variance_of_its_splitting(
    step_size: float, temperature: float
) -> None:
    # Leapfrog keeps v² + x² (1 - ε²/4ms²) / ms² on a Gaussian, exactly.
    mass, deviations = torch.tensor([1.0, 2.0]), torch.tensor([0.6, 1.5])
    curvature = 1 / (mass * deviations.square())
    variance = temperature * deviations.square() / (1 - step_size**2 * curvature / 4)
    x = variance.sqrt() * torch.randn(CHAINS, 2, generator=generator(7))
    energy, kernel = Gaussian(0.0, deviations, 2), Underdamped(mass=mass)
    state, acceptance, _ = run(kernel, energy, x, 20, step_size, temperature)
    assert within_standard_errors(state.x, torch.zeros(2), variance, 4)
    assert (acceptance - 1).abs().max() < 1e-5
    assert within_standard_errors(state.velocity, torch.zeros(2), temperature / mass, 4)


def test_the_bias_of_underdamped_is_of_second_order() -> None:
    # The logistic law, of variance π²/3: its energy is no square, and is so smooth that no step of
    # this size fails.
    energy = FunctionEnergy(lambda x: (x + 2 * torch.nn.functional.softplus(-x)).sum(-1))
    stream, kernel, biases = generator(1), Underdamped(1.5), []
    x = torch.rand(CHAINS, 8, generator=stream).clamp(1e-6, 1 - 1e-6).logit()
    for step_size in (1.2, 0.6):
        state, squares = kernel.start(energy, x), []
        for _ in range(40):
            state, _ = kernel.step(energy, state, kernel.draw(state, stream), step_size, 1.0)
            squares.append(state.x.square().mean())
        biases.append(torch.stack(squares[15:]).mean().item() - math.pi**2 / 3)
    assert biases[1] > 0.08
    assert biases[0] / biases[1] == pytest.approx(4, rel=0.25)


def test_underdamped_at_temperature_zero_finds_the_minimum() -> None:
    x = torch.randn(20, 2, generator=generator())
    state, _, _ = run(Underdamped(), PROBLEMS[1].energy, x, 300, 0.3, temperature=0.0)
    torch.testing.assert_close(state.x, torch.full_like(x, 2.0).log(), rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_bfloat16() -> None:
    x = torch.randn(20, 2, generator=generator()).bfloat16()
    for kernel in (ULA(diagonal(2)), GHMC(2, mass=diagonal(2)), Underdamped(), NUTS(2)):
        state, _, _ = run(kernel, PROBLEMS[1].energy, x, 3, 0.1)
        assert state.x.dtype == torch.bfloat16
        assert state.x.isfinite().all()


# Bad input.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GHMC(0), "leapfrogs >= 1, got 0"),
        (lambda: GHMC(friction=0.0), "a positive friction, got 0.0"),
        (lambda: Underdamped(friction=-1.0), "a positive friction, got -1.0"),
        (lambda: HMC(mass=torch.tensor([1.0, 0.0])), "a mass of positive numbers, got"),
        (lambda: MALA(torch.tensor([torch.nan])), "a preconditioner of positive numbers, got"),
        (lambda: ULA(torch.tensor([torch.inf])), "a preconditioner of positive numbers, got"),
        (lambda: NUTS(max_depth=0), "max_depth >= 1, got 0"),
    ],
)
def test_impossible_kernels_are_refused(make: Callable[[], Kernel], message: str) -> None:
    with pytest.raises(ValueError, match=f"expected {message}"):
        make()


@pytest.mark.parametrize(
    "make", [ULA, MALA, *(lambda m, k=k: k(mass=m) for k in (HMC, GHMC, NUTS))]
)
def test_a_diagonal_has_the_shape_of_the_event(make: Callable[[Tensor], Kernel]) -> None:
    with pytest.raises(ValueError, match=r"of the event's shape \(3,\), got \(2,\)"):
        make(torch.ones(2)).start(PROBLEMS[0].energy, torch.zeros(5, 3))


@pytest.mark.parametrize("kernel", [MALA(), HMC(), GHMC(), NUTS()], ids=lambda k: type(k).__name__)
def test_kernels_with_a_test_refuse_energies_that_couple_chains(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="couples the chains"):
        kernel.start(Gaussian(0.0, 1.0, 2) + Repulsion(0.5), torch.zeros(4, 2))
    Underdamped().start(Gaussian(0.0, 1.0, 2) + Repulsion(0.5), torch.zeros(4, 2))


@pytest.mark.parametrize("kernel", [HMC(3), GHMC(3)], ids=["HMC", "GHMC"])
def test_the_energy_error_explains_the_acceptance(kernel: Kernel) -> None:
    energy = Gaussian(0.0, 1.0, 4)
    state = kernel.start(energy, torch.randn(50, 4, generator=generator()))
    noise = kernel.draw(state, generator(1))
    _, info = kernel.step(energy, state, noise, 0.7, 2.0)
    kinetic = 2.0 * noise.normal.square().sum(-1) / 2
    torch.testing.assert_close(info.extra["hamiltonian"], (state.energy + kinetic) / 2.0)
    torch.testing.assert_close(info.acceptance, (-info.extra["energy_error"]).exp().clamp(max=1))
    assert info.extra["energy_error"].std() > 0.1


def test_jitter_mixes_where_whole_periods_come_round() -> None:
    # Six leapfrog steps at this length are a whole period of the unit Gaussian.
    period = 2 * math.sin(math.pi / 6)
    energy, x = Gaussian(0.0, 1.0, 2), torch.randn(2000, 2, generator=generator())
    correlations = []
    for kernel in (HMC(6), HMC(6, jitter=0.5)):
        state, acceptance, _ = run(kernel, energy, x, 3, period)
        assert acceptance.mean() > 0.3
        correlations.append(torch.corrcoef(torch.stack([x[:, 0], state.x[:, 0]]))[0, 1])
    assert correlations[0] > 0.99
    assert correlations[1].abs() < 0.4
    assert abs(state.x.var() - 1) < 4 * (2 / 4000) ** 0.5
    with pytest.raises(ValueError, match=r"0 <= jitter < 1, .*got 2"):
        HMC(6, jitter=2.0)
    assert HMC(6, jitter=0.5).preconditioned(torch.ones(2)).jitter == 0.5
