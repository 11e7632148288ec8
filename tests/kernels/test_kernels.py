"""Kernels: the law each leaves invariant, and what all of them keep to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from problems import MODES, PROBLEMS, Problem, generator, pairwise, within_standard_errors
from stepping import IMAGE, Counting, run
from torch import Tensor

from ebrl import Energy, FunctionEnergy, Gaussian
from ebrl.kernels import (
    DMALA,
    DULA,
    GHMC,
    HMC,
    MALA,
    NUTS,
    ULA,
    Cycle,
    Gibbs,
    GibbsWithGradients,
    GradientDescent,
    IndependenceMetropolis,
    IteratedSIR,
    Kernel,
    Tempered,
    Underdamped,
)

CHAINS = 20_000
ON_CATEGORIES = (DMALA, DULA, Gibbs, GibbsWithGradients)


class NormalProposal(NamedTuple):
    """`N(0, deviation²)` in each dimension."""

    deviation: float
    dimension: int = 1

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.deviation * torch.randn(*batch, self.dimension, generator=generator)

    def log_density(self, x: Tensor) -> Tensor:
        return -Gaussian(0.0, self.deviation, self.dimension)(x)


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


# The protocol, which all of them keep.


class Case(NamedTuple):
    kernel: Kernel
    energy: Energy
    event: tuple[int, ...]

    def start(self, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
        if self.energy.event_ndim == 2:  # one-hot categories
            sites, categories = self.event
            index = torch.randint(categories, (*batch, sites), generator=generator(5))
            return torch.nn.functional.one_hot(index, categories).to(dtype)
        return torch.randn(*batch, *self.event, generator=generator(5), dtype=dtype)


SKEWED = PROBLEMS[1].energy
DIAGONAL = torch.tensor([0.6, 1.5])
CASES = {
    "ULA": Case(ULA(), SKEWED, (2,)),
    "MALA": Case(MALA(), SKEWED, (2,)),
    "MALA on images": Case(MALA(), IMAGE, (1, 3, 2)),
    "preconditioned ULA": Case(ULA(DIAGONAL), SKEWED, (2,)),
    "preconditioned MALA": Case(MALA(DIAGONAL), SKEWED, (2,)),
    "HMC": Case(HMC(3), SKEWED, (2,)),
    "HMC with a mass on images": Case(HMC(3, DIAGONAL.expand(1, 3, 2)), IMAGE, (1, 3, 2)),
    "GHMC": Case(GHMC(2, mass=DIAGONAL), SKEWED, (2,)),
    "Underdamped": Case(Underdamped(), SKEWED, (2,)),
    "NUTS": Case(NUTS(4, DIAGONAL), SKEWED, (2,)),
    "NUTS on images": Case(NUTS(4), IMAGE, (1, 3, 2)),
    "IteratedSIR": Case(IteratedSIR(NormalProposal(1.5, 2), 4), SKEWED, (2,)),
    "IndependenceMetropolis": Case(IndependenceMetropolis(NormalProposal(1.5, 2)), SKEWED, (2,)),
    "Cycle": Case(Cycle([IteratedSIR(NormalProposal(1.5, 2), 4), MALA()]), SKEWED, (2,)),
    "Cycle on images": Case(Cycle([MALA(), GHMC()]), IMAGE, (1, 3, 2)),
    "Tempered": Case(Tempered(MALA(), [1.0, 2.0, 5.0]), SKEWED, (2,)),
    "Tempered cycle": Case(
        Tempered(Cycle([IteratedSIR(NormalProposal(1.5, 2), 4), HMC(2)]), [1.0, 2.0]), SKEWED, (2,)
    ),
    "Tempered Gibbs with gradients": Case(
        Tempered(GibbsWithGradients(), [1.0, 3.0]), pairwise(5, 3), (5, 3)
    ),
    "GradientDescent": Case(GradientDescent(0.5), SKEWED, (2,)),
    "GibbsWithGradients": Case(GibbsWithGradients(), pairwise(5, 3), (5, 3)),
    "Gibbs": Case(Gibbs(), pairwise(5, 3), (5, 3)),
    "systematic Gibbs": Case(Gibbs("systematic"), pairwise(5, 3), (5, 3)),
    "DULA": Case(DULA(), pairwise(5, 3), (5, 3)),
    "DMALA": Case(DMALA(), pairwise(5, 3), (5, 3)),
}
every_kernel = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def parts(kernel: Kernel) -> list[Kernel]:
    """Return the kernels that a kernel is made of."""
    inner = getattr(kernel, "kernels", [kernel.kernel] if isinstance(kernel, Tempered) else [])
    return [part for one in inner for part in parts(one)] or [kernel]


def rows(tree: Any, index: Any) -> Any:
    """Return the chains `index` of a state or of a step's noise."""
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else tree[index]
    if isinstance(tree, dict):
        return {name: rows(field, index) for name, field in tree.items()}
    fields = [rows(field, index) for field in tree]
    return tuple(fields) if type(tree) is tuple else type(tree)(*fields)


def tensors(tree: Any) -> list[Tensor]:
    if tree is None or isinstance(tree, Tensor):
        return [] if tree is None else [tree]
    fields = tree.values() if isinstance(tree, dict) else tree
    return [tensor for field in fields for tensor in tensors(field)]


@every_kernel
@pytest.mark.parametrize("batch", [(), (4,), (4, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_and_types_are_those_of_the_start(
    case: Case, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = case.start(*batch, dtype=dtype)
    state = case.kernel.start(case.energy, x)
    for _ in range(3):
        noise = case.kernel.draw(state, generator())
        state, info = case.kernel.step(case.energy, state, noise, 0.1, 0.7)
    assert state.x.shape == (*batch, *case.event)
    assert state.energy.shape == info.acceptance.shape == info.diverged.shape == batch
    assert state.x.dtype == state.energy.dtype == dtype
    assert info.diverged.dtype == torch.bool
    torch.testing.assert_close(state.energy, case.energy(state.x))
    assert ((info.acceptance >= 0) & (info.acceptance <= 1)).all()


@every_kernel
def test_a_step_is_a_function_of_its_noise_and_changes_nothing(case: Case) -> None:
    x = case.start(6)
    state = case.kernel.start(case.energy, x)
    noise = case.kernel.draw(state, generator())
    given = [tensor.clone() for tensor in [x, *tensors(state), *tensors(noise)]]
    torch.manual_seed(0)
    random_state = torch.get_rng_state()
    one = case.kernel.step(case.energy, state, noise, 0.2, 0.7)
    two = case.kernel.step(case.energy, state, noise, 0.2, 0.7)
    for first, second in zip(tensors(one), tensors(two), strict=True):
        assert torch.equal(first, second)
    for before, after in zip(given, [x, *tensors(state), *tensors(noise)], strict=True):
        assert torch.equal(before, after)
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(tensor.requires_grad for tensor in tensors(one))


@every_kernel
def test_chains_are_independent(case: Case) -> None:
    state = case.kernel.start(case.energy, case.start(6))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for seed in range(4):
        noise = case.kernel.draw(state, generator(seed))
        together = case.kernel.step(case.energy, state, noise, 0.3, 0.7)
        permuted = case.kernel.step(case.energy, rows(state, order), rows(noise, order), 0.3, 0.7)
        for all_chains, reordered in zip(tensors(together), tensors(permuted), strict=True):
            torch.testing.assert_close(all_chains[order], reordered)
        for chain in range(6):
            one = slice(chain, chain + 1)
            alone = case.kernel.step(case.energy, rows(state, one), rows(noise, one), 0.3, 0.7)
            for all_chains, single in zip(tensors(together), tensors(alone), strict=True):
                torch.testing.assert_close(all_chains[one], single)
        state = together[0]


@every_kernel
def test_step_size_and_temperature_are_numbers_or_one_for_each_chain(case: Case) -> None:
    state = case.kernel.start(case.energy, case.start(4, 3))
    noise = case.kernel.draw(state, generator())
    number = case.kernel.step(case.energy, state, noise, 0.2, 0.7)
    step_size, temperature = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for shape in [(), (4, 3)]:
        each = case.kernel.step(
            case.energy, state, noise, step_size.expand(shape), temperature.expand(shape)
        )
        for one, other in zip(tensors(number), tensors(each), strict=True):
            torch.testing.assert_close(one, other)
    # Chains at temperatures of their own move as they would alone.
    temperature = torch.linspace(0.3, 2.0, 12, dtype=torch.float64).view(4, 3)
    together = case.kernel.step(case.energy, state, noise, 0.2, temperature)
    alone = case.kernel.step(
        case.energy, rows(state, (2, 1)), rows(noise, (2, 1)), 0.2, temperature[2, 1].item()
    )
    for all_chains, single in zip(tensors(together), tensors(alone), strict=True):
        torch.testing.assert_close(all_chains[2, 1], single)


@every_kernel
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, torch.inf], ids=str)
def test_moves_without_a_density_are_rejected_and_counted(case: Case, bad: float) -> None:
    def function(x: Tensor) -> Tensor:  # what is bad lies downhill
        first = x.flatten(-case.energy.event_ndim)[..., 0]
        return torch.where(first > 0.5, bad, -2 * first + 0.1 * case.energy(x))

    energy = FunctionEnergy(function, case.energy.event_ndim)
    x = case.start(200)
    x = torch.where((x.flatten(1)[:, 0] > 0.5).view(-1, *(1,) * len(case.event)), x.roll(1, -1), x)
    x = x[energy(x).isfinite()]
    state, acceptance, lost = run(case.kernel, energy, x, 20, 0.3)
    assert len(x) > 20
    assert state.x.isfinite().all()
    assert state.energy.isfinite().all()
    assert ((acceptance >= 0) & (acceptance <= 1 + 1e-6)).all()
    assert (acceptance < 0.999).any() or isinstance(case.kernel, Gibbs)  # which always accepts
    assert (lost.sum() == 0) == (bad == torch.inf)


@every_kernel
def test_an_exploding_step_is_reported_as_a_divergence(case: Case) -> None:
    without = (*ON_CATEGORIES, IndependenceMetropolis, IteratedSIR)
    if any(isinstance(part, without) for part in parts(case.kernel)):
        pytest.skip("no step size, or none that explodes")
    x = case.start(5)
    state, _, lost = run(case.kernel, case.energy, x, 3, torch.inf)
    torch.testing.assert_close(state.x, x)
    assert (lost == 3).all()


def on_meta(tree: Any) -> Any:
    """Return a state or noise without its numbers: only shapes and types."""
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else tree.to("meta")
    fields = [on_meta(field) for field in tree]
    return tuple(fields) if type(tree) is tuple else type(tree)(*fields)


@every_kernel
def test_a_step_never_waits_for_the_host(case: Case) -> None:
    kinds = {type(kernel) for kernel in parts(case.kernel)}
    if kinds & {NUTS, IteratedSIR, IndependenceMetropolis}:
        pytest.skip("NUTS waits; the proposal of the others lives on the CPU")
    state = case.kernel.start(case.energy, case.start(4))
    noise = case.kernel.draw(state, generator())
    step_size, temperature = (torch.tensor(value, device="meta") for value in (0.2, 0.7))
    # To read a number here, as a branch or `.item()` would, is an error.
    moved, _ = case.kernel.step(case.energy, on_meta(state), on_meta(noise), step_size, temperature)
    assert moved.x.device.type == "meta"


@pytest.mark.parametrize(
    ("name", "values", "gradients"),
    [
        ("ULA", 0, 1 + 5),
        ("MALA", 0, 1 + 5),
        ("preconditioned MALA", 0, 1 + 5),
        ("HMC", 0, 1 + 3 * 5),
        ("GHMC", 0, 1 + 2 * 5),
        ("Underdamped", 0, 1 + 5),
        ("GradientDescent", 0, 1 + 5),
        ("GibbsWithGradients", 0, 1 + 5),
        ("Gibbs", 1 + 5, 0),
        ("DULA", 0, 1 + 5),
        ("DMALA", 0, 1 + 5),
        ("IteratedSIR", 1 + 5, 0),
        ("IndependenceMetropolis", 1 + 5, 0),
        ("Cycle", 1 + 5, 1 + 2 * 5),
        ("Cycle on images", 0, 1 + 2 * 5),
        ("Tempered", 0, 1 + 5),
        ("Tempered cycle", 1 + 5, 1 + 3 * 5),
    ],
)
def test_nothing_is_evaluated_twice(name: str, values: int, gradients: int) -> None:
    case = CASES[name]
    energy = Counting(case.energy)
    run(case.kernel, energy, case.start(4), 5)
    assert (energy.values, energy.gradients) == (values, gradients)
