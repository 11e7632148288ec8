"""MLP energies against plain PyTorch with the same weights."""

from __future__ import annotations

import copy

import pytest
import torch
from mlp_problems import network, points
from problems import generator
from torch import Tensor, nn

from ebrl.energies import Energy, Gaussian
from ebrl.networks import MLPEnergy, perceptron

ANALYTIC = [nn.ReLU, nn.SiLU, nn.Tanh]
every_activation = pytest.mark.parametrize("activation", [*ANALYTIC, nn.ELU])  # ELU falls back
every_depth = pytest.mark.parametrize("hidden", [(7,), (7, 5), (6, 5, 4)], ids=str)


def reference(net: MLPEnergy, member: int) -> nn.Sequential:
    """Return one of several members as ordinary layers over (condition, x): `(…, 1)`."""
    condition, (first, *others) = net.condition_layer, [*net.layers, net.head]
    weights = [first.weight, *(layer.weight for layer in others)]
    biases = [first.bias, *(layer.bias for layer in others)]
    if condition is not None:
        weights[0], biases[0] = torch.cat([condition.weight, first.weight], 1), condition.bias
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[2]).double()
        layer.weight.data = weight[member].detach().T.clone()
        layer.bias.data = bias[member].detach()[0].clone()
        layers += [layer, copy.deepcopy(net.activation)]
    return nn.Sequential(*layers[:-1])


def joined(condition: Tensor, x: Tensor) -> Tensor:
    """Return (condition, x) with the condition repeated for every candidate, the slow way."""
    candidates = (1,) * (x.ndim - condition.ndim)
    condition = condition.reshape(*condition.shape[:-1], *candidates, condition.shape[-1])
    return torch.cat([condition.expand(*x.shape[:-1], -1), x], -1)


SHAPES = {
    "one each": ((4, 3), (4, 2)),
    "candidates": ((4, 3), (4, 6, 2)),
    "as many candidates as conditions": ((4, 3), (4, 4, 2)),
    "two batch axes": ((4, 5, 3), (4, 5, 2)),
    "two batch axes, candidates": ((4, 5, 3), (4, 5, 6, 2)),
    "one condition for all": ((1, 3), (1, 6, 2)),
    "a condition without batch": ((3,), (6, 2)),
    "nothing has a batch": ((3,), (2,)),
}
every_shape = pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)


@every_shape
@every_activation
def test_members_are_plain_networks(
    activation: type[nn.Module], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    net, condition, x = network(activation), points(*shapes[0]), points(*shapes[1], seed=1)
    expected = torch.stack([reference(net, k)(joined(condition, x))[..., 0] for k in range(2)])
    bound = net.given(condition)
    torch.testing.assert_close(bound.member_values(x), expected)
    torch.testing.assert_close(bound(x), expected.mean(0))
    torch.testing.assert_close(net.given(condition, "max")(x), expected.amax(0))


@every_depth
@every_activation
@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_analytic_gradients_are_those_of_autograd(
    activation: type[nn.Module], hidden: tuple[int, ...], reduction: str
) -> None:
    net, condition = network(activation, hidden, members=3), points(4, 3)
    for shape in ((4, 2), (4, 6, 2)):
        x = points(*shape, seed=1)
        value, gradient = net.given(condition, reduction).value_and_gradient(x)
        x.requires_grad_()
        expected = net.given(condition, reduction)(x)
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0])
        assert not value.requires_grad
        assert not gradient.requires_grad


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("conditions", [1, 4, 24])
@pytest.mark.parametrize("members", [1, 3])
def test_rows_worked_through_in_parts_are_those_of_one_piece(
    members: int, conditions: int, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(nn.SiLU, (6, 5), members=members)
    x, condition = points(24, 2).view(conditions, -1, 2), points(conditions, 3)
    whole = net.given(condition, reduction).value_and_gradient(x)
    for rows in (1, 7, 12):  # a condition has 24, 6 or 1
        monkeypatch.setattr(perceptron, "PART_NUMBERS", 6 * rows)
        parts = net.given(condition, reduction).value_and_gradient(x)
        torch.testing.assert_close(parts, whole)


@every_activation
def test_an_energy_without_a_condition_is_called_directly(activation: type[nn.Module]) -> None:
    net, x = network(activation, condition_dimension=0), points(4, 6, 2)
    expected = torch.stack([reference(net, k)(x)[..., 0] for k in range(2)]).mean(0)
    value, gradient = net.value_and_gradient(x)
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(value, expected.detach())
    x.requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(net(x).sum(), x)[0])
    assert not net.takes_condition


def test_the_condition_is_used() -> None:
    net, x = network(), points(4, 2)
    one, two = (net.given(points(4, 3, seed=seed))(x) for seed in (1, 2))
    assert ((one - two).abs() > 1e-6).all()


def test_given_on_a_sum_reaches_the_network() -> None:
    net, x, condition = network(), points(4, 2), points(4, 3)
    gaussian = Gaussian(0.0, 1.0, 2)
    energy = (net / 0.5 + gaussian).given(condition)
    torch.testing.assert_close(energy(x), 2 * net.given(condition)(x) + gaussian(x))


# Bad input.


@pytest.mark.parametrize(
    "options",
    [
        {"dimension": 0},
        {"dimension": 2, "hidden": ()},
        {"dimension": 2, "hidden": (8, 0)},
        {"dimension": 2, "members": 0},
        {"dimension": 2, "condition_dimension": -1},
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="every hidden size at least 1, got"):
        MLPEnergy(**options)


def test_a_conditional_energy_needs_its_condition_and_no_other_takes_one() -> None:
    with pytest.raises(TypeError, match=r"call energy.given\(condition\) first"):
        network()(points(4, 2))
    with pytest.raises(TypeError, match="takes no condition"):
        network(condition_dimension=0).given(points(4, 3))
    with pytest.raises(ValueError, match=r"condition of shape \(\*batch, 3\), got \(4, 2\)"):
        network().given(points(4, 2))
    with pytest.raises(ValueError, match="expected reduction 'mean' or 'max', got 'min'"):
        network().given(points(4, 3), "min")


@pytest.mark.parametrize("shape", [(8, 4, 2), (2, 2), (2,)], ids=str)
@every_activation
def test_conditions_that_do_not_lead_x_are_refused(
    activation: type[nn.Module], shape: tuple[int, ...]
) -> None:
    # (8, 4, 2) holds a whole number of x for each condition: pairing by count would be wrong.
    bound = network(activation).given(points(4, 3))
    for call in (bound, bound.value_and_gradient):
        with pytest.raises(ValueError, match="the condition's batch axes to be the leading ones"):
            call(points(*shape))


@every_activation
def test_x_of_another_dimension_is_refused(activation: type[nn.Module]) -> None:
    net = network(activation, condition_dimension=0)
    for call in (net, net.value_and_gradient):
        with pytest.raises(ValueError, match=r"expected x of shape \(\*batch, 2\), got \(4, 4\)"):
            call(points(4, 4))


def test_a_standardised_network_is_the_plain_one_of_the_standardised_x() -> None:
    torch.manual_seed(0)
    network = MLPEnergy(3, (8, 8), condition_dimension=2).double()
    x = 5 + torch.tensor([1.0, 100.0, 0.0]) * torch.randn(20, 3, generator=generator())
    x, condition = x.double(), torch.randn(20, 2, generator=generator(1)).double()
    scaled = (x - x.mean(0)) / torch.tensor([*x.std(0)[:2].tolist(), 1.0])
    expected = network.given(condition)(scaled).detach()
    network.standardise(x)
    bound = network.given(condition)
    torch.testing.assert_close(bound(x), expected)
    value, gradient = bound.value_and_gradient(x)
    slope = Energy.value_and_gradient(bound, x)[1]
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)


def test_the_scale_of_a_network_goes_with_its_weights() -> None:
    x = 100 * torch.randn(20, 2, generator=generator())
    plain, scaled, other = (MLPEnergy(2, (8,)) for _ in range(3))
    scaled.standardise(x)
    assert not {"mean", "deviation"} & plain.state_dict().keys()
    other.load_state_dict(scaled.state_dict())
    assert torch.equal(other(x), scaled(x))
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other(x), plain(x))
