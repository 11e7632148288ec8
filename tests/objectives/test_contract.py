"""What every objective keeps to: gradients, types, conditions and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from objective_problems import DENOISING, DISCRETE, EXACT, LevelQuadratic, Quadratic, local, wide
from problems import generator
from torch import Tensor

from ebrl import Energy, FunctionEnergy, Gaussian, objectives
from ebrl.kernels import Proposal
from ebrl.networks import MLPEnergy
from ebrl.objectives import NormalNoise, Objective
from ebrl.objectives.noise_contrast import with_candidates

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
        takes_condition = True

        def given(self, condition: Tensor) -> Energy:
            seen["condition"] = condition
            return LevelQuadratic(torch.ones(2))

    objective = objectives.DenoisingScoreMatching(torch.tensor([0.1, 0.2]))
    condition = torch.ones(32, 3)
    objective(Both(), data(), condition, generator=generator())
    assert seen["condition"].shape == (32, 4)
    assert torch.equal(seen["condition"][:, :3], condition)
    assert set(seen["condition"][:, 3].unique().tolist()) == set(objective.sigma.tolist())
    network = MLPEnergy(2, (8,), condition_dimension=4)
    objective(network, data(), condition, generator=generator()).loss.backward()
    with pytest.raises(ValueError, match=r"shape \(batch, features\), .* got shape \(32,\)"):
        objective(network, data(), torch.ones(32), generator=generator())
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
        takes_condition = True

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


def test_candidates_of_another_shape_are_refused() -> None:
    for build in (objectives.NCE, objectives.InfoNCE):
        objective = build(NormalNoise(torch.zeros(3), torch.ones(3)))
        with pytest.raises(ValueError, match=r"the data's shape \(2,\), got draws of shape \(3,\)"):
            objective(Quadratic(torch.ones(2)), data(), generator=generator())


class Rows(NamedTuple):
    """The row 7 7 7 …, of `length`."""

    length: int

    def sample(self, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.full((*batch, self.length), 7)

    def log_density(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape[:-1])


@pytest.mark.parametrize("length", [2, 5])
def test_rows_of_integers_are_padded_to_the_longer(length: int) -> None:
    x = torch.tensor([[1, 2, 3], [4, 5, 0]])
    pool, _ = with_candidates(Rows(length), x, None, 2, generator())
    assert pool.shape == (2, 3, max(3, length))
    assert pool[:, 0, :3].equal(x)
    assert not pool[:, 0, 3:].any()
    assert (pool[:, 1:, :length] == 7).all()
    assert not pool[:, 1:, length:].any()


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
        for whole in (x.long(), x.bool()):
            with pytest.raises(ValueError, match=r"floating point numbers, got .*: x.float\(\)"):
                objective(categorical=categorical)(energy, whole, generator=generator())


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
