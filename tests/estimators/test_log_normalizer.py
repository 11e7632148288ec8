"""The log normalizer from below, above and both sides, against closed forms and enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from problems import generator
from torch import Tensor

from ebrl import Energy, FunctionEnergy, Gaussian, estimators
from ebrl.energies import RBM, GaussianMixture, Potts, TruncatedGaussian, square_lattice
from ebrl.estimators import (
    Annealing,
    Bounds,
    Estimate,
    bits_per_dimension,
    bridge,
    entropy,
    exact_log_normalizer,
    importance,
    sigmoid_ladder,
)
from ebrl.kernels import MALA, Edits, Gibbs
from ebrl.networks import MLPEnergy
from ebrl.spaces import Binary, Box, Categorical, Strings, Torus, Unbounded

MIXTURE = GaussianMixture([[2.0, 0.0], [-2.0, 1.0]], 0.5, [0.7, 0.3])
LOG_Z = 1.838


def shifted(energy: Energy, log_normalizer: float) -> Energy:
    """Return the normalised energy less `log_normalizer`."""
    return FunctionEnergy(lambda x: energy(x) - log_normalizer, energy.event_ndim)


def assert_brackets(bounds: Bounds, truth: float, width: float, errors: float = 3.0) -> None:
    low, high = bounds.interval(errors)
    assert low <= truth <= high
    assert high - low <= width
    assert bounds.bridge.value.item() == pytest.approx(
        truth, abs=errors * bounds.bridge.standard_error.item()
    )


@pytest.mark.parametrize("given", [True, False], ids=["exact samples", "long run"])
def test_bounds_bracket_a_mixture(given: bool) -> None:
    samples = MIXTURE.sample((16 * 800,), generator(1)) if given else None
    bounds = estimators.log_normalizer(
        shifted(MIXTURE, LOG_Z),
        space=Unbounded(2),
        generator=generator(2),
        samples=samples,
        kernel=MALA(),
        chains=800,
        ladder=100,
        long_run=50,
    )
    assert bounds.model_samples == ("given" if given else "long run")
    assert (bounds.lower.bound, bounds.upper.bound, bounds.bridge.bound) == (
        "lower",
        "upper",
        "none",
    )
    assert_brackets(bounds, LOG_Z, width=0.06)
    low, high = bounds.interval(2)
    assert high - low <= 0.037
    assert bounds.acceptance.shape == (98,)
    assert bounds.acceptance.mean() == pytest.approx(0.65, abs=0.1)


def test_bounds_bracket_a_trained_size_of_rbm() -> None:
    torch.manual_seed(0)
    energy, space = RBM(10, 6), Binary(10)
    with torch.no_grad():
        for parameter in energy.parameters():
            parameter.normal_(0, 1.0)
    truth = exact_log_normalizer(energy, space).item()
    for kernel, steps in ((None, 3), (Gibbs(), 4)):
        bounds = estimators.log_normalizer(
            energy, space=space, generator=generator(), kernel=kernel, ladder=30, steps=steps,
            chains=32, long_run=20,
        )  # fmt: skip
        assert_brackets(bounds, truth, width=1.0)
    assert all(parameter.requires_grad for parameter in energy.parameters())


def test_bounds_bracket_a_potts_model() -> None:
    energy, space = Potts(square_lattice(2, 2, 0.7)), Categorical(4, 3)
    for temperature in (0.5, 1.0):
        truth = exact_log_normalizer(energy, space, temperature).item()
        bounds = estimators.log_normalizer(
            energy,
            space=space,
            generator=generator(),
            temperature=temperature,
            ladder=30,
            long_run=30,
        )
        assert_brackets(bounds, truth, width=0.5)


@pytest.mark.parametrize("walls", ["reject", "tanh", "reflect"])
def test_bounds_bracket_on_a_box(walls: str) -> None:
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0])
    energy = shifted(TruncatedGaussian(0.8, 0.4, low, high, 2), -3.0)
    bounds = estimators.log_normalizer(
        energy, space=Box(low, high, walls), generator=generator(3), kernel=MALA(), ladder=40,
        long_run=50,
    )  # fmt: skip
    assert_brackets(bounds, -3.0, width=0.5)


def test_a_short_ladder_moves_on_every_rung_of_a_torus() -> None:
    # The first rungs are flat, and a step size that grew there would be refused on the later ones.
    energy = FunctionEnergy(lambda x: -2 * x.cos().sum(-1))
    bounds = estimators.log_normalizer(
        energy, space=Torus(2), generator=generator(), ladder=20, chains=16, long_run=20
    )
    assert bounds.acceptance.min() > 0.3
    truth = 2 * math.log(2 * math.pi * float(torch.special.i0(torch.tensor(2.0))))
    assert_brackets(bounds, truth, width=1.0)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_divides_the_energy(temperature: float) -> None:
    energy = Gaussian(0.5, 0.7, 2)
    at_temperature = math.log(2 * math.pi * temperature * 0.49)
    bounds = estimators.log_normalizer(
        energy, space=Unbounded(2), generator=generator(), temperature=temperature, ladder=30,
        kernel=MALA(), long_run=30,
    )  # fmt: skip
    assert_brackets(bounds, at_temperature - energy.log_normalizer / temperature, width=0.2)


def test_the_means_of_both_sides_bound_the_truth() -> None:
    # On a ladder this short the bounds are loose, and each holds in expectation.
    energy, space = Gaussian(2.0, 0.3, 4), Unbounded(4)
    path = Annealing(energy, space=space, kernel=MALA(), ladder=60, step_size=0.05)
    path.fit_step_sizes(200, generator())
    up = path.up((2000, 1), generator(1))
    down = path.down(energy.sample((2000, 1), generator(2)), generator(3))
    for weights, sign in ((up.log_weights, -1), (-down.log_weights, 1)):
        error = weights.std() / len(weights) ** 0.5
        assert sign * weights.mean() > 5 * error  # below, above 0
    # Exponentiated, both are unbiased; up to the heavy tails of a short ladder.
    for run in (up, down):
        mean, error = run.log_weights.exp().mean(), run.log_weights.exp().std() / 2000**0.5
        assert mean.item() == pytest.approx(1, abs=4 * error.item())
    both = bridge(up.log_weights, -down.log_weights)
    assert both.value.item() == pytest.approx(0, abs=4 * both.standard_error.item())


def test_standard_errors_are_those_of_repetition() -> None:
    estimates = [
        estimators.log_normalizer(
            MIXTURE, space=Unbounded(2), generator=generator(seed), kernel=MALA(), runs=8,
            chains=16, ladder=15, samples=MIXTURE.sample((128,), generator(100 + seed)),
        )
        for seed in range(16)
    ]  # fmt: skip
    for name in ("lower", "upper", "bridge"):
        each = [getattr(bounds, name) for bounds in estimates]
        spread = torch.stack([estimate.value for estimate in each]).std().item()
        claimed = torch.stack([estimate.standard_error for estimate in each]).mean().item()
        assert 0.5 < claimed / spread < 2, name


def test_bridge_of_points_is_classical_bridge_sampling() -> None:
    # q = N(0, 1), f = 5 N(1, 1): overlap of both makes one rung enough.
    target, proposal = Gaussian(1.0, 1.0, 1), Gaussian(0.0, 1.0, 1)

    def log_weights(x: Tensor) -> Tensor:
        return math.log(5) + proposal(x) - target(x)

    forward = log_weights(proposal.sample((20, 500), generator(1)))
    backward = log_weights(target.sample((20, 100), generator(2)))
    estimate = bridge(forward, backward)
    assert estimate.value.item() == pytest.approx(
        math.log(5), abs=3 * estimate.standard_error.item()
    )
    assert 0.005 < estimate.standard_error < 0.05


def test_importance_with_the_target_itself_is_exact() -> None:
    target = Gaussian(0.5, 0.7, 3)
    estimate = importance(shifted(target, 2.5), target, 100, generator=generator())
    assert estimate.value.item() == pytest.approx(2.5, abs=1e-5)
    assert estimate.standard_error < 1e-5
    wider = importance(shifted(target, 2.5), Gaussian(0.0, 1.5, 3), 20_000, generator=generator())
    assert wider.value.item() == pytest.approx(2.5, abs=4 * wider.standard_error.item())
    assert 0.001 < wider.standard_error < 0.05
    assert wider.bound == "lower"


def test_entropy_and_bits_are_those_of_the_gaussian() -> None:
    target = Gaussian(0.0, 0.7, 2)
    truth = 2 * math.log(0.7 * math.sqrt(2 * math.pi * math.e))
    known = Estimate(torch.tensor(3.0).double(), torch.tensor(0.01).double(), "upper")
    x = target.sample((20_000,), generator()).double()
    of_energy = entropy(shifted(target, 3.0), x, known)
    error = of_energy.standard_error.item()
    assert of_energy.value.item() == pytest.approx(truth, abs=3 * error)
    assert error == pytest.approx((0.01**2 + 1 / 20_000) ** 0.5, rel=0.05)  # Var of |z|²/2 is 1
    bits = bits_per_dimension(shifted(target, 3.0), x, known, bin_width=0.25)
    assert bits.value == pytest.approx(of_energy.value.item() / (2 * math.log(2)) + 2)
    assert bits.bound == "upper"


def test_bits_of_a_uniform_byte_are_eight() -> None:
    flat = FunctionEnergy(lambda x: torch.zeros(x.shape[:-3]), event_ndim=3)
    known = Estimate(torch.zeros(()).double(), torch.zeros(()).double(), "none")
    bits = bits_per_dimension(flat, torch.rand(10, 1, 4, 4), known, bin_width=1 / 256)
    assert bits.value == 8


def test_a_network_is_left_as_it_was_and_the_global_stream_alone() -> None:
    energy = MLPEnergy(2, (16,))
    energy.train()
    before = torch.get_rng_state()
    results = [
        estimators.log_normalizer(
            energy + Gaussian(0.0, 1.0, 2), space=Unbounded(2), generator=generator(5), ladder=8,
            chains=4, long_run=5,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert results[0].lower.value == results[1].lower.value
    assert results[0].upper.value == results[1].upper.value
    assert energy.training
    assert all(parameter.requires_grad for parameter in energy.parameters())
    assert all(parameter.grad is None for parameter in energy.parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_a_double_network_is_annealed_in_double() -> None:
    path = Annealing(MLPEnergy(2, (8,)).double(), space=Unbounded(2), ladder=5)
    assert path.up((2, 3), generator()).x.dtype == torch.float64


def test_the_ladder_is_dense_at_its_ends() -> None:
    ladder = torch.tensor(sigmoid_ladder(101))
    assert ladder[0] == 0
    assert ladder[-1] == 1
    assert (ladder.diff() > 0).all()
    assert ladder.diff()[0] < ladder.diff()[50] / 5
    torch.testing.assert_close(ladder, 1 - ladder.flip(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 1}, "runs >= 2"),
        ({"chains": 0}, "chains >= 1"),
        ({"samples": torch.zeros(3, 2)}, "at least 16 samples"),
        ({"samples": torch.zeros(20, 8, 2)}, r"of a trace pass trace.x.flatten\(0, 1\)"),
        ({"temperature": 0.0}, "positive temperature"),
        ({"ladder": 1}, "rungs >= 2"),
        ({"ladder": [0.0, 0.5]}, "from 0 up to 1"),
        ({"ladder": [0.0, 0.7, 0.3, 1.0]}, "from 0 up to 1"),
        ({"space": None}, "event shape"),
        ({"space": Box(-3.0, 3.0)}, r"\(1, 64, 2\), got \(1, 64, 1\).*one number a dim"),
    ],
)
def test_bad_input_is_refused(arguments: dict, message: str) -> None:
    arguments = {"space": Unbounded(2), "generator": generator(), **arguments}
    with pytest.raises(ValueError, match=message):
        estimators.log_normalizer(MIXTURE, **arguments)


def test_a_space_without_a_default_kernel_asks_for_one() -> None:
    flat = FunctionEnergy(lambda x: 0.0 * x.sum(-1))
    with pytest.raises(ValueError, match=r"kernel=Edits\(space\) for Strings"):
        estimators.log_normalizer(flat, space=Strings(3, 5), generator=generator())


def test_strings_are_counted() -> None:
    space = Strings(3, 5)  # 4 + 16 + 64 strings
    flat = FunctionEnergy(lambda x: 0.0 * x.sum(-1))
    found = estimators.log_normalizer(
        flat, space=space, kernel=Edits(space), ladder=4, runs=4, chains=50, generator=generator()
    )
    low, high = found.interval(4.0)
    assert low - 1e-6 <= math.log(84) <= high + 1e-6
