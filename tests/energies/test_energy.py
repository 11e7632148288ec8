"""Energies: their algebra, their gradients, their conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import generator
from torch import Tensor, nn

from ebrl import DualAveraging, Energy, FunctionEnergy, Gaussian, Mixture, Sampler
from ebrl.energies import Sum, TruncatedGaussian, Weighted, first_order
from ebrl.kernels import HMC, MALA
from ebrl.networks import MLPEnergy
from ebrl.spaces import Box


class Skewed(Energy):
    """An energy that leaves its gradient to autograd."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.exp() - 2 * x).sum(-1)


class Conditional(Energy):
    """`|x - condition|²`."""

    takes_condition = True

    def given(self, condition: Tensor) -> Energy:
        return Centred(condition)


class Centred(Energy):
    def __init__(self, centre: Tensor):
        super().__init__()
        self.centre = centre

    def forward(self, x: Tensor) -> Tensor:
        candidates = (1,) * (x.ndim - self.centre.ndim)
        centre = self.centre.reshape(*self.centre.shape[:-1], *candidates, x.shape[-1])
        return (x - centre).square().sum(-1)


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(), dtype=torch.float64)


def autograd(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = energy(x)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


GAUSSIAN = Gaussian(torch.tensor([0.5, -1.0]), torch.tensor([0.5, 2.0]), 2)
ENERGIES = {
    "gaussian": GAUSSIAN,
    "function": FunctionEnergy(lambda x: x.pow(4).sum(-1)),
    "no gradient of its own": Skewed(),
    "sum": GAUSSIAN + Skewed(),
    "difference": GAUSSIAN - Skewed(),
    "weighted": 0.3 * Skewed(),
    "tempered by chain": Skewed() / torch.linspace(0.5, 2.0, 5),
    "mixture": Mixture([GAUSSIAN, Gaussian(2.0, 1.0, 2)], [0.7, 0.3]),
    "mixture of sums": Mixture([GAUSSIAN + Skewed(), 2 * GAUSSIAN], [1.0, 4.0]),
}


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("batch", [(5,), (5, 3)], ids=str)
def test_value_and_gradient_are_those_of_autograd(name: str, batch: tuple[int, ...]) -> None:
    energy, x = ENERGIES[name], points(*batch, 2)
    value, gradient = energy.value_and_gradient(x)
    expected_value, expected_gradient = autograd(energy, x)
    assert value.shape == batch
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(gradient, expected_gradient)
    assert value.grad_fn is None
    assert gradient.grad_fn is None
    assert value.dtype == gradient.dtype == torch.float64


def test_value_and_gradient_work_without_grad_mode_and_leave_x_alone() -> None:
    x = points(5, 2)
    with torch.no_grad():
        _, gradient = Skewed().value_and_gradient(x)
    torch.testing.assert_close(gradient, x.exp() - 2)
    assert not x.requires_grad


def test_gaussian_is_normalised() -> None:
    x = points(7, 2)
    law = torch.distributions.Normal(GAUSSIAN.mean, GAUSSIAN.deviation)
    torch.testing.assert_close(-GAUSSIAN(x), law.log_prob(x).sum(-1))


def test_algebra_of_values_and_gradients() -> None:
    one, two, x = GAUSSIAN, Skewed(), points(5, 2)
    (v1, g1), (v2, g2) = one.value_and_gradient(x), two.value_and_gradient(x)
    expected = {
        "+": (one + two, v1 + v2, g1 + g2),
        "-": (one - two, v1 - v2, g1 - g2),
        "double negative": (-1 * -one, v1, g1),
        "*": (3 * one, 3 * v1, 3 * g1),
        "/": (two / 0.25, 4 * v2, 4 * g2),
        "distributive": ((one + two) / 2, (v1 + v2) / 2, (g1 + g2) / 2),
    }
    for name, (energy, value, gradient) in expected.items():
        got_value, got_gradient = energy.value_and_gradient(x)
        torch.testing.assert_close(got_value, value, msg=name)
        torch.testing.assert_close(got_gradient, gradient, msg=name)


def test_a_weight_for_each_chain_is_aligned_from_the_left() -> None:
    # As many candidates as chains: aligned from the right, the weights would fit and be wrong.
    weight, x = torch.tensor([1.0, 2.0, 3.0]), points(3, 3, 2)
    energy = weight * GAUSSIAN
    value, gradient = energy.value_and_gradient(x)
    torch.testing.assert_close(value, weight[:, None] * GAUSSIAN(x))
    torch.testing.assert_close(energy(x), value)
    torch.testing.assert_close(gradient, weight[:, None, None] * GAUSSIAN.value_and_gradient(x)[1])


def test_weights_of_more_axes_than_the_batch_are_refused() -> None:
    energy = torch.ones(4, 1) * GAUSSIAN
    for evaluate in (energy, energy.value_and_gradient):
        with pytest.raises(ValueError, match=r"of at most 1 axes, got shape \(4, 1\)"):
            evaluate(torch.zeros(4, 2))


def test_mixture_is_the_mixture_of_the_densities() -> None:
    x, components = points(50, 2), [GAUSSIAN, Gaussian(2.0, 1.0, 2)]
    density = 0.7 * (-components[0](x)).exp() + 0.3 * (-components[1](x)).exp()
    # Unnormalised weights mean the same; float32 weights bound the accuracy.
    torch.testing.assert_close((-Mixture(components, [7, 3])(x)).exp(), density, rtol=1e-6, atol=0)
    torch.testing.assert_close(Mixture(components, [1, 0])(x), components[0](x))


def test_outside_of_all_its_components_a_mixture_has_their_mean_gradient() -> None:
    parts = [TruncatedGaussian(mean, 1.0, -1.0, 1.0) for mean in (0.0, 0.5)]
    mixture, x = Mixture(parts, [0.3, 0.7]), torch.tensor([[3.0], [0.2]], dtype=torch.float64)
    value, gradient = mixture.value_and_gradient(x)
    assert value.isposinf().tolist() == [True, False]
    assert gradient[0].item() == pytest.approx(0.3 * 3 + 0.7 * 2.5, rel=1e-6)
    by_autograd, slope = autograd(mixture, x)
    torch.testing.assert_close(by_autograd, value)
    torch.testing.assert_close(slope[1], gradient[1])
    assert slope.isfinite().all()
    # A trajectory that leaves the components is refused, and has not diverged.
    chains = Sampler(HMC(5), steps=100, step_size=0.4)
    samples = chains.sample(mixture, torch.zeros(100, 1), generator=generator())
    assert samples.info.diverged.sum() == 0
    assert 0.3 < samples.info.acceptance.mean() < 0.9


def test_a_mixture_of_conditionals_keeps_its_precision_and_prepares_its_components() -> None:
    networks = [MLPEnergy(2, [8], condition_dimension=1) for _ in range(2)]
    mixture = Mixture(networks, torch.tensor([0.3, 0.7], dtype=torch.float64)).double()
    given = mixture.given(torch.ones(4, 1, dtype=torch.float64))
    assert given.log_weights.dtype == torch.float64
    x = torch.randn(4, 2, dtype=torch.float64)
    prepared = given.prepared()
    assert prepared.components[0] is not given.components[0]
    torch.testing.assert_close(prepared(x), given(x))


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, -0.1], [0.0, 0.0], [1.0, 1.0, 1.0], [1.0, float("nan")]], ids=str
)
def test_mixture_weights_must_fit(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 2 non-negative weights"):
        Mixture([GAUSSIAN, GAUSSIAN], weights)


def test_images_and_vectors_do_not_compose() -> None:
    image = FunctionEnergy(lambda x: x.square().sum((-3, -2, -1)), event_ndim=3)
    with pytest.raises(ValueError, match=r"agree on event axes, got \[1, 3\]"):
        GAUSSIAN + image
    with pytest.raises(ValueError, match="agree on event axes"):
        Mixture([GAUSSIAN, image], [1, 1])


def test_an_energy_of_the_wrong_shape_says_what_to_do() -> None:
    with pytest.raises(
        ValueError, match=r"expected shape \(2,\), got \(2, 3\) .* sum over the event axes"
    ):
        FunctionEnergy(lambda x: x.square())(torch.zeros(2, 3))

    class Elementwise(Energy):
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    with pytest.raises(ValueError, match=r"expected shape \(2,\), got \(2, 3\)"):
        Elementwise().value_and_gradient(torch.zeros(2, 3))


def test_a_function_that_is_a_module_is_registered() -> None:
    network = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    assert list(FunctionEnergy(network).parameters()) == list(network.parameters())


@pytest.mark.parametrize("deviation", [0.0, -1.0])
def test_gaussian_needs_a_positive_deviation(deviation: float) -> None:
    with pytest.raises(ValueError, match="expected a positive deviation"):
        Gaussian(0.0, deviation, 2)


def test_given_reaches_the_terms_that_take_a_condition_and_no_others() -> None:
    condition, x = points(4, 2), points(4, 3, 2)
    own = (x - condition[:, None]).square().sum(-1)
    compositions = {
        "sum": (GAUSSIAN + Conditional(), GAUSSIAN(x) + own),
        "nested": (GAUSSIAN - (Conditional() + GAUSSIAN) / 2, GAUSSIAN(x) / 2 - own / 2),
        "mixture": (
            Mixture([Conditional(), GAUSSIAN], [1, 1]),
            -torch.logsumexp(torch.stack([-own, -GAUSSIAN(x)]), 0) + torch.tensor(2.0).log(),
        ),
    }
    for name, (energy, expected) in compositions.items():
        assert energy.takes_condition, name
        torch.testing.assert_close(energy.given(condition)(x), expected, msg=name)


@pytest.mark.parametrize(
    "energy",
    [GAUSSIAN, GAUSSIAN + GAUSSIAN, 2 * GAUSSIAN, Mixture([GAUSSIAN, GAUSSIAN], [1, 1])],
    ids=["gaussian", "sum", "weighted", "mixture"],
)
def test_given_is_an_error_where_nothing_takes_a_condition(energy: Energy) -> None:
    assert not energy.takes_condition
    with pytest.raises(TypeError, match="takes no condition"):
        energy.given(torch.zeros(4, 2))


def test_given_keeps_a_weight_for_each_chain_with_its_condition() -> None:
    # Chain k of condition b: the M candidates of b share its weight and its condition.
    weight, condition, x = torch.tensor([1.0, 2.0]), points(2, 2), points(2, 5, 2)
    energy = (weight * Conditional()).given(condition)
    for b in range(2):
        alone = (weight[b] * Conditional()).given(condition[b])(x[b])
        torch.testing.assert_close(energy(x)[b], alone)


def test_bound_energies_show_their_parameters() -> None:
    network = MLPEnergy(2, (8,), condition_dimension=3)
    energy = (GAUSSIAN + network / 2).given(torch.zeros(4, 3))
    assert set(network.parameters()) <= set(energy.parameters())


def test_energies_are_summed_and_weighed_by_numbers_alone() -> None:
    x = points(5, 2)
    torch.testing.assert_close(sum([GAUSSIAN, Skewed()])(x), (GAUSSIAN + Skewed())(x))
    for weight in ("a", None, GAUSSIAN):
        with pytest.raises(TypeError):
            weight * GAUSSIAN
    with pytest.raises(TypeError):
        1 + GAUSSIAN
    with pytest.raises(ValueError, match="expected a finite weight, got nan"):
        torch.nan * GAUSSIAN
    torch.testing.assert_close((np.float32(2) * GAUSSIAN)(x), 2 * GAUSSIAN(x))


def test_negation_and_temperature_have_inverses() -> None:
    x, negated = points(5, 2), -GAUSSIAN
    for inverse in (-negated, (GAUSSIAN / 0.3) * 0.3, GAUSSIAN - Skewed() + Skewed()):
        torch.testing.assert_close(inverse(x), GAUSSIAN(x))
        torch.testing.assert_close(
            inverse.value_and_gradient(x)[1], GAUSSIAN.value_and_gradient(x)[1]
        )


def test_guidance_is_algebra() -> None:
    condition, x, weight = points(5, 2), points(5, 2), 3.0
    unconditional, conditional = Skewed(), Conditional()
    guided = ((1 - weight) * unconditional + weight * conditional).given(condition)
    own = conditional.given(condition)
    expected = unconditional(x) + weight * (own(x) - unconditional(x))
    torch.testing.assert_close(guided(x), expected)
    torch.testing.assert_close(guided.value_and_gradient(x)[0], expected)


def test_first_order_has_the_energys_gradient_and_none_of_its_parameters() -> None:
    network = MLPEnergy(2, (8,)).double()
    x = points(5, 2).requires_grad_()
    upstream = points(5)
    value = first_order(network, x)
    torch.testing.assert_close(value, network(x))
    (upstream * value).sum().backward()
    expected = upstream[:, None] * network.value_and_gradient(x)[1]
    torch.testing.assert_close(x.grad, expected)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_function_sees_one_batch_axis_or_one_point() -> None:
    x = points(3, 4, 2)
    expected = x[..., 0].square() + x[..., 1]
    batch = FunctionEnergy(lambda rows: rows[:, 0] ** 2 + rows[:, 1])
    point = FunctionEnergy(lambda one: one[0] ** 2 + one[1], batched=False)
    for energy in (batch, point):
        torch.testing.assert_close(energy(x), expected)
        torch.testing.assert_close(energy(x[0, 0]), expected[0, 0])
        gradient = energy.value_and_gradient(x)[1]
        torch.testing.assert_close(gradient[..., 0], 2 * x[..., 0])
    with pytest.raises(TypeError, match="expected a function of x, got int"):
        FunctionEnergy(3)


def test_inference_mode_gives_the_same_and_poisons_nothing() -> None:
    network = MLPEnergy(2, (8,), activation=torch.nn.ELU)  # whose gradient is autograd's
    sampler = Sampler(MALA(), Box(-9.0, 9.0), steps=3, adaptation=DualAveraging())
    with torch.inference_mode():
        sampler.sample(network, torch.zeros(4, 2), generator=generator())
        assert FunctionEnergy(lambda x: x.sum(-1)).value_and_gradient(torch.zeros(2))[1].sum() == 2
    x = sampler.sample(network, torch.zeros(4, 2), generator=generator(), gradient="unroll").x
    x.sum().backward()
    assert all(buffer.is_inference() is False for buffer in sampler.buffers())


def test_functions_among_energies_are_refused() -> None:
    for combine in (
        lambda one, other: one + other,
        lambda one, other: Mixture([one, other], [0.5, 0.5]),
    ):
        with pytest.raises(TypeError, match="expected an Energy, got function"):
            combine(Gaussian(0.0, 1.0, 2), lambda x: x.sum(-1))


def test_an_abstract_energy_says_that_it_has_no_forward() -> None:
    with pytest.raises(NotImplementedError, match=r"Energy defines no forward\(x\)"):
        Energy()(torch.zeros(2))


def test_sum_and_weighted_know_their_event() -> None:
    image = FunctionEnergy(lambda x: x.square().sum((-3, -2, -1)), event_ndim=3)
    assert Sum([image, image]).event_ndim == Weighted(image, 2.0).event_ndim == 3
    weight, x = torch.tensor([1.0, 2.0]), points(2, 1, 4, 4)
    _, gradient = (weight * image).value_and_gradient(x)
    torch.testing.assert_close(gradient, 2 * weight[:, None, None, None] * x)


def test_a_tensor_of_weights_moves_and_is_saved_with_its_energy_and_is_not_trained() -> None:
    weight = torch.tensor([1.0, 2.0])
    energy = MLPEnergy(3, (8,)) * weight
    assert energy.double().weight.dtype == torch.float64
    assert "weight" in energy.state_dict()
    assert "weight" not in dict(energy.named_parameters())
    other = MLPEnergy(3, (8,)).double() * torch.zeros(2)
    other.double().load_state_dict(energy.state_dict())
    x = torch.randn(2, 3).double()
    assert torch.equal(other(x), energy(x))
    assert "weight" not in (MLPEnergy(3, (8,)) * 2.0).state_dict()
    trained = MLPEnergy(3, (8,)) * torch.nn.Parameter(torch.tensor(2.0))
    assert "weight" in dict(trained.named_parameters())


def test_a_trained_weight_adds_no_graph_to_value_and_gradient() -> None:
    weight = torch.nn.Parameter(torch.tensor(2.0))
    value, gradient = (weight * GAUSSIAN).value_and_gradient(points(3, 2))
    assert not value.requires_grad
    assert not gradient.requires_grad
    assert (weight * GAUSSIAN)(points(3, 2)).requires_grad
