"""Contrastive objectives: at the truth they pull nowhere, elsewhere towards it."""

from __future__ import annotations

import math

import pytest
import torch
from contrastive_problems import PRECISION, exact, sampler
from problems import generator
from torch import Tensor, nn

from ebrl import Chains, Energy, Gaussian, Mixture, Sampler, networks, objectives
from ebrl.energies import Flattened
from ebrl.kernels import MALA, ULA, IteratedSIR, ReferenceProposal, Tempered
from ebrl.networks import MLPEnergy
from ebrl.objectives import (
    ContrastiveDivergence,
    ImprovedContrastiveDivergence,
    LearnedGenerator,
    Objective,
    RecoveryLikelihood,
)
from ebrl.objectives.contrastive import nearest_neighbour_entropy
from ebrl.spaces import Binary, Box, Strings, Unbounded

ROWS = 2_000


class LearnableGaussian(Energy):
    """`p |x|²/2`: the precision is the one parameter."""

    def __init__(self, dimension: int, precision: float = PRECISION):
        super().__init__()
        self.dimension, self.precision = dimension, nn.Parameter(torch.tensor(precision))

    def forward(self, x: Tensor) -> Tensor:
        return self.precision * x.square().sum(-1) / 2


class Conditional(Energy):
    """`|x - c|²/2`, whose mean is its condition."""

    def __init__(self, dimension: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dimension))

    takes_condition = True

    def given(self, condition: Tensor) -> Energy:
        return Shifted(self, condition)


class Shifted(Energy):
    def __init__(self, conditional: Conditional, condition: Tensor):
        super().__init__()
        self.conditional, self.condition = conditional, condition

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.condition * self.conditional.weight).square().sum(-1) / 2


class Linear(nn.Module):
    """`scale * z`."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, latent: Tensor) -> Tensor:
        return self.scale * latent


def exact_chains(dimension: int) -> Chains:
    """Chains that stand at draws of the truth."""
    chains = Chains(ROWS, Unbounded(dimension), restart=0.0)
    start = chains.draw(ROWS, generator(7))
    chains.write(start.rows, exact(ROWS, dimension, 8))
    return chains


def exact_generator(dimension: int, precision: float = PRECISION) -> LearnedGenerator:
    """A generator whose law is the energy's, and that stays there."""
    noise = 0.3
    scale = (1 / precision - noise**2) ** 0.5
    return LearnedGenerator(Linear(scale), dimension, noise=noise, learning_rate=0.0)


# Each with exact samples of the model, at the truth.
OBJECTIVES = {
    "cd-1": lambda dimension: ContrastiveDivergence(sampler(1)),
    "cd-20": lambda dimension: ContrastiveDivergence(sampler()),
    "pcd": lambda dimension: ContrastiveDivergence(sampler(), exact_chains(dimension)),
    "recovery": lambda dimension: RecoveryLikelihood(sampler(30), [0.0, 0.5]),
    "generator": exact_generator,
}


def pulls(objective: Objective, energy: LearnableGaussian, calls: int) -> Tensor:
    """Return the loss's gradient at the precision on fresh data, `(calls,)`."""
    found, stream = [], generator(3)
    for call in range(calls):
        x = exact(ROWS, energy.dimension, 100 + call)
        loss, _ = objective(energy, x, generator=stream)
        found.append(torch.autograd.grad(loss, energy.precision)[0])
    return torch.stack(found)


@pytest.mark.parametrize("dimension", [1, 8])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_truth_is_where_nothing_pulls(name: str, dimension: int) -> None:
    truth = pulls(OBJECTIVES[name](dimension), LearnableGaussian(dimension), calls=8)
    assert abs(standard_errors(truth)) < 4
    for off in (0.6, 1.6):
        objective = OBJECTIVES[name](dimension)
        if name == "generator":  # one that fits the energy that is off
            objective = exact_generator(dimension, PRECISION * off)
        pull = pulls(objective, LearnableGaussian(dimension, PRECISION * off), calls=8)
        assert standard_errors(pull) * (off - 1) > 0
        assert abs(standard_errors(pull)) > 6


def standard_errors(pull: Tensor) -> float:
    return float(pull.mean() / (pull.std() / len(pull) ** 0.5))


@pytest.mark.parametrize("gradient", ["last", "unroll"])
def test_improved_divergence_keeps_the_truth(gradient: str) -> None:
    # The divergence's own gradient vanishes where the samples have the model's law. Without its
    # entropy it does not: it draws the samples together, and the precision is too low.
    def pull(entropy: float) -> Tensor:
        objective = ImprovedContrastiveDivergence(sampler(3), entropy=entropy, gradient=gradient)
        return pulls(objective, LearnableGaussian(2), calls=8)

    assert abs(standard_errors(pull(1.0))) < 4
    assert standard_errors(pull(0.0)) < -6


def test_improved_divergence_adds_the_gradient_of_the_divergence() -> None:
    # All of it, against finite differences: energy held at its value, samples drawn under another.
    def divergence(shift: float) -> float:
        other = LearnableGaussian(2).double()
        other.precision.data += shift
        x = ula.sample(other, start, generator=generator(5)).x
        return float(PRECISION * x.square().sum(-1).mean() / 2 - nearest_neighbour_entropy(x))

    def pull(kl: float) -> float:
        objective = ImprovedContrastiveDivergence(ula, kl=kl, gradient="unroll")
        energy = LearnableGaussian(2).double()
        objective(energy, start, generator=generator(5)).loss.backward()
        return float(energy.precision.grad)

    start, ula = exact(500, 2, 1).double(), Sampler(ULA(), steps=3, step_size=0.1)
    slope = (divergence(1e-5) - divergence(-1e-5)) / 2e-5
    assert pull(1.0) - pull(0.0) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("dimension", [1, 3])
def test_nearest_neighbour_entropy_is_that_of_a_gaussian(dimension: int) -> None:
    x = 0.3 * torch.randn(4_000, dimension, generator=generator(), dtype=torch.float64)
    expected = dimension * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.3))
    assert float(nearest_neighbour_entropy(x)) == pytest.approx(expected, abs=0.1)
    assert nearest_neighbour_entropy(torch.cat([x, x])).isfinite()
    with pytest.raises(ValueError, match="more than 4"):
        nearest_neighbour_entropy(x[:4])


def test_nearest_neighbour_entropy_does_not_depend_on_the_origin() -> None:
    x = 0.1 * torch.randn(500, 2, generator=generator())
    torch.testing.assert_close(
        nearest_neighbour_entropy(x + 1000), nearest_neighbour_entropy(x), atol=0.01, rtol=0
    )


def test_nearest_neighbour_entropy_sees_tight_modes_in_float32() -> None:
    # Two of them, 8 √2 apart: the entropy of one, and log 2.
    deviation, side = 1e-3, torch.arange(1024).remainder(2).mul(8.0).unsqueeze(-1)
    x = side + deviation * torch.randn(1024, 2, generator=generator())
    truth = math.log(2) + math.log(2 * math.pi * math.e) + 2 * math.log(deviation)
    # Of the order of the deviation of -log p of one draw, 1, over √1024.
    assert float(nearest_neighbour_entropy(x)) == pytest.approx(truth, abs=4 / 32)


def test_recovery_trains_noise_conditional_energies_of_images() -> None:
    model = Flattened(MLPEnergy(64, (4,), condition_dimension=1), 3)
    x = torch.randn(8, 1, 8, 8, generator=generator())
    objective = RecoveryLikelihood(Sampler(MALA(), steps=2), [0.1, 0.2, 0.4])
    objective(model, x, generator=generator()).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_persistent_chains_go_on_where_they_stood_and_forget_the_data() -> None:
    chains = Chains(64, Unbounded(2), restart=0.0)
    objective = ContrastiveDivergence(sampler(1), chains)
    far = 100 + exact(64, 2, 1)
    objective(LearnableGaussian(2), far, generator=generator())
    first = chains.positions.clone()
    assert first.abs().max() < 10
    _, metrics = objective(LearnableGaussian(2), far, generator=generator(1))
    assert 0 < (chains.positions - first).abs().max() < 5
    assert metrics["energy_gap"] < 0  # of the chains less that of such data


def test_conditions_travel_with_their_chains() -> None:
    # The chains that were not drawn keep their condition: x stays near its own.
    energy, chains = Conditional(1), Chains(200, Unbounded(1), restart=0.1)
    objective = ContrastiveDivergence(sampler(20, 0.5), chains)
    stream = generator()
    for call in range(12):
        condition = 20.0 * torch.randint(-1, 2, (50, 1), generator=generator(call))
        objective(energy, condition.clone(), condition, generator=stream)
    begun = chains.started
    assert begun.sum() > 150
    assert chains.conditions[begun].unique().tolist() == [-20, 0, 20]
    assert ((chains.positions - chains.conditions)[begun].abs() < 5).all()


def test_the_default_follows_the_acceptance() -> None:
    objective = objectives.persistent(Box(-torch.ones(2), torch.ones(2)), chains=64, moves=2)
    energy = networks.MLPEnergy(2, (16,))
    before = float(objective.sampler.step_size)
    for seed in range(5):
        x = exact(32, 2, seed).clamp(-1, 1)
        loss, metrics = objective(energy, x, generator=generator(seed))
    assert float(objective.sampler.step_size) != before
    assert {"adaptation" in key for key in objective.state_dict()} == {True, False}
    assert loss.requires_grad
    assert not any(value.requires_grad for value in metrics.values())


def test_the_chains_of_the_default_settle_at_the_weights_of_uneven_modes() -> None:
    """Restarts would hold the share at .75."""
    right, left = (Gaussian(torch.tensor([at, 0.0]), 0.4, 2) for at in (2.0, -2.0))
    energy, n = Mixture([right, left], [0.8, 0.2]), 2_000
    objective = objectives.persistent(Box(-5 * torch.ones(2), 5 * torch.ones(2)), chains=n)
    stream, shares = generator(), []
    for _ in range(40):
        objective(energy, torch.zeros(n, 2), generator=stream)
        shares.append((objective.chains.positions[:, 0] > 0).float().mean())
    share = float(torch.stack(shares[-20:]).mean())
    assert abs(share - 0.8) < 4 * (0.8 * 0.2 / n) ** 0.5, share


def test_an_energy_penalty_is_the_mean_square_of_both_energies() -> None:
    energy, x = LearnableGaussian(2), exact(100, 2, 0)
    still = Sampler(MALA(), steps=0)
    plain = ContrastiveDivergence(still)(energy, x, generator=generator()).loss
    held = ContrastiveDivergence(still, energy_penalty=0.5)(energy, x, generator=generator()).loss
    torch.testing.assert_close(held - plain, energy(x).square().mean())


# ---- a learned generator ---------------------------------------------------------------------


def test_the_estimated_score_is_that_of_the_mixture() -> None:
    dimension, noise, scale = 2, 0.3, 0.6
    learned = LearnedGenerator(Linear(scale), dimension, noise=noise, particles=2_000)
    learned.log_posterior.data.fill_(math.log(0.8))
    drawn = learned.generate(50, generator())
    score = learned.score(drawn.x.detach(), drawn.latent, generator(1))
    expected = -drawn.x.detach() / (scale**2 + noise**2)
    assert float((score - expected).abs().mean()) < 0.1 < float(expected.abs().mean())


def test_a_generator_follows_a_fixed_energy() -> None:
    learned = LearnedGenerator(nn.Linear(2, 2), 2, learning_rate=0.02, noise=0.2)
    torch.manual_seed(0)
    nn.init.normal_(learned.network.weight)
    energy, stream = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0]), 2), generator()
    for _ in range(400):
        learned.follow(energy, 128, stream)
    with torch.no_grad():
        x = learned.generate(4_000, stream).x
    torch.testing.assert_close(x.mean(0), torch.tensor([1.0, -2.0]), atol=0.15, rtol=0)
    torch.testing.assert_close(x.std(0), torch.tensor([0.5, 1.0]), atol=0.15, rtol=0)


def test_a_generator_brings_its_optimiser_and_saves_it() -> None:
    torch.manual_seed(0)
    energy, x = networks.MLPEnergy(2, (8,)), exact(32, 2, 0)

    def learned() -> LearnedGenerator:
        return LearnedGenerator(nn.Linear(3, 2), 3, gradient_penalty=0.1)

    one, other = learned(), learned()
    before = one.network.weight.detach().clone()
    loss, _ = one(energy, x, generator=generator())
    assert not torch.equal(one.network.weight, before)
    assert all(parameter.grad is None for parameter in energy.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in energy.parameters())
    other.load_state_dict(one.state_dict())
    for objective in (one, other):
        objective(energy, x, generator=generator(1))
    assert torch.equal(one.network.weight, other.network.weight)


# ---- bad input -------------------------------------------------------------------------------


def test_bad_input_is_refused_with_the_cure() -> None:
    energy, x = LearnableGaussian(2), exact(8, 2, 0)
    few = ContrastiveDivergence(sampler(), Chains(4, Unbounded(2)))
    with pytest.raises(ValueError, match=r"Chains\(8"):
        few(energy, x, generator=generator())
    shapeless = ContrastiveDivergence(sampler(), Chains(40, Unbounded()))
    with pytest.raises(ValueError, match=r"Unbounded\(2\)"):
        shapeless(energy, x, generator=generator())
    with pytest.raises(ValueError, match="energy_penalty"):
        ContrastiveDivergence(sampler(), energy_penalty=-1.0)
    with pytest.raises(ValueError, match="unroll"):
        ImprovedContrastiveDivergence(sampler(), gradient="none")  # type: ignore[arg-type]
    for space, coordinates in ((Binary(3), "one-hot"), (Strings(3, 5), "integer")):
        discrete = Sampler(IteratedSIR(ReferenceProposal(space)), space, steps=1)
        with pytest.raises(ValueError, match=f"real coordinates, .* got one of {coordinates}"):
            ImprovedContrastiveDivergence(discrete)
    with pytest.raises(ValueError, match="would lose its replicas"):
        RecoveryLikelihood(Sampler(Tempered(MALA(), [1.0, 2.0]), steps=1), [0.0, 0.5])
    with pytest.raises(ValueError, match="ascending"):
        RecoveryLikelihood(sampler(), [1.0, 0.5])
    with pytest.raises(ValueError, match="without walls"):
        RecoveryLikelihood(Sampler(MALA(), Box(-1.0, 1.0), steps=1), [0.0, 0.5])
    with pytest.raises(ValueError, match="two sigmas"):
        RecoveryLikelihood(sampler(), [0.0, 0.5, 1.0])(energy, x, generator=generator())
    with pytest.raises(ValueError, match="noise"):
        LearnedGenerator(nn.Linear(2, 2), 2, noise=0.0)
    with pytest.raises(TypeError, match="not conditional"):
        LearnedGenerator(nn.Linear(2, 2), 2)(energy, x, x, generator=generator())
    with pytest.raises(TypeError, match="divergence is not conditional"):
        ImprovedContrastiveDivergence(sampler())(energy, x, x, generator=generator())
    single = ContrastiveDivergence(sampler(), Chains(40, Unbounded(2)))
    with pytest.raises(ValueError, match=r"dtype torch.float64, got torch.float32: objective.to"):
        single(energy.double(), x.double(), generator=generator())
    energy = energy.float()
    with pytest.raises(TypeError, match="takes no condition"):
        ContrastiveDivergence(sampler())(energy, x, x, generator=generator())


def test_nothing_hides_a_nan() -> None:
    energy, x = LearnableGaussian(2, math.nan), exact(8, 2, 0)
    for objective in (
        ContrastiveDivergence(sampler(2)),
        ImprovedContrastiveDivergence(sampler(2)),
        RecoveryLikelihood(sampler(2), [0.0, 0.5]),
        LearnedGenerator(nn.Linear(2, 2), 2),
    ):
        assert objective(energy, x, generator=generator()).loss.isnan()
