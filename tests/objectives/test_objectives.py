"""Objectives without chains: where their optimum is, and what they cannot see."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import generator
from torch import Tensor, nn

from ebrl import Chains, Energy, FunctionEnergy, Gaussian, Sampler, objectives
from ebrl.kernels import MALA, Proposal
from ebrl.networks import MLPEnergy
from ebrl.objectives import Loss, NormalNoise, Objective
from ebrl.spaces import Box, Unbounded

SIGMA = 0.5  # of denoising
DENOISING = objectives.DenoisingScoreMatching(SIGMA)


class Quadratic(Energy):
    """`½ Σ precision_i x_i²` on events of any shape, the precisions to be learnt."""

    def __init__(self, precision: Tensor):
        super().__init__()
        self.event_ndim = precision.ndim
        self.precision = nn.Parameter(precision.clone())

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (self.precision * x.square()).flatten(-self.event_ndim).sum(-1)


class LevelQuadratic(Quadratic):
    """The energy of `N(0, 1/precision + σ²)`, given σ: `(batch,)`."""

    takes_condition = True  # type: ignore[assignment]

    def given(self, condition: Tensor) -> Energy:
        blurred = 1 / self.precision + condition.square().reshape(-1, *(1,) * self.event_ndim)
        return FunctionEnergy(
            lambda x: (0.5 * x.square() / blurred).flatten(1).sum(1), self.event_ndim
        )


def wide(deviation: Tensor) -> NormalNoise:
    return NormalNoise(torch.zeros_like(deviation), 1.5 * deviation)


def nce(deviation: Tensor) -> objectives.NCE:
    """Return NCE with the log normalizer that is right for a `Quadratic`."""
    objective = objectives.NCE(wide(deviation), 4)
    log_normalizer = (deviation.log() + 0.5 * math.log(2 * math.pi)).sum()
    objective.log_normalizer.data.copy_(log_normalizer)
    return objective


# From the data's deviation; all but denoising, whose optimum is that of blurred data.
EXACT: dict[str, Callable[[Tensor], Objective]] = {
    "sliced": lambda deviation: objectives.SlicedScoreMatching(2),
    "exact": lambda deviation: objectives.ExactScoreMatching(),
    "nce": nce,
    "infonce": lambda deviation: objectives.InfoNCE(wide(deviation), 8),
    "discrepancy": lambda deviation: objectives.EnergyDiscrepancy(0.7, 4),
    "discrepancy-1": lambda deviation: objectives.EnergyDiscrepancy(0.7, 1),
    "discrepancy-levels": lambda deviation: objectives.EnergyDiscrepancy(
        torch.tensor([0.2, 1.0, 2.0]), 4
    ),
}


def gradients(
    objective: Objective, energy: Energy, draw: Callable[[torch.Generator], Tensor], calls: int = 40
) -> tuple[Tensor, Tensor]:
    """Return the mean gradient with respect to the energy's parameters and its standard error."""
    stream, rows = generator(3), []
    parameters = list(energy.parameters())
    for _ in range(calls):
        loss = objective(energy, draw(stream), generator=stream).loss
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    stacked = torch.stack(rows)
    return stacked.mean(0), stacked.std(0) / calls**0.5


def assert_optimum(
    objective: Objective,
    energy: Callable[[Tensor], Energy],
    precision: Tensor,
    draw: Callable[[torch.Generator], Tensor],
) -> None:
    """The gradient vanishes at the truth, and a quarter off on either side it points back."""
    mean, error = gradients(objective, energy(precision), draw)
    assert (mean.abs() < 4 * error).all(), (mean / error).tolist()
    for factor in (0.75, 1.33):
        mean, error = gradients(objective, energy(factor * precision), draw)
        assert (mean * math.copysign(1, factor - 1) > 3 * error).all(), (factor, mean / error)


def gaussian(precision: Tensor, n: int = 4000) -> Callable[[torch.Generator], Tensor]:
    return lambda stream: torch.randn(n, *precision.shape, generator=stream) / precision.sqrt()


@pytest.mark.parametrize("dimension", [1, 8])
@pytest.mark.parametrize("name", EXACT)
def test_gaussian_precision(name: str, dimension: int) -> None:
    precision = torch.linspace(0.5, 2.0, dimension)
    objective = EXACT[name](precision.rsqrt())
    assert_optimum(objective, Quadratic, precision, gaussian(precision))


@pytest.mark.parametrize("dimension", [1, 8])
def test_denoising_learns_the_blurred_precision(dimension: int) -> None:
    precision = torch.linspace(0.5, 2.0, dimension)
    blurred = 1 / (1 / precision + SIGMA**2)
    assert_optimum(DENOISING, Quadratic, blurred, gaussian(precision))


@pytest.mark.parametrize("weight", [torch.ones_like, torch.square])
def test_denoising_over_levels_learns_every_level(weight: Callable[[Tensor], Tensor]) -> None:
    precision = torch.tensor([0.5, 2.0])
    objective = objectives.DenoisingScoreMatching(torch.tensor([0.3, 1.0]), weight=weight)
    assert_optimum(objective, LevelQuadratic, precision, gaussian(precision))


@pytest.mark.parametrize("name", ["sliced", "nce", "discrepancy"])
def test_images_are_events_like_vectors(name: str) -> None:
    precision = torch.linspace(0.5, 2.0, 4).reshape(1, 2, 2)
    objective = EXACT[name](precision.rsqrt())
    assert_optimum(objective, Quadratic, precision, gaussian(precision))


def test_score_matching_of_a_convolutional_energy_equals_that_of_its_vectors() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3)).double()
    x = torch.randn(5, 1, 4, 4, generator=generator(), dtype=torch.float64)
    image = FunctionEnergy(lambda x: net(x).flatten(1).sum(1), event_ndim=3)
    vector = FunctionEnergy(lambda x: net(x.reshape(-1, 1, 4, 4)).flatten(1).sum(1))
    for objective in (objectives.ExactScoreMatching(), DENOISING, objectives.SlicedScoreMatching()):
        one = objective(image, x, generator=generator(1)).loss
        other = objective(vector, x.flatten(1), generator=generator(1)).loss
        torch.testing.assert_close(one, other)
    hessian = torch.autograd.functional.hessian(lambda one: vector(one[None])[0], x[0].flatten())
    curvature = objectives.ExactScoreMatching()(image, x[:1], generator=generator()).metrics
    torch.testing.assert_close(curvature["curvature"], hessian.trace())


def test_sliced_is_the_exact_one_in_expectation() -> None:
    torch.manual_seed(0)
    energy, x = MLPEnergy(3, (16,)).double(), torch.randn(50, 3, dtype=torch.float64)
    exact = objectives.ExactScoreMatching()(energy, x, generator=generator()).loss
    sliced = objectives.SlicedScoreMatching(8)
    stream = generator(1)
    losses = torch.stack([sliced(energy, x, generator=stream).loss.detach() for _ in range(200)])
    assert (losses.mean() - exact).abs() < 4 * losses.std() / 200**0.5


def test_denoising_error_is_that_of_the_denoised() -> None:
    precision = torch.tensor([0.8, 0.8])
    x = gaussian(torch.ones(2), 20_000)(generator())
    metrics = DENOISING(Quadratic(precision), x, generator=generator(1)).metrics
    y = x + SIGMA * torch.randn(x.shape, generator=generator(9))
    error = (y - SIGMA**2 * precision * y - x).square()
    expected, tolerance = error.mean(), 6 * error.std() / error.numel() ** 0.5
    assert (metrics["denoising_error"] - expected).abs() < tolerance


def test_nce_learns_the_log_normalizer() -> None:
    precision = torch.tensor([0.5, 2.0])
    objective = nce(precision.rsqrt())
    truth = objective.log_normalizer.item()
    stream, energy = generator(3), Quadratic(precision)
    for offset, sign in ((0.0, 0.0), (0.2, 1.0), (-0.2, -1.0)):
        objective.log_normalizer.data.fill_(truth + offset)
        slopes = []
        for _ in range(40):
            loss = objective(energy, gaussian(precision)(stream), generator=stream).loss
            slopes.append(torch.autograd.grad(loss, objective.log_normalizer)[0])
        slope = torch.stack(slopes)
        error = slope.std() / 40**0.5
        assert slope.mean().abs() < 4 * error if sign == 0 else sign * slope.mean() > 4 * error


def test_the_stabiliser_alone_makes_energy_discrepancy_exact() -> None:
    # Far from 1 the same two candidates are biased: the claim is not empty.
    precision = torch.tensor([1.0])
    biased = objectives.EnergyDiscrepancy(1.5, 2, stabiliser=0.0)
    mean, error = gradients(biased, Quadratic(precision), gaussian(precision))
    assert mean.abs() > 6 * error
    exact = objectives.EnergyDiscrepancy(1.5, 2)
    mean, error = gradients(exact, Quadratic(precision), gaussian(precision))
    assert mean.abs() < 4 * error


# Energy matching: phase 1 is no density, but for a Gaussian its optimum is known.


@pytest.mark.parametrize(
    ("coupling", "optimum"),
    [
        ("independent", lambda s: 1.5 * (1 - s**2) / (1 + s**2)),
        ("transport", lambda s: 1.5 * (1 - s**2) / (1 + s + s**2)),
    ],
)
def test_the_flow_has_the_curvature_that_its_pairing_implies(
    coupling: Any, optimum: Callable[[float], float]
) -> None:
    # ∫ E[x_t (x - z)] dt and ∫ E[x_t²] dt for pairs that are independent, or z = x / s.
    deviation = 0.5
    objective = objectives.EnergyMatching(coupling=coupling, regularisation=0.01)
    energy = Quadratic(torch.tensor([optimum(deviation)]))
    mean, error = gradients(
        objective, energy, lambda stream: deviation * torch.randn(64, 1, generator=stream), 40
    )
    # Batches pair a little worse than the law does: a tenth of the way to pairs at random.
    random = 2 * (1 + deviation + deviation**2) / 3 * (0.9 - optimum(deviation))
    assert mean.abs() < 4 * error + 0.1 * random


def test_transport_pairs_nearest_and_uses_each_noise_once() -> None:
    x = torch.tensor([[0.0], [3.0], [6.0], [9.0]])
    noise = x.flip(0) + 0.1
    index = objectives.energy_matching.transport(x, noise, 0.01, generator())
    assert index.tolist() == [3, 2, 1, 0]


def test_energy_matching_adds_its_contrastive_term_and_fades_the_flow() -> None:
    energy, x = Quadratic(torch.tensor([1.0, 2.0])), torch.randn(64, 2, generator=generator())

    def contrastive(
        energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: torch.Generator
    ) -> Loss:
        return Loss(energy(x).mean(), {"energy_gap": torch.tensor(1.0)})

    flow = objectives.EnergyMatching()(energy, x, generator=generator(1)).loss
    both = objectives.EnergyMatching(contrastive, contrast=0.5)
    loss, metrics = both(energy, x, generator=generator(1))
    torch.testing.assert_close(loss, flow + 0.5 * energy(x).mean())
    assert set(metrics) == {"flow", "contrastive", "energy_gap"}
    faded = objectives.EnergyMatching(cutoff=0.5)(energy, x, generator=generator(1)).loss
    assert faded < 0.95 * flow


# Discrete energies.


class Pairwise(Energy):
    """A binary energy `-½ xᵀ J x - hᵀ x`, or a Potts model on one-hot x, to be learnt."""

    def __init__(self, sites: int, categories: int | None, seed: int | None):
        super().__init__()
        self.sites, self.categories = sites, categories
        self.event_ndim = 1 if categories is None else 2
        numbers = sites * (categories or 1)
        draw = generator(seed or 0)
        scale = 0.0 if seed is None else 1.0 if categories is None else 0.5
        start = scale * torch.randn(numbers, numbers + 1, generator=draw)
        self.coupling = nn.Parameter(start[:, :-1])
        self.field = nn.Parameter(start[:, -1])

    def forward(self, x: Tensor) -> Tensor:
        block = self.categories or 1
        mask = 1 - torch.kron(torch.eye(self.sites), torch.ones(block, block))
        x = x.flatten(-self.event_ndim)
        coupling = mask * (self.coupling + self.coupling.T) / 2
        return -0.5 * (x @ coupling * x).sum(-1) - x @ self.field

    def configurations(self) -> Tensor:
        grid = torch.cartesian_prod(*[torch.arange(self.categories or 2)] * self.sites)
        if self.categories is None:
            return grid.float()
        return nn.functional.one_hot(grid, self.categories).float()

    def law(self) -> Tensor:
        return torch.softmax(-self(self.configurations()).detach(), 0)

    def exact(self, n: int, stream: torch.Generator) -> Tensor:
        chosen = torch.multinomial(self.law(), n, replacement=True, generator=stream)
        return self.configurations()[chosen]


DISCRETE: dict[str, Callable[[bool], Objective]] = {
    "pseudo-likelihood": lambda categorical: objectives.PseudoLikelihood(categorical=categorical),
    "pseudo-likelihood-2": lambda categorical: objectives.PseudoLikelihood(
        categorical=categorical, sites=2
    ),
    "ratio matching": lambda categorical: objectives.RatioMatching(categorical=categorical),
    "discrepancy": lambda categorical: objectives.DiscreteEnergyDiscrepancy(
        0.3, 8, categorical=categorical
    ),
}


@pytest.mark.parametrize("categories", [None, 3], ids=["ising", "potts"])
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_objectives_are_stationary_at_the_truth(name: str, categories: int | None) -> None:
    truth = Pairwise(4, categories, seed=5)
    objective = DISCRETE[name](categories is not None)
    mean, error = gradients(objective, truth, lambda stream: truth.exact(1000, stream))
    moving = error > 1e-9  # what the mask or the normalizer makes constant has no gradient
    assert moving.sum() >= 16
    assert (mean[moving].abs() < 4.5 * error[moving]).all()


@pytest.mark.parametrize("categories", [None, 3], ids=["ising", "potts"])
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_objectives_recover_the_law(name: str, categories: int | None) -> None:
    truth, learnt = Pairwise(4, categories, seed=5), Pairwise(4, categories, seed=None)
    x = truth.exact(20_000, generator())
    before = 0.5 * (truth.law() - learnt.law()).abs().sum()
    objective = DISCRETE[name](categories is not None)
    optimiser = torch.optim.Adam(learnt.parameters(), 0.05)
    stream = generator(1)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        rows = torch.randint(len(x), (256,), generator=stream)
        optimiser.zero_grad()
        objective(learnt, x[rows], generator=stream).loss.backward()
        optimiser.step()
    distance = 0.5 * (truth.law() - learnt.law()).abs().sum()
    assert before > 0.2
    assert distance < 0.045
    if categories is None:  # with categories couplings are free up to a constant a row
        mask = 1 - torch.eye(4)
        error = mask * (learnt.coupling + learnt.coupling.T - truth.coupling - truth.coupling.T) / 2
        assert error.abs().max() < 0.25


def test_site_laws_are_the_conditionals_of_the_joint() -> None:
    for categories in (None, 3):
        truth = Pairwise(3, categories, seed=5)
        x = truth.configurations()
        laws = objectives.discrete.site_log_probabilities(
            truth, x, categories is not None, None, generator()
        ).exp()
        joint = truth.law().reshape([categories or 2] * 3)
        for site in range(3):
            conditional = (joint / joint.sum(site, keepdim=True)).flatten()
            torch.testing.assert_close(laws[:, site, 0], conditional)
        torch.testing.assert_close(laws.sum(-1), torch.ones(len(x), 3))


# What is blind to mode weights: two modes 4 apart with deviation .4, the right one with .8.


class TwoModes(Energy):
    """Two unit Gaussians' energy with the log odds of the right one to be learnt."""

    def __init__(self, share: float):
        super().__init__()
        self.right, self.left = (
            Gaussian(torch.tensor([mean, 0.0]), 0.4, 2) for mean in (2.0, -2.0)
        )
        self.log_odds = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    def forward(self, x: Tensor) -> Tensor:
        odds = torch.stack([self.log_odds, -self.log_odds])
        values = torch.stack([self.right(x), self.left(x)], -1)
        return -torch.logsumexp(nn.functional.logsigmoid(odds) - values, -1)

    @staticmethod
    def exact(n: int, stream: torch.Generator) -> Tensor:
        x = 0.4 * torch.randn(n, 2, generator=stream)
        right = torch.rand(n, generator=stream) < 0.8
        x[:, 0] += torch.where(right, 2.0, -2.0)
        return x


MODES_NOISE = NormalNoise(torch.tensor([1.2, 0.0]), torch.tensor([2.5, 0.6]))
# How far one datum moves an energy of equal modes towards .8, in standard deviations.
SIGHT: dict[str, tuple[Objective, float, float]] = {  # objective, at least, at most
    "denoising(.1)": (objectives.DenoisingScoreMatching(0.1), 0.0, 0.01),
    "sliced": (objectives.SlicedScoreMatching(), 0.0, 0.01),
    "exact": (objectives.ExactScoreMatching(), 0.0, 0.01),
    "discrepancy(.25)": (objectives.EnergyDiscrepancy(0.25, 16), 0.0, 0.01),
    "discrepancy(1)": (objectives.EnergyDiscrepancy(1.0, 16), 0.15, 0.22),
    "discrepancy(2)": (objectives.EnergyDiscrepancy(2.0, 16), 0.25, 0.32),
    "nce": (objectives.NCE(MODES_NOISE, 4), 0.45, 0.6),
    "infonce": (objectives.InfoNCE(MODES_NOISE, 16), 0.62, 0.76),
}


@pytest.mark.parametrize("name", SIGHT)
def test_who_sees_mode_weights(name: str) -> None:
    objective, least, most = SIGHT[name]
    energy = TwoModes(0.5)
    mean, error = gradients(objective, energy, lambda stream: energy.exact(1000, stream))
    sight = float(-mean / (error * (40 * 1000) ** 0.5 + 1e-30))

    assert least - 4 / 200 < sight < most + 4 / 200, sight


def moved(chains: Chains, x: Tensor) -> Chains:
    """Put all chains at x."""
    chains.write(chains.draw(len(x), generator()).rows, x)
    return chains


def chains_of_the_data() -> Objective:
    chains = moved(Chains(1000, Unbounded(2), restart=0), TwoModes.exact(1000, generator(9)))
    return objectives.ContrastiveDivergence(local(), chains)


def jumping_chains() -> Objective:
    """The default, whose chains have found the law of the energy that is asked about."""
    objective = objectives.persistent(Box(-4 * torch.ones(2), 4 * torch.ones(2)), 1000)
    x = TwoModes.exact(1000, generator(9))
    x[:, 0] = torch.where(torch.arange(1000) % 2 == 0, 1.0, -1.0) * x[:, 0].abs()
    objective.chains = moved(Chains(1000, objective.sampler.space, restart=0), x)
    return objective


def local() -> Sampler:
    return Sampler(MALA(), steps=20, step_size=0.05)


class TwoHeaps(nn.Module):
    """The modes in equal shares."""

    def forward(self, latent: Tensor) -> Tensor:
        right = 0.4 * latent[:, 0] + 2 * torch.sign(latent[:, 1])
        return torch.stack([right, 0.4 * latent[:, 2]], 1)


CHAINED: dict[str, tuple[Callable[[], Objective], float, float]] = {
    "cd-20": (lambda: objectives.ContrastiveDivergence(local()), 0.0, 0.01),
    "improved": (lambda: objectives.ImprovedContrastiveDivergence(local()), 0.0, 0.01),
    "pcd, chains of the data": (chains_of_the_data, -0.03, 0.03),
    "pcd, the default": (jumping_chains, 0.35, 0.75),
    "recovery(.5)": (lambda: objectives.RecoveryLikelihood(local(), [0.0, 0.5]), 0.0, 0.03),
    "recovery(4)": (lambda: objectives.RecoveryLikelihood(local(), [0.0, 4.0]), 0.3, 0.45),
    "generator": (
        lambda: objectives.LearnedGenerator(TwoHeaps(), 3, learning_rate=0.0),
        0.4,
        0.55,
    ),
    "flow": (lambda: objectives.EnergyMatching(coupling="independent"), 0.01, 0.08),
}


@pytest.mark.parametrize("name", CHAINED)
def test_who_sees_mode_weights_with_samples(name: str) -> None:
    build, least, most = CHAINED[name]
    energy = TwoModes(0.5)
    draw = energy.exact
    mean, error = gradients(build(), energy, lambda stream: draw(1000, stream), calls=20)
    sight = float(-mean / (error * (20 * 1000) ** 0.5 + 1e-30))
    assert least - 4 / 140 < sight < most + 4 / 140, sight


class TwoPatterns(TwoModes):
    """Eight bits, nearly all 1 (.8 of the time) or nearly all 0; the log odds to be learnt."""

    def __init__(self, share: float):
        super().__init__(share)
        self.right, self.left = (
            FunctionEnergy(lambda x, p=p: -(x * p.log() + (1 - x) * (1 - p).log()).sum(-1))
            for p in (torch.tensor(0.97), torch.tensor(0.03))
        )

    @staticmethod
    def exact(n: int, stream: torch.Generator) -> Tensor:
        ones = torch.rand(n, 1, generator=stream) < 0.8
        changed = torch.rand(n, 8, generator=stream) < 0.03
        return (ones ^ changed).float()


@pytest.mark.parametrize(
    ("objective", "least", "most"),
    [
        (objectives.PseudoLikelihood(), 0.0, 0.01),
        (objectives.RatioMatching(), 0.0, 0.01),
        (objectives.DiscreteEnergyDiscrepancy(0.05, 16), 0.0, 0.01),
        (objectives.DiscreteEnergyDiscrepancy(0.5, 16), 0.15, 0.3),
    ],
    ids=["pseudo-likelihood", "ratio matching", "discrepancy(.05)", "discrepancy(.5)"],
)
def test_who_sees_the_weights_of_patterns(objective: Objective, least: float, most: float) -> None:
    energy = TwoPatterns(0.5)
    mean, error = gradients(objective, energy, lambda stream: energy.exact(1000, stream))
    sight = float(-mean / (error * (40 * 1000) ** 0.5 + 1e-30))
    assert least - 4 / 200 < sight < most + 4 / 200, sight


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "two_moons.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("EnergyDiscrepancy(.25)", 0.9, 1.0),
        ("EnergyDiscrepancy(1)", 0.75, 0.85),
        ("EnergyDiscrepancy(.1…3)", 0.75, 0.85),
        ("NCE", 0.75, 0.85),
        ("InfoNCE", 0.75, 0.85),
        ("DenoisingScoreMatching(.1)", 0.95, 1.0),
        ("SlicedScoreMatching", 0.95, 1.0),
        ("ExactScoreMatching", 0.95, 1.0),
    ],
)
def test_the_mode_weight_that_a_network_learns(name: str, least: float, most: float) -> None:
    spec = importlib.util.spec_from_file_location("two_moons", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    two_moons = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(two_moons)
    share = two_moons.measure(name, "modes", seed=0)["mean"]["share"]
    assert least < share < most


# What all of them keep to.

ALL: dict[str, Callable[[], Objective]] = {
    **{name: lambda build=build: build(torch.ones(2)) for name, build in EXACT.items()},
    "denoising": lambda: DENOISING,
    "flow": lambda: objectives.EnergyMatching(coupling="independent"),
    "flow-transport": objectives.EnergyMatching,
    **{name: lambda build=build: build(False) for name, build in DISCRETE.items()},
}
CONDITIONAL = [name for name in ALL if name != "flow-transport"]


def data(n: int = 32) -> Tensor:
    return torch.randint(2, (n, 2), generator=generator()).float()


@pytest.mark.parametrize("name", ALL)
def test_gradients_flow_to_the_parameters_only_and_the_data_stay(name: str) -> None:
    torch.manual_seed(0)
    energy, objective = MLPEnergy(2, (16, 16)), ALL[name]()
    x = data().requires_grad_()
    before, random_state = x.detach().clone(), torch.get_rng_state()
    loss, metrics = objective(energy, x, generator=generator(1))
    assert loss.shape == ()
    loss.backward()
    assert x.grad is None
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), random_state)
    weights = [layer.weight for layer in (*energy.layers, energy.head)]
    assert all(weight.grad.abs().max() > 0 for weight in weights)
    assert metrics
    assert all(m.shape == () and not m.requires_grad for m in metrics.values())
    again = objective(energy, x, generator=generator(1)).loss
    assert torch.equal(loss, again)
    assert not torch.equal(loss, objective(energy, x[:16], generator=generator(1)).loss)


@pytest.mark.parametrize("name", ALL)
def test_losses_are_the_same_where_gradients_are_off(name: str) -> None:
    torch.manual_seed(0)
    energy, objective = MLPEnergy(2, (16, 16)), ALL[name]()
    expected = objective(energy, data(), generator=generator(1)).loss
    with torch.no_grad():
        loss = objective(energy, data(), generator=generator(1)).loss
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected.detach())


@pytest.mark.parametrize("name", ALL)
def test_float64_in_float64_out(name: str) -> None:
    energy = MLPEnergy(2, (16,)).double()
    assert ALL[name]()(energy, data().double(), generator=generator()).loss.dtype == torch.float64


@pytest.mark.parametrize("name", ALL)
def test_nan_is_not_hidden(name: str) -> None:
    energy, x = MLPEnergy(2, (16,)), data()
    x[3, 1] = math.nan
    assert ALL[name]()(energy, x, generator=generator()).loss.isnan()
    energy.head.bias.data.fill_(math.nan)
    spoilt = FunctionEnergy(lambda x: energy(x) * x.square().sum(-1))
    assert ALL[name]()(spoilt, data(), generator=generator()).loss.isnan()


class AllAxes(Energy):
    """A function that sees all batch axes of x, as `FunctionEnergy`'s does not."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_the_condition_is_used_row_by_row(name: str) -> None:
    torch.manual_seed(0)
    energy, objective = MLPEnergy(2, (16,), condition_dimension=3), ALL[name]()
    condition = torch.randn(32, 3, generator=generator(5))
    loss = objective(energy, data(), condition, generator=generator(1)).loss
    swapped = objective(energy, data(), condition.flip(0), generator=generator(1)).loss
    assert (loss - swapped).abs() > 1e-6
    # As if every row's own energy were called alone.
    by_hand = AllAxes(lambda x: energy.given(condition)(x))
    torch.testing.assert_close(objective(by_hand, data(), generator=generator(1)).loss, loss)
    with pytest.raises(TypeError, match="conditional"):
        objective(energy, data(), generator=generator(1))
    with pytest.raises(TypeError, match="takes no condition"):
        objective(MLPEnergy(2, (16,)), data(), condition, generator=generator(1))


def test_levels_come_after_the_condition() -> None:
    seen = {}

    class Both(Energy):
        takes_condition = True  # type: ignore[assignment]

        def given(self, condition: Tensor) -> Energy:
            seen["condition"] = condition
            return LevelQuadratic(torch.ones(2))

    objective = objectives.DenoisingScoreMatching(torch.tensor([0.1, 0.2]))
    condition = torch.ones(32, 3)
    objective(Both(), data(), condition, generator=generator())
    assert seen["condition"] is condition
    with pytest.raises(TypeError, match="takes no condition"):
        objective(Quadratic(torch.ones(2)), data(), generator=generator())


def test_a_proposal_may_follow_the_condition() -> None:
    # x | c ~ N(c, 1), candidates around each c: at the truth the gradient vanishes.
    class Around:
        def __init__(self, condition: Tensor):
            self.centre = condition.unsqueeze(1)

        def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
            return self.centre + 1.5 * torch.randn(*batch, 1, generator=generator)

        def log_density(self, x: Tensor) -> Tensor:
            return -Gaussian(0.0, 1.5, 1)(x - self.centre)

    class Shifted(Quadratic):
        takes_condition = True  # type: ignore[assignment]

        def given(self, condition: Tensor) -> Energy:
            return AllAxes(
                lambda x: 0.5 * (self.precision * (x - condition.unsqueeze(1)).square()).sum(-1)
            )

    class Conditional:
        def given(self, condition: Tensor) -> Proposal:
            return Around(condition)

    for factor, sign in ((1.0, 0), (0.8, -1), (1.25, 1)):
        energy, stream, slopes = Shifted(torch.tensor([factor])), generator(4), []
        for _ in range(40):
            condition = 3 * torch.randn(1000, 1, generator=stream)
            x = condition + torch.randn(1000, 1, generator=stream)
            objective = objectives.InfoNCE(Conditional(), 4)
            loss = objective(energy, x, condition, generator=stream).loss
            slopes.append(torch.autograd.grad(loss, energy.precision)[0])
        slope = torch.stack(slopes)
        error = slope.std() / 40**0.5
        assert slope.mean().abs() < 4 * error if sign == 0 else sign * slope.mean() > 4 * error
    with pytest.raises(TypeError, match="proposal is conditional"):
        objectives.InfoNCE(Conditional())(Quadratic(torch.ones(1)), data(), generator=generator())


def test_an_energy_that_can_be_drawn_from_is_a_proposal() -> None:
    class Drawable(Gaussian):
        def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
            return self.mean + self.deviation * torch.randn(*batch, 2, generator=generator)

        def log_density(self, x: Tensor) -> Tensor:
            return -self(x)

    torch.manual_seed(0)
    energy, normal = MLPEnergy(2, (16,)), NormalNoise(torch.zeros(2), torch.full((2,), 1.5))
    losses = [
        objectives.InfoNCE(proposal)(energy, data(), generator=generator()).loss
        for proposal in (Drawable(0.0, 1.5, 2), normal)
    ]
    assert (losses[0] - losses[1]).abs() < 1e-5


def test_normal_noise_covers_the_data_and_knows_its_density() -> None:
    x = 2 + torch.tensor([1.0, 3.0]) * torch.randn(10_000, 2, generator=generator())
    noise = NormalNoise.around(x)
    draws = noise.sample((50, 400), generator(1)).flatten(0, 1)
    torch.testing.assert_close(draws.mean(0), noise.mean, atol=0.15, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.tensor([1.5, 4.5]), atol=0, rtol=0.03)
    expected = torch.distributions.Normal(noise.mean, noise.deviation).log_prob(draws).sum(-1)
    torch.testing.assert_close(noise.log_density(draws), expected)
    with pytest.raises(ValueError, match="vary in every coordinate"):
        NormalNoise.around(torch.ones(10, 2))


def test_sliced_score_matching_draws_the_same_signs_for_every_memory_layout() -> None:
    energy = Quadratic(torch.rand(2, 3, 4, generator=generator()))
    x = torch.randn(5, 2, 3, 4, generator=generator(1))
    objective = objectives.SlicedScoreMatching()
    mixed = FunctionEnergy(lambda x: energy(x + x.roll(1, -1).square()), 3)  # the signs matter
    losses = [
        objective(mixed, each, generator=generator(2)).loss
        for each in (x, x.to(memory_format=torch.channels_last))
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: objectives.DenoisingScoreMatching(0.0), "sigma > 0"),
        (lambda: objectives.DenoisingScoreMatching(torch.tensor([0.1, -1.0])), "sigma > 0"),
        (lambda: objectives.EnergyDiscrepancy(math.nan), "sigma > 0"),
        (lambda: objectives.EnergyDiscrepancy(0.1, 0), "candidates >= 1"),
        (lambda: objectives.EnergyDiscrepancy(stabiliser=-1.0), "stabiliser >= 0"),
        (lambda: objectives.DiscreteEnergyDiscrepancy(1.0), "between 0 and 1"),
        (lambda: objectives.SlicedScoreMatching(0), "projections >= 1"),
        (lambda: objectives.NCE(wide(torch.ones(2)), 0), "ratio >= 1"),
        (lambda: objectives.InfoNCE(wide(torch.ones(2)), 0), "candidates >= 1"),
        (lambda: objectives.PseudoLikelihood(sites=0), "sites >= 1"),
        (lambda: objectives.EnergyMatching(coupling="nearest"), "expected a coupling"),
        (lambda: objectives.EnergyMatching(cutoff=0.0), "cutoff <= 1"),
        (lambda: objectives.EnergyMatching(contrast=math.nan), "contrast >= 0"),
        (lambda: objectives.RecoveryLikelihood(local(), [0.0, math.nan]), "ascending"),
    ],
)
def test_bad_settings_are_refused(build: Callable[[], Objective], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("categorical", [False, True])
@pytest.mark.parametrize(
    "objective",
    [
        objectives.PseudoLikelihood,
        objectives.RatioMatching,
        lambda categorical: objectives.DiscreteEnergyDiscrepancy(categorical=categorical),
    ],
)
def test_what_is_not_discrete_is_refused(
    objective: Callable[..., Objective], categorical: bool
) -> None:
    spins = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    two_hot = torch.ones(2, 3, 2)
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for x in (two_hot, labels) if categorical else (spins,):
        energy = FunctionEnergy(lambda x: x.flatten(1).sum(-1), x.ndim - 1)
        with pytest.raises(ValueError, match="one-hot x" if categorical else "x of 0 and 1"):
            objective(categorical=categorical)(energy, x, generator=generator())


def test_a_vector_energy_takes_a_noise_level_for_each_row() -> None:
    energy, x = MLPEnergy(2, (8,), condition_dimension=1), torch.randn(16, 2)
    objective = objectives.DenoisingScoreMatching(torch.tensor([0.1, 0.5]))
    objective(energy, x, generator=generator()).loss.backward()
    level = torch.full((16,), 0.3)
    assert torch.equal(energy.given(level)(x), energy.given(level.unsqueeze(-1))(x))


def test_transport_refuses_conditions() -> None:
    energy = MLPEnergy(2, (16,), condition_dimension=3)
    with pytest.raises(ValueError, match="independent"):
        objectives.EnergyMatching()(energy, data(), torch.ones(32, 3), generator=generator())


@pytest.mark.parametrize(
    "objective",
    [
        objectives.DenoisingScoreMatching(0.1),
        objectives.SlicedScoreMatching(),
        objectives.ExactScoreMatching(),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_a_loss_is_the_same_in_inference_mode(objective: Objective) -> None:
    energy, x = MLPEnergy(2, (8,)), torch.randn(9, 2, generator=generator())
    expected = objective(energy, x, generator=generator()).loss
    with torch.inference_mode():
        found = objective(energy, x.clone(), generator=generator()).loss
    torch.testing.assert_close(found, expected.detach())


def test_a_function_is_no_energy_of_an_objective() -> None:
    objective, x = objectives.EnergyDiscrepancy(), torch.zeros(5, 2)
    with pytest.raises(TypeError, match="expected an Energy, got function"):
        objective(lambda x: x.sum(-1), x, generator=generator())
