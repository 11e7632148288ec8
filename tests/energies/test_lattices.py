"""Ising, Potts and RBM against loops, closed forms and enumeration; discrete spaces."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import generator
from torch import Tensor

from ebrl import Energy, FunctionEnergy
from ebrl.energies import RBM, CorrelatedGaussian, Flattened, Ising, Potts, square_lattice
from ebrl.estimators import exact_log_normalizer, exact_log_probabilities
from ebrl.networks import MLPEnergy
from ebrl.spaces import Binary, Categorical, Space


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def random_coupling(sites: int) -> Tensor:
    coupling = normal(sites, sites).triu(1)
    return coupling + coupling.mT


def random_rbm(visible: int, hidden: int) -> RBM:
    rbm = RBM(visible, hidden).double()
    with torch.no_grad():
        for i, parameter in enumerate(rbm.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=i))
    return rbm


# Energies.


@given(st.integers(1, 4), st.integers(1, 4), st.booleans())
@settings(max_examples=30, deadline=None)
def test_lattices_couple_right_and_lower_neighbours(rows: int, columns: int, wraps: bool) -> None:
    expected = torch.zeros(rows * columns, rows * columns)
    for i, j in itertools.product(range(rows), range(columns)):
        for k, m in ((i + 1, j), (i, j + 1)):
            inside = k < rows and m < columns
            here, there = i * columns + j, (k % rows) * columns + m % columns
            if (inside or wraps) and here != there:
                expected[here, there] += 0.5
                expected[there, here] += 0.5
    assert torch.equal(square_lattice(rows, columns, 0.5, periodic=wraps), expected)


def test_ising_and_potts_are_the_sums_over_pairs() -> None:
    coupling, field = random_coupling(4), normal(4, seed=2)
    x, pairs = Binary(4).states().double(), list(itertools.combinations(range(4), 2))
    spins = 2 * x - 1
    expected = -sum(coupling[i, j] * spins[:, i] * spins[:, j] for i, j in pairs) - spins @ field
    torch.testing.assert_close(Ising(coupling, field)(x), expected)
    x, field = Categorical(4, 3).states().double(), normal(4, 3)
    labels = x.argmax(-1)
    expected = -sum(coupling[i, j] * (labels[:, i] == labels[:, j]) for i, j in pairs)
    torch.testing.assert_close(Potts(coupling)(x), expected)
    expected = expected - field[torch.arange(4), labels].sum(-1)
    torch.testing.assert_close(Potts(coupling, field)(x), expected)


def test_integers_are_numbers() -> None:
    coupling = square_lattice(2, 2, 0.44, periodic=False)
    x = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 0]])
    torch.testing.assert_close(Ising(coupling, 0.3)(x), Ising(coupling, 0.3)(x.float()))
    hot = torch.nn.functional.one_hot(x, 3)
    torch.testing.assert_close(Potts(coupling)(hot), Potts(coupling)(hot.float()))
    whole = CorrelatedGaussian(torch.zeros(2), torch.tensor([[2, 1], [1, 2]]))
    same = CorrelatedGaussian(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    at = torch.tensor([[1.0, -0.5]])
    torch.testing.assert_close(whole(at), same(at))
    mixed = CorrelatedGaussian(torch.zeros(2), torch.eye(2).double())
    assert mixed.sample((3,), generator()).dtype == torch.float64


def test_exact_answers_are_those_of_evaluation() -> None:
    energy = MLPEnergy(4, (8,), normalization="batch").train()
    before = {name: value.clone() for name, value in energy.state_dict().items()}
    answer = exact_log_normalizer(energy, Binary(4))
    assert energy.training
    assert all(torch.equal(value, before[name]) for name, value in energy.state_dict().items())
    torch.testing.assert_close(answer, exact_log_normalizer(energy.eval(), Binary(4)))


def test_potts_with_two_categories_is_ising() -> None:
    # [x_i = x_j] = (1 + s_i s_j) / 2: half the coupling, up to a constant.
    coupling = random_coupling(5)
    binary = exact_log_probabilities(Ising(coupling), Binary(5))
    pairs = exact_log_probabilities(Potts(2 * coupling), Categorical(5, 2))
    torch.testing.assert_close(binary, pairs)


def test_enumeration_has_the_dtype_of_the_energys_numbers() -> None:
    class Counting(Ising):
        def __init__(self, coupling: Tensor):
            super().__init__(coupling)
            self._buffers = {"calls": torch.tensor(0), **self._buffers}  # an integer comes first

    coupling = random_coupling(4)
    expected = exact_log_normalizer(Ising(coupling), Binary(4))
    torch.testing.assert_close(exact_log_normalizer(Counting(coupling), Binary(4)), expected)


def test_an_rbm_sums_its_hidden_units_out() -> None:
    rbm, v = random_rbm(4, 3), Binary(4).states().double()
    h = Binary(3).states().double()
    joint = (v @ rbm.visible_bias).unsqueeze(-1) + h @ rbm.hidden_bias + v @ rbm.weight.mT @ h.mT
    torch.testing.assert_close(rbm(v), -torch.logsumexp(joint, -1))
    # Conditionals: of the joint's two values of one unit, and the other layer fixed.
    probability = torch.softmax(joint, -1) @ h
    torch.testing.assert_close(torch.sigmoid(rbm.hidden_logits(v)), probability)
    probability = torch.softmax(joint, 0).mT @ v
    torch.testing.assert_close(torch.sigmoid(rbm.visible_logits(h)), probability)
    log_normalizer = exact_log_normalizer(rbm, Binary(4))
    torch.testing.assert_close(log_normalizer, torch.logsumexp(joint.flatten(), 0))


ENERGIES: dict[str, tuple[Energy, tuple[int, ...]]] = {
    "ising": (Ising(random_coupling(6), 0.3), (6,)),
    "potts": (Potts(random_coupling(4), normal(4, 3)), (4, 3)),
    "potts without field": (Potts(random_coupling(4)), (4, 3)),
    "rbm": (random_rbm(5, 3), (5,)),
    "flattened": (Flattened(MLPEnergy(12, (8,)).double(), 2), (4, 3)),
}


@pytest.mark.parametrize("batch", [(), (3,), (3, 2)], ids=str)
@pytest.mark.parametrize("name", ENERGIES)
def test_gradients_are_those_of_autograd(name: str, batch: tuple[int, ...]) -> None:
    energy, event = ENERGIES[name]
    x = normal(*batch, *event)
    value, gradient = energy.value_and_gradient(x)
    expected, slope = Energy.value_and_gradient(energy, x)
    assert value.shape == batch
    assert value.dtype == gradient.dtype == torch.float64
    assert not value.requires_grad
    assert not gradient.requires_grad
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)


def test_an_rbm_trains() -> None:
    # The gradient of the exact log likelihood is the difference of two means of dE/dθ.
    rbm, v = random_rbm(4, 3), Binary(4).states().double()
    law = torch.softmax(-rbm(v).detach(), 0)
    (rbm(v[3:4]).sum() - (law * rbm(v)).sum()).backward()
    hidden = torch.sigmoid(rbm.hidden_logits(v)).detach()
    expected = -torch.outer(hidden[3], v[3]) + (law.unsqueeze(-1) * hidden).mT @ v
    torch.testing.assert_close(rbm.weight.grad, expected)


# Enumeration.


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_log_normalizers_are_the_closed_forms(temperature: float) -> None:
    field = normal(5)
    free = Ising(torch.zeros(5, 5).double(), field)
    expected = torch.log(2 * torch.cosh(field / temperature)).sum()
    torch.testing.assert_close(exact_log_normalizer(free, Binary(5), temperature), expected)
    # A ring of Potts spins: the trace of a power of its transfer matrix.
    ring, strength = Potts(square_lattice(1, 6, 0.8)), 0.8 / temperature
    eigenvalues = [math.exp(strength) + 2, *[math.exp(strength) - 1] * 2]
    found = exact_log_normalizer(ring, Categorical(6, 3), temperature)
    assert float(found) == pytest.approx(math.log(sum(each**6 for each in eigenvalues)), abs=1e-5)


def test_exact_log_probabilities_are_normalised_and_survive_energies_of_a_thousand() -> None:
    steep = Ising(torch.zeros(3, 3), torch.tensor([1000.0, -1000.0, 0.0]))
    found = exact_log_probabilities(steep, Binary(3))
    assert found.dtype == torch.float64
    assert float(found.exp().sum()) == pytest.approx(1)
    likely = found.exp() > 0.1
    assert torch.equal(Binary(3).states()[likely], torch.tensor([[1.0, 0, 0], [1, 0, 1]]))


# Spaces.

SPACES = {
    "binary": (Binary(5), 5, 2),
    "image": (Binary(1, 2, 3), 6, 2),
    "categorical": (Categorical(3, 4), 3, 4),
}
every_space = pytest.mark.parametrize(("space", "sites", "values"), SPACES.values(), ids=SPACES)


@every_space
def test_states_are_complete_and_have_their_index(
    space: Binary | Categorical, sites: int, values: int
) -> None:
    states = space.states()
    assert len(states) == values**sites
    assert len(states.flatten(1).unique(dim=0)) == len(states)
    assert space.contains(states).all()
    assert torch.equal(space.index(states), torch.arange(len(states)))
    torch.testing.assert_close(
        space.reference_log_density(states).exp().sum(), torch.tensor(1.0), atol=1e-5, rtol=0
    )


@every_space
def test_reference_draws_are_uniform(space: Binary | Categorical, sites: int, values: int) -> None:
    draws, count = 50_000, values**sites
    before = torch.get_rng_state()
    x = space.reference((draws // 10, 10), generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert x.shape == (draws // 10, 10, *space.states().shape[1:])
    assert x.dtype == torch.float32
    expected = draws / count
    counts = torch.bincount(space.index(x).flatten(), minlength=count)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < count + 4 * (2 * count) ** 0.5


@every_space
def test_free_coordinates_round_trip(space: Binary | Categorical, sites: int, values: int) -> None:
    x = space.reference((3, 2), generator()).double()
    free = space.to_free(x)
    assert free.shape == (3, 2, sites, values)
    assert Categorical(sites, values).contains(free).all()
    assert torch.equal(space.from_free(free), x)


def test_pairs_have_the_energy_and_the_differences_of_the_gradient_of_binary_x() -> None:
    space: Space = Binary(2, 3)
    energy = FunctionEnergy(lambda x: (x**3 * normal(2, 3)).sum((-2, -1)), event_ndim=2)
    x = Binary(2, 3).reference((4,), generator(1)).double()
    free = space.free(energy, 1.0, 0.1)
    value, gradient = free.value_and_gradient(space.to_free(x))
    expected, slope = energy.value_and_gradient(x)
    assert free.event_ndim == 2
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient.diff(dim=-1).view(4, 2, 3), slope)
    torch.testing.assert_close(free(space.to_free(x)), expected)


@given(st.lists(st.sampled_from([0.0, 1.0, 0.5, -1.0, 2.0, math.nan]), min_size=4, max_size=4))
def test_a_binary_space_contains_zeros_and_ones(values: list[float]) -> None:
    x, inside = torch.tensor(values), all(value in (0, 1) for value in values)
    assert bool(Binary(4).contains(x)) == inside
    assert bool(Binary(2, 2).contains(x.view(2, 2))) == inside
    log_density = float(Binary(4).reference_log_density(x))
    assert log_density == pytest.approx(-4 * math.log(2) if inside else -math.inf)


@given(st.lists(st.sampled_from([0.0, 1.0, 0.5, math.nan]), min_size=3, max_size=3))
def test_a_categorical_space_contains_one_hot_rows(values: list[float]) -> None:
    x = torch.tensor([[0.0, 1.0, 0.0], values])
    assert bool(Categorical(2, 3).contains(x)) == (
        sorted(map(str, values)) == ["0.0", "0.0", "1.0"]
    )


# Bad input.


def test_impossible_spaces_and_energies_are_refused() -> None:
    vector = FunctionEnergy(lambda x: x.sum(-1))
    cases = [
        (lambda: Binary(), r"expected the shape of one x, such as Binary\(16\)"),
        (lambda: Binary(3, 0), "expected the shape of one x"),
        (lambda: Categorical(3, 1), "categories >= 2, got 1"),
        (lambda: Categorical(3, 2).free(vector, 1.0, 0.1), r"event_ndim=2.*Flattened"),
        (lambda: Binary(2, 2).free(vector, 1.0, 0.1), r"Binary\(2, 2\) holds events of 2 axes"),
        (lambda: Categorical(3, 2).contains(torch.zeros(5, 2, 2)), r"\(\*batch, 3, 2\), got"),
        (lambda: Binary(23).states(), r"at most 2\^22 states"),
        (lambda: Ising(torch.eye(3)), "zero diagonal"),
        (lambda: Ising(torch.ones(3, 3).triu(1)), "symmetric"),
        (lambda: Potts(torch.zeros(3, 2)), r"got shape \(3, 2\)"),
        (lambda: Potts(torch.zeros(3, 3), torch.zeros(3)), r"\(3, categories\), got \(3,\)"),
        (lambda: RBM(3, 0), "hidden >= 1, got 0"),
        (lambda: Flattened(Potts(torch.zeros(3, 3)), 2), "expected an energy of vectors"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_coupling_of_integers_does_not_round_the_field() -> None:
    adjacency = torch.tensor([[0, 1], [1, 0]])
    assert torch.equal(Ising(adjacency, 0.5).field, torch.tensor([0.5, 0.5]))


def test_too_many_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 2\^22 states to enumerate, got 2\^1089"):
        Binary(33, 33).states()
