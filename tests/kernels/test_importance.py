"""Kernels that jump: importance moves, cycles of them with gradients, and tempered replicas."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from problems import (
    CURVED,
    DISCRETE,
    PROBLEMS,
    Discrete,
    Problem,
    Truncated,
    generator,
    total_variation,
    within_standard_errors,
)
from torch import Tensor

from ebrl import Energy, FunctionEnergy, Gaussian, Mixture, Sampler
from ebrl.energies import Repulsion
from ebrl.estimators.annealing import Annealing
from ebrl.kernels import (
    GHMC,
    HMC,
    MALA,
    SVGD,
    Blocks,
    Cycle,
    Gibbs,
    GibbsWithGradients,
    IndependenceMetropolis,
    IteratedSIR,
    Kernel,
    Proposal,
    ReferenceProposal,
    Tempered,
)
from ebrl.kernels.tempering import Rungs, exchanged
from ebrl.networks import MLPEnergy
from ebrl.objectives import ContrastiveDivergence
from ebrl.sampling import importance_resampling
from ebrl.spaces import Binary, Box, Product, Space, Unbounded

CHAINS = 5000
KERNELS = {
    "IndependenceMetropolis": lambda proposal: IndependenceMetropolis(proposal),
    "IteratedSIR": lambda proposal: IteratedSIR(proposal, 4),
    "Cycle": lambda proposal: Cycle([IteratedSIR(proposal, 4), MALA()]),
    "Cycle of gradients": lambda proposal: Cycle([HMC(2), MALA()]),
}


# What each leaves invariant. Chains start from exact draws: the law must not move.


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("problem", "temperature"),
    [*((problem, 1.0) for problem in PROBLEMS + CURVED), *((one, 0.4) for one in PROBLEMS)],
    ids=lambda value: str(value),
)
def test_kernels_leave_the_distribution_invariant(
    problem: Problem, temperature: float, kernel: str
) -> None:
    x = problem.exact(CHAINS, temperature, np.random.default_rng(1))
    mean, variance = problem.mean(temperature), problem.variance(temperature)
    proposal = Gaussian(mean, 1.5 * variance.sqrt(), len(mean))
    sampler = Sampler(KERNELS[kernel](proposal), steps=6, step_size=0.1, temperature=temperature)
    samples = sampler.sample(problem.energy, x, generator=generator(2))
    assert 0.05 < samples.info.acceptance.mean() < 0.999
    assert within_standard_errors(samples.x, mean, variance, 4)


@pytest.mark.parametrize(
    "kernel",
    [Tempered(GibbsWithGradients(), [1.0, 2.0, 4.0]), Cycle([Gibbs(), GibbsWithGradients()])],
    ids=["Tempered", "Cycle"],
)
@pytest.mark.parametrize("problem", DISCRETE[1:], ids=repr)
def test_configurations_are_found_with_their_probabilities(
    problem: Discrete, kernel: Kernel
) -> None:
    corner = problem.configurations()[0].expand(CHAINS, -1, -1)
    sampler = Sampler(kernel, problem.space, steps=40)
    x = sampler.sample(problem.energy, corner, generator=generator()).x
    probabilities = problem.probabilities()
    counts = torch.bincount(problem.index(x), minlength=len(probabilities))
    # A perfect sampler's distance is about Σ √(2 p (1 - p) / π n) / 2.
    perfect = (2 * probabilities * (1 - probabilities) / torch.pi / CHAINS).sqrt().sum() / 2
    assert total_variation(counts, probabilities) < 1.5 * perfect


# Unequal modes, six deviations of either from the barrier, and all chains in the lesser one.


def unequal(share: float) -> Energy:
    return Mixture([Gaussian(3.0, 0.5, 1), Gaussian(-3.0, 0.5, 1)], [share, 1 - share])


def weight_found(kernel: Kernel, share: float, steps: int) -> float:
    start = torch.full((20_000, 1), -3.0)
    sampler = Sampler(kernel, steps=steps, step_size=0.3)
    x = sampler.sample(unequal(share), start, generator=generator(3)).x
    return (x > 0).double().mean().item()


@pytest.mark.parametrize("share", [0.7, 0.8])
@pytest.mark.parametrize(
    ("kernel", "steps"),
    [
        (IndependenceMetropolis(Gaussian(0.0, 3.5, 1)), 80),
        (IteratedSIR(Gaussian(0.0, 3.5, 1), 8), 20),
        (IteratedSIR(ReferenceProposal(Box(-6.0, 6.0)), 8), 20),
        (Cycle([IteratedSIR(Gaussian(0.0, 3.5, 1), 8), MALA()]), 15),
        (Tempered(MALA(), [1.0, 6.0, 36.0]), 60),
    ],
    ids=["IndependenceMetropolis", "IteratedSIR", "uniform IteratedSIR", "Cycle", "Tempered"],
)
def test_unequal_modes_get_their_weights(kernel: Kernel, steps: int, share: float) -> None:
    assert weight_found(kernel, share, steps) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    "kernel", [MALA(), HMC(5), Cycle([MALA(), HMC(5)])], ids=["MALA", "HMC", "Cycle"]
)
def test_gradients_alone_never_find_the_other_mode(kernel: Kernel) -> None:
    assert weight_found(kernel, 0.8, 30) < 0.01


# Sampling importance resampling as a start.


class Coin(NamedTuple):
    """One of two places, -1 and 1, with equal chances: its law after resampling is a sum."""

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return 2.0 * torch.randint(2, (*batch, 1), generator=generator) - 1

    def log_density(self, x: Tensor) -> Tensor:
        return torch.full(x.shape[:-1], 0.5).log()


def resampled_share(weight: float, candidates: int) -> float:
    """Return the probability of 1 after resampling, where `exp(-E)` there is `weight` and 1 at -1.

    `E[K w / (K w + M - K)]` over the number K ~ Binomial(M, 1/2) of candidates at 1.
    """
    heads = torch.arange(candidates + 1, dtype=torch.float64)
    binomial = torch.distributions.Binomial(candidates, torch.tensor(0.5, dtype=torch.float64))
    picked = heads * weight / (heads * weight + candidates - heads)
    return (binomial.log_prob(heads).exp() * picked).sum().item()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("candidates", [2, 4, 16])
def test_resampling_has_its_exact_distribution_for_few_candidates(
    candidates: int, temperature: float
) -> None:
    energy = FunctionEnergy(lambda x: -np.log(9.0) * (x[..., 0] > 0).to(x))
    samples = importance_resampling(
        energy,
        Coin(),
        (200, 200),
        generator=generator(),
        candidates=candidates,
        temperature=temperature,
    )
    share = resampled_share(9 ** (1 / temperature), candidates)
    found = (samples.x > 0).double().mean().item()
    assert found == pytest.approx(share, abs=4 * (share * (1 - share) / 40_000) ** 0.5)
    assert torch.equal(samples.energy, energy(samples.x))


def test_the_bias_of_resampling_falls_as_the_documentation_says() -> None:
    # weights 9 and 1: relative variance (4/5)², target .9.
    bias = {m: 0.9 - resampled_share(9.0, m) for m in (1, 16, 64, 256)}
    assert bias[1] == pytest.approx(0.4)
    assert bias[64] == pytest.approx(bias[16] / 4, rel=0.1)
    assert bias[256] == pytest.approx(bias[64] / 4, rel=0.03)
    for candidates, missing in bias.items():
        share = 0.9 - missing
        divergence = 0.9 * np.log(0.9 / share) + 0.1 * np.log(0.1 / (1 - share))
        assert divergence <= 0.64 / candidates


def test_resampling_works_in_the_free_coordinates_of_the_space() -> None:
    box = Box(-1.0, 1.0, "tanh")
    draws = importance_resampling(
        Truncated().energy,
        ReferenceProposal(box),
        (20_000,),
        generator=generator(),
        candidates=32,
        space=box,
    )
    counts = torch.histc(draws.x, 20, -1, 1)
    assert total_variation(counts, Truncated.probabilities(20)) < 0.03


# The reference distribution of a space as a proposal.


@pytest.mark.parametrize("walls", ["reject", "reflect", "tanh"])
@pytest.mark.parametrize("kernel", [IndependenceMetropolis, IteratedSIR])
def test_the_reference_of_a_box_proposes_within_its_walls(kernel: type, walls: str) -> None:
    box = Box(-1.0, 1.0, walls)
    cycle = Cycle([kernel(ReferenceProposal(box)), MALA()])
    sampler = Sampler(cycle, box, steps=25, step_size=0.1)
    x = sampler.sample(Truncated().energy, n=20_000, generator=generator()).x
    # A perfect sampler's distance is .012 at this number of draws and bins.
    assert total_variation(torch.histc(x, 20, -1, 1), Truncated.probabilities(20)) < 0.02


def test_the_reference_of_an_unbounded_space_is_normal() -> None:
    target = Gaussian(torch.tensor([0.5, -0.5]), 0.6, 2)
    space = Unbounded(2)
    sampler = Sampler(IteratedSIR(ReferenceProposal(space), 16), space, steps=15)
    x = sampler.sample(target, n=CHAINS, generator=generator()).x
    assert within_standard_errors(x, target.mean, target.variance, 4)


def test_independence_metropolis_accepts_by_the_ratio_of_weights() -> None:
    kernel: Kernel = IndependenceMetropolis(Gaussian(0.0, 2.0, 1))
    energy, temperature = Gaussian(1.0, 0.5, 1), 1.5
    state = kernel.start(energy, torch.linspace(-2, 2, 9)[:, None])
    noise = kernel.draw(state, generator())
    moved, info = kernel.step(energy, state, noise, 0.1, temperature)
    candidate = noise.candidates[:, 0]

    def weight(x: Tensor) -> Tensor:
        return (-energy(x) / temperature + Gaussian(0.0, 2.0, 1)(x)).exp()

    ratio = (weight(candidate) / weight(state.x)).clamp(max=1)
    torch.testing.assert_close(info.acceptance, ratio)
    expected = torch.where((noise.uniform < ratio)[:, None], candidate, state.x)
    torch.testing.assert_close(moved.x, expected)


@pytest.mark.parametrize("kernel", [IndependenceMetropolis, IteratedSIR])
def test_a_chain_leaves_a_start_without_density(kernel: type) -> None:
    proposal: Proposal = ReferenceProposal(Box(-1.0, 1.0))
    walled = FunctionEnergy(lambda x: torch.where(x[..., 0] < 0, torch.inf, x[..., 0]))
    start = torch.tensor([[-0.5], [-7.0], [7.0]]).repeat(100, 1)
    x = Sampler(kernel(proposal), steps=30).sample(walled, start, generator=generator()).x
    assert ((x >= 0) & (x <= 1)).all()


def test_a_cycle_equals_its_kernels_in_turn() -> None:
    kernels: list[Kernel] = [IteratedSIR(Gaussian(0.0, 2.0, 2), 2), MALA(), HMC(2), GHMC()]
    energy, x = PROBLEMS[1].energy, torch.randn(40, 2, generator=generator())
    cycle: Kernel = Cycle(kernels)
    state, stream = cycle.start(energy, x), generator(1)
    for _ in range(3):
        noise = cycle.draw(state, stream)
        state, info = cycle.step(energy, state, noise, 0.3, 0.8)
        for kernel, own in zip(kernels, noise, strict=True):
            alone, expected = kernel.step(energy, kernel.start(energy, x), own, 0.3, 0.8)
            assert not torch.equal(alone.x, x)
            x = alone.x
        torch.testing.assert_close(state.x, x)
        torch.testing.assert_close(state.energy, energy(x))
        torch.testing.assert_close(info.acceptance, expected.acceptance)


# Parallel tempering.


def test_swaps_depend_on_both_temperatures_and_carry_energies_and_gradients() -> None:
    energy = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    temperatures = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    x = torch.arange(4.0).view(1, 4, 1)
    replicas = Rungs(x, energy, 10 * x)
    never, always = torch.ones(1, 3), torch.zeros(1, 3)
    # Pairs 01 and 23 first, (1 - 1/2)(3 - 1) and (1/4 - 1/8)(2 - 0), both downhill: certain.
    # Then 12, between what was 0 and 3: (1/2 - 1/4)(3 - 0) is downhill, too.
    swapped, chances = exchanged(replicas, temperatures, always)
    torch.testing.assert_close(chances, torch.ones(1, 3))
    torch.testing.assert_close(swapped.x.flatten(), torch.tensor([1.0, 3.0, 0.0, 2.0]))
    torch.testing.assert_close(swapped.energy, torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    torch.testing.assert_close(swapped.gradient, 10 * swapped.x)
    uphill = Rungs(x, energy.flip(-1), None)
    stayed, chances = exchanged(uphill, temperatures, never)
    expected = torch.tensor([[-0.5 * 2, 0.25 * 1, -0.125 * 2]]).clamp(max=0).exp()
    torch.testing.assert_close(chances, expected)
    assert torch.equal(stayed.x[:, [0, 3]], x[:, [0, 3]])


@pytest.mark.parametrize(
    "kernel", [MALA(), HMC(2), Cycle([GHMC(), MALA()])], ids=["MALA", "HMC", "Cycle"]
)
@pytest.mark.parametrize("problem", PROBLEMS + CURVED, ids=repr)
def test_every_replica_samples_its_own_temperature(problem: Problem, kernel: Kernel) -> None:
    ladder = [1.0, 1.4, 2.0]
    rng = np.random.default_rng(0)
    exact = torch.stack([problem.exact(CHAINS, one, rng) for one in ladder], 1)
    tempered: Kernel = Tempered(kernel, ladder)
    state = tempered.start(problem.energy, exact[:, 0])
    state = state._replace(replicas=kernel.start(problem.energy, exact))
    stream = generator()
    for _ in range(6):
        noise = tempered.draw(state, stream)
        state, _ = tempered.step(problem.energy, state, noise, 0.1, 1.0)
    assert 0.3 < state.swaps.mean() < 0.98
    for replica, temperature in enumerate(ladder):
        mean, variance = problem.mean(temperature), problem.variance(temperature)
        assert within_standard_errors(state.replicas.x[:, replica], mean, variance, 4)
    assert torch.equal(state.x, state.replicas.x[:, 0])


@pytest.mark.parametrize(
    "space", [None, Box(-1.0, 1.0, "tanh"), Box(-1.0, 1.0)], ids=["free", "tanh", "reject"]
)
def test_replicas_stay_with_the_condition_of_their_chain(space: Space | None) -> None:
    torch.manual_seed(0)
    network = MLPEnergy(2, (8,), condition_dimension=3)
    conditions = torch.randn(4, 3, generator=generator())
    x = torch.rand(4, 5, 2, generator=generator()) - 0.5
    sampler = Sampler(Tempered(MALA(), [1.0, 3.0]), space, steps=3, step_size=0.05)
    samples = sampler.sample(network.given(conditions), x, generator=generator())
    assert samples.x.shape == (4, 5, 2)
    torch.testing.assert_close(samples.energy, network.given(conditions)(samples.x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tempered(MALA(), [1.0]), r"rise from 1, multiples of the sampler's, got \[1.0\]"),
        (lambda: Tempered(MALA(), [1.0, 3.0, 2.0]), "rise from 1"),
        (lambda: Tempered(MALA(), [2.0, 3.0]), "rise from 1"),
        (lambda: Tempered(SVGD(), [1.0, 2.0]), r"each replica alone, got .* SVGD: temper MALA"),
        (lambda: Tempered(Cycle([MALA(), SVGD()]), [1.0, 2.0]), "move together, Cycle"),
        (
            lambda: Tempered(Blocks(Product(Unbounded(1), Binary(2)), SVGD(), Gibbs()), [1.0, 2.0]),
            "move together, Blocks",
        ),
        (lambda: Tempered(Tempered(MALA(), [1.0, 2.0]), [1.0, 3.0]), "got one in another: merge"),
        (lambda: Cycle([]), "at least one kernel"),
        (lambda: Cycle([MALA(), Tempered(MALA(), [1.0, 2.0])]), r"Tempered\(Cycle"),
        (
            lambda: importance_resampling(
                Gaussian(0.0, 1.0, 1), Coin(), (3,), generator=generator(), candidates=1
            ),
            "candidates >= 2",
        ),
    ],
)
def test_impossible_kernels_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("space", [None, Box(-1.0, 1.0)], ids=["unbounded", "box"])
@pytest.mark.parametrize(
    "kernel",
    [
        Tempered(MALA(), [1.0, 2.0]),
        IteratedSIR(Gaussian(0.0, 1.0, 1)),
        IndependenceMetropolis(Gaussian(0.0, 1.0, 1)),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_energies_that_couple_chains_are_refused(kernel: Kernel, space: Space | None) -> None:
    energy = Gaussian(0.0, 1.0, 1) + Repulsion(0.5)
    with pytest.raises(ValueError, match="couples the chains"):
        Sampler(kernel, space, steps=1).sample(energy, torch.zeros(4, 1), generator=generator())


@pytest.mark.parametrize("kernel", [IndependenceMetropolis, IteratedSIR])
def test_a_proposal_of_another_shape_is_refused(kernel: type[Kernel]) -> None:
    sampler = Sampler(kernel(Gaussian(0.0, 1.0, 1)), steps=1)
    with pytest.raises(ValueError, match=r"event's shape \(2,\), got \(1,\)"):
        sampler.sample(Gaussian(0.0, 1.0, 2), torch.zeros(3, 2), generator=generator())


def test_tempered_chains_are_refused_where_they_would_start_again_and_again() -> None:
    tempered = Tempered(MALA(), [1.0, 2.0])
    product = Product(Unbounded(1), Binary(2))
    for refused in (
        lambda: Cycle([MALA(), tempered]),
        lambda: Blocks(product, tempered, GibbsWithGradients()),
        lambda: Annealing(Gaussian(0.0, 1.0, 1), kernel=tempered),
        lambda: ContrastiveDivergence(Sampler(tempered, steps=5)),
    ):
        with pytest.raises(ValueError, match="would lose its replicas at each start"):
            refused()
