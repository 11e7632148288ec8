"""MLP energies against plain PyTorch with the same weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from problems import generator
from torch import Tensor, nn

from ebrl.energies import Gaussian
from ebrl.networks import MLPEnergy, passes

ANALYTIC = [nn.ReLU, nn.SiLU, nn.Tanh]
every_activation = pytest.mark.parametrize("activation", [*ANALYTIC, nn.ELU])  # ELU falls back
every_depth = pytest.mark.parametrize("hidden", [(7,), (7, 5), (6, 5, 4)], ids=str)


def network(
    activation: type[nn.Module] = nn.SiLU,
    hidden: tuple[int, ...] = (7, 5),
    members: int = 2,
    condition_dimension: int = 3,
) -> MLPEnergy:
    torch.manual_seed(0)
    return MLPEnergy(
        2, hidden, condition_dimension=condition_dimension, members=members, activation=activation
    ).double()


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def reference(net: MLPEnergy, member: int) -> nn.Sequential:
    """Return the member as ordinary layers over (condition, x): the same weights, `(…, 1)`."""
    weights = [net.first_weight, *net.weights, net.head.mT]
    biases = [net.first_bias, *net.biases, net.head_bias.unsqueeze(-1)]
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
    for _ in range(2):  # without and with the condition's share cached
        torch.testing.assert_close(bound.member_values(x), expected)
        with torch.no_grad():
            torch.testing.assert_close(bound.member_values(x), expected)
        torch.testing.assert_close(bound(x), expected.mean(0))
        torch.testing.assert_close(net.given(condition, "max")(x), expected.amax(0))
        bound.value_and_gradient(x)


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
        monkeypatch.setattr(passes, "_CACHED", 6 * rows)
        net.workspace.made.clear()
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


# Training.


@every_depth
@every_activation
@pytest.mark.parametrize("batch", [(9,), (3, 4)], ids=str)
def test_regress_is_autograd(
    activation: type[nn.Module], hidden: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    net, condition = network(activation, hidden, members=3), points(*batch, 3).requires_grad_()
    x, values = points(*batch, 2, seed=1), points(*batch, seed=2)
    twin, own_condition = copy.deepcopy(net), condition.detach().clone().requires_grad_()
    for _ in range(2):  # the second adds to the first
        loss = net.given(condition).regress(x, values)
        errors = twin.given(own_condition).member_values(x) - values
        expected = 0.5 * errors.square().flatten(1).mean(1).sum()
        expected.backward()
        torch.testing.assert_close(loss, expected.detach())
    assert not loss.requires_grad
    torch.testing.assert_close(condition.grad, own_condition.grad)
    for (name, one), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


@every_activation
def test_regress_without_a_condition(activation: type[nn.Module]) -> None:
    net, x, values = network(activation, condition_dimension=0), points(9, 2), points(9, seed=2)
    twin = copy.deepcopy(net)
    loss = net.unconditional().regress(x, values)
    expected = 0.5 * (twin.unconditional().member_values(x) - values).square().mean(1).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_gradient_reaches_what_made_the_condition() -> None:
    encoder, net = nn.Linear(4, 3).double(), network()
    observation = points(9, 4)
    net.given(encoder(observation)).regress(points(9, 2, seed=1), points(9, seed=2))
    analytic = encoder.weight.grad.clone()
    encoder.weight.grad = None
    errors = net.given(encoder(observation)).member_values(points(9, 2, seed=1))
    (0.5 * (errors - points(9, seed=2)).square().mean(1).sum()).backward()
    torch.testing.assert_close(analytic, encoder.weight.grad)


@pytest.mark.parametrize("shape", [(4, 2), (4, 6, 2)], ids=str)
def test_a_bound_energy_that_was_sampled_can_be_trained(shape: tuple[int, ...]) -> None:
    # The condition's share was cached without a graph: the loss must not use it.
    net, x = network(), points(*shape, seed=1)
    condition = points(4, 3).requires_grad_()
    gradients = []
    for sampled in (False, True):
        net.zero_grad()
        condition.grad = None
        bound = net.given(condition)
        if sampled:
            bound.value_and_gradient(x)
        for _ in range(2):  # one graph a call
            bound(x).sum().backward()
        gradients.append([condition.grad, *(one.grad.clone() for one in net.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_copies_and_pickles_are_equal_and_apart() -> None:
    net, x, condition = network(), points(4, 2), points(4, 3)
    value, gradient = net.given(condition).value_and_gradient(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.workspace is not net.workspace
        assert not twin.workspace.made
        for one, other in zip(
            (value, gradient), twin.given(condition).value_and_gradient(x), strict=True
        ):
            assert torch.equal(one, other)
        with torch.no_grad():
            twin.head.add_(1.0)
        assert torch.equal(net.given(condition).value_and_gradient(x)[0], value)


def test_the_state_dict_round_trips_and_holds_no_scratch() -> None:
    net = network()
    net.given(points(4, 3)).value_and_gradient(points(4, 2))
    twin = network()
    with torch.no_grad():
        twin.head.zero_()
    twin.load_state_dict(net.state_dict())
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}
    assert torch.equal(
        twin.given(points(4, 3))(points(4, 2)), net.given(points(4, 3))(points(4, 2))
    )


def test_members_start_apart_with_the_law_of_linear_layers() -> None:
    torch.manual_seed(0)
    net = MLPEnergy(2, (64, 64), members=2)
    assert not torch.equal(net.first_weight[0], net.first_weight[1])
    for weight, fan_in in ((net.first_weight, 2), (net.weights[0], 64), (net.head, 64)):
        bound = fan_in**-0.5
        assert weight.abs().max() <= bound
        # Of n uniform draws the variance has the relative standard error √(.8 / n).
        error = 4 * (0.8 / weight.numel()) ** 0.5
        assert weight.var().item() == pytest.approx(bound**2 / 3, rel=error)


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
    with pytest.raises(ValueError, match="one condition for each x"):
        bound.regress(points(4, 6, 2), points(4, 6))


@every_activation
def test_x_of_another_dimension_is_refused(activation: type[nn.Module]) -> None:
    net = network(activation, condition_dimension=0)
    for call in (net, net.value_and_gradient):
        with pytest.raises(ValueError, match=r"expected x of shape \(\*batch, 2\), got \(4, 4\)"):
            call(points(4, 4))
