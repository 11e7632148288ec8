"""Perceptrons in training: held and prepared energies, hooks, copies and threads."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mlp_problems import network, points
from problems import generator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from ebrl.energies import Energy, Gaussian
from ebrl.kernels import MALA
from ebrl.networks import BoundMLP, MLPEnergy
from ebrl.sampling import Sampler


def test_the_gradient_reaches_what_made_the_condition() -> None:
    encoder, net = nn.Linear(4, 3).double(), network()
    net.given(encoder(points(9, 4)))(points(9, 2, seed=1)).sum().backward()
    assert encoder.weight.grad.abs().max() > 0


@pytest.mark.parametrize("shape", [(4, 2), (4, 6, 2)], ids=str)
def test_a_bound_energy_that_was_sampled_can_be_trained(shape: tuple[int, ...]) -> None:
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


def assert_gradient_of(energy: Energy, x: Tensor) -> None:
    """Assert that value and gradient are those of the energy as it now is."""
    at = x.clone().requires_grad_()
    expected = energy(at)
    value, gradient = energy.value_and_gradient(x)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), at)[0])


@pytest.mark.parametrize("members", [1, 2])
def test_a_held_energy_answers_with_the_weights_of_now(members: int) -> None:
    net, x = network(members=members), points(4, 6, 2)
    held = net.given(points(4, 3))
    before = held.value_and_gradient(x)[0]
    changes: list[Callable[[nn.Module], object]] = [
        lambda layer: layer.weight.data.mul_(1.5),  # leaves no version behind
        lambda layer: setattr(layer, "weight", nn.Parameter(0.5 * layer.weight.detach())),
    ]
    for layer in (net.condition_layer, *net.layers, net.head):
        for change in changes:
            change(layer)
            assert_gradient_of(held, x)
            with torch.no_grad():
                torch.testing.assert_close(held(x), held.value_and_gradient(x)[0])
    assert not torch.equal(held.value_and_gradient(x)[0], before)


@pytest.mark.parametrize("members", [1, 2])
def test_a_prepared_energy_is_the_same_one(members: int) -> None:
    net, x, condition = network(members=members), points(4, 6, 2), points(4, 3)
    for energy in (net, 0.5 * net, net / 2 + Gaussian(0.0, 1.0, 2)):
        bound = energy.given(condition)
        prepared = bound.prepared()
        for shape in (x, x[:, :3], x):  # the memory follows the shape
            torch.testing.assert_close(
                prepared.value_and_gradient(shape), bound.value_and_gradient(shape)
            )
        torch.testing.assert_close(prepared(x), bound(x))
    with pytest.raises(ValueError, match="the condition's batch axes to be the leading ones"):
        prepared.value_and_gradient(points(5, 6, 2))


def test_each_chain_follows_the_weights_of_its_start() -> None:
    net, x, condition = network(members=1), points(4, 6, 2), points(4, 3)
    held, sampler = net.given(condition), Sampler(MALA(), steps=3, step_size=0.1)
    before = sampler.sample(held, x, generator=generator()).x
    net.head.weight.data.mul_(3.0)  # leaves no version behind
    after = sampler.sample(held, x, generator=generator()).x
    assert not torch.allclose(before, after)
    assert torch.equal(after, sampler.sample(net.given(condition), x, generator=generator()).x)


def test_a_subclass_with_another_function_is_prepared_as_itself() -> None:
    class Doubled(BoundMLP):
        def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = super().value_and_gradient(x)
            return 2 * value, 2 * gradient

    net, x = network(), points(4, 2)
    doubled = Doubled(net, points(4, 3), "mean")
    expected = 2 * net.given(points(4, 3)).value_and_gradient(x)[0]
    torch.testing.assert_close(doubled.prepared().value_and_gradient(x)[0], expected)


@pytest.mark.parametrize("parametrization", [spectral_norm, weight_norm])
def test_parametrised_weights_apply(parametrization: Callable[[nn.Module], object]) -> None:
    net, x = network(members=1, hidden=(32, 32)), points(4, 6, 2)
    plain = net.given(points(4, 3)).value_and_gradient(x)[0]
    for layer in net.layers:
        parametrization(layer)
    net.eval()
    assert_gradient_of(net.given(points(4, 3)), x)
    if parametrization is spectral_norm:
        assert torch.linalg.matrix_norm(net.layers[1].weight, 2) < 1.1
        assert not torch.allclose(net.given(points(4, 3)).value_and_gradient(x)[0], plain)


def test_hooks_on_any_part_are_called_and_apply() -> None:
    x, condition = points(4, 6, 2), points(4, 3)
    for part in ("layers.0", "layers.1", "head", "activation", "condition_layer"):
        net = network()
        module = net.get_submodule(part)
        handle = module.register_forward_hook(lambda module, inputs, output: 2 * output)
        assert_gradient_of(net.given(condition), x)
        doubled = net.given(condition).value_and_gradient(x)[0]
        handle.remove()
        assert not torch.allclose(net.given(condition).value_and_gradient(x)[0], doubled)
    alone = network(condition_dimension=0)
    alone.register_forward_hook(lambda module, inputs, output: 3 * output)
    torch.testing.assert_close(alone.value_and_gradient(x)[0], alone(x).detach())


def test_a_layer_may_be_replaced() -> None:
    net, x = network(members=1), points(4, 6, 2)
    net.layers[1] = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5)).double()
    assert_gradient_of(net.given(points(4, 3)), x)


def test_weights_that_are_not_trained_give_gradients_of_x() -> None:
    net, x = network().requires_grad_(False), points(4, 6, 2)
    assert_gradient_of(net.given(points(4, 3)), x)


def test_transforms_of_torch_func_apply_without_gradients() -> None:
    bound, x = network().given(points(3)), points(5, 2)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(bound)(x), bound(x))


def test_threads_evaluate_at_once() -> None:
    net = MLPEnergy(6, (64, 64), condition_dimension=3, members=2).double()
    x, conditions = points(500, 6), points(4, 1, 3)
    expected = [net.given(condition).value_and_gradient(x) for condition in conditions]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            found = threads.map(lambda c: net.given(c).value_and_gradient(x), conditions)
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(one[0], other[0])
                assert torch.equal(one[1], other[1])


def test_copies_and_pickles_are_equal_and_apart() -> None:
    net, x, condition = network(), points(4, 2), points(4, 3)
    value, gradient = net.given(condition).value_and_gradient(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        for one, other in zip(
            (value, gradient), twin.given(condition).value_and_gradient(x), strict=True
        ):
            assert torch.equal(one, other)
        with torch.no_grad():
            twin.head.bias.add_(1.0)
        assert torch.equal(net.given(condition).value_and_gradient(x)[0], value)


def test_the_state_dict_round_trips_and_holds_no_scratch() -> None:
    net = network()
    net.given(points(4, 3)).value_and_gradient(points(4, 2))
    twin = network()
    with torch.no_grad():
        twin.head.weight.zero_()
    twin.load_state_dict(net.state_dict())
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}
    assert torch.equal(
        twin.given(points(4, 3))(points(4, 2)), net.given(points(4, 3))(points(4, 2))
    )


def test_members_start_apart_with_the_law_of_linear_layers() -> None:
    torch.manual_seed(0)
    net = MLPEnergy(2, (64, 64), members=2)
    first, second = net.layers
    assert not torch.equal(first.weight[0], first.weight[1])
    for weight, fan_in in ((first.weight, 2), (second.weight, 64), (net.head.weight, 64)):
        bound = fan_in**-0.5
        assert weight.abs().max() <= bound
        # Of n uniform draws the variance has the relative standard error √(.8 / n).
        error = 4 * (0.8 / weight.numel()) ** 0.5
        assert weight.var().item() == pytest.approx(bound**2 / 3, rel=error)
