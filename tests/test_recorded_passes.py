"""Passes of a perceptron that are recorded: their memory, and what they give as x moves."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from test_networks import every_activation, network, points
from torch import Tensor, nn

from ebrl import passes
from ebrl.energies import Energy, FunctionEnergy
from ebrl.networks import Reduction
from ebrl.workspace import Workspace


def energies(members: int, reduction: Reduction, activation: type[nn.Module]) -> list[Energy]:
    """Return energies of x: of few rows and of many, without a condition and of any callable."""
    net = network(activation, members=members)
    return [
        net.given(points(4, 3), reduction),
        net.given(points(1, 3), reduction),
        network(activation, members=members, condition_dimension=0),
        FunctionEnergy(lambda x: x.square().sum(-1)),
    ]


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("members", [1, 3])
@every_activation
def test_a_recording_follows_x(
    activation: type[nn.Module], members: int, reduction: Reduction, rows: int
) -> None:
    start = points(4, rows, 2)
    for energy in energies(members, reduction, activation):
        with torch.no_grad():
            x, follow = energy.recording(start)
            for move in (0.0, 1.0, -0.5):
                x += move
                for found, expected in zip(
                    follow(), energy.value_and_gradient(x + 0.0), strict=True
                ):
                    torch.testing.assert_close(found, expected)
        assert torch.equal(start, points(4, rows, 2))


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_bound_energies_of_one_network_take_turns(reduction: Reduction, rows: int) -> None:
    net, x = network(), points(4, rows, 2)
    both = [net.given(points(4, 3, seed=seed), reduction) for seed in (1, 2)]
    first = [bound.value_and_gradient(x) for bound in both]
    for bound, expected in zip([*both, *both[::-1]], [*first, *first[::-1]], strict=True):
        for found, one in zip(bound.value_and_gradient(x), expected, strict=True):
            assert torch.equal(found, one)
    assert not torch.equal(first[0][0], first[1][0])


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("moved", [False, True], ids=["in place", "moved"])
def test_an_energy_bound_anew_sees_weights_that_changed(moved: bool, rows: int) -> None:
    net, x, condition = network(), points(4, rows, 2), points(4, 3)
    net.given(condition).value_and_gradient(x)
    for weight in net.parameters():
        changed = 1.5 * weight.data
        if moved:
            weight.data = changed
        else:
            weight.data.copy_(changed)
    expected = copy.deepcopy(net).given(condition).value_and_gradient(x)
    torch.testing.assert_close(net.given(condition).value_and_gradient(x), expected)


def test_no_pass_keeps_an_energy_alive() -> None:
    net = network()
    bound = net.given(points(4, 3))
    bound.value_and_gradient(points(4, 2))
    gone = [weakref.ref(bound), weakref.ref(net)]
    del bound, net
    assert [one() for one in gone] == [None, None]


def test_an_energy_without_a_condition_sees_its_weights_change() -> None:
    net, x = network(condition_dimension=0), points(4, 2)
    net.value_and_gradient(x)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.5)
    fresh = net.unconditional().value_and_gradient(x)
    for found, expected in zip(net.value_and_gradient(x), fresh, strict=True):
        assert torch.equal(found, expected)


@every_activation
def test_later_calls_leave_earlier_results_alone(activation: type[nn.Module]) -> None:
    net, condition = network(activation), points(4, 3)
    bound = net.given(condition)

    def results(x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            forward = [bound(x), bound.member_values(x), net.given(condition, "max")(x)]
        pessimist = net.given(condition, "max").value_and_gradient(x)
        return [*forward, *bound.value_and_gradient(x), *pessimist]

    first = results(points(4, 2, seed=1))
    before = [tensor.clone() for tensor in first]
    results(points(4, 2, seed=2))
    bound.regress(points(4, 2, seed=3), points(4, seed=4))
    for tensor, copied in zip(first, before, strict=True):
        assert torch.equal(tensor, copied)


def test_a_single_member_and_layer_share_no_memory_with_their_results() -> None:
    net = network(nn.ReLU, (5,), members=1, condition_dimension=0)
    x = points(4, 2)
    first = net.value_and_gradient(x)
    before = [tensor.clone() for tensor in first]
    net.value_and_gradient(-x)
    for tensor, copied in zip(first, before, strict=True):
        assert torch.equal(tensor, copied)


def test_a_graph_survives_calls_without_one() -> None:
    net, x = network(), points(4, 2)
    bound = net.given(points(4, 3))
    loss = bound(x).sum()
    bound.value_and_gradient(points(4, 2, seed=1))
    loss.backward()
    expected = copy.deepcopy(net)
    expected.zero_grad()
    expected.given(points(4, 3))(x).sum().backward()
    for one, other in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_memory_stays_bounded_over_many_batch_sizes() -> None:
    net = network(condition_dimension=0)
    for rows in range(1, 100):
        net.value_and_gradient(points(rows, 2))
    assert len(net.workspace.made) <= 16
    assert len(net.views().passes.made) <= 16


def written(passes: Workspace, width: int) -> list[Tensor]:
    """Return what the calls of the one recorded pass write that is so wide."""
    (recorded,) = passes.made.values()
    keywords = [getattr(call, "keywords", {}) for call in recorded.calls]
    return [each["out"] for each in keywords if "out" in each and each["out"].shape[-1] == width]


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_a_large_pass_goes_with_its_bound_energy(members: int, reduction: Reduction) -> None:
    net = network(members=members)
    net.workspace.limit = 40 * members * sum(net.hidden) - 1
    for rows, kept in ((40, 0), (39, 1)):
        x, condition = points(rows, 2), points(rows, 3)
        with torch.no_grad():
            net.given(condition, reduction)(x)
        net.given(condition).regress(x, points(rows))
        bound = net.given(condition, reduction)
        bound.value_and_gradient(x)
        assert len(net.workspace.made) == 1 + kept  # the views, and scratch memory
        passes = net.views().passes if kept else bound.passes
        held = [weakref.ref(tensor) for tensor in written(passes, net.hidden[0])]
        del bound, passes
        assert [one() is not None for one in held] == [bool(kept)] * len(held)


@pytest.mark.parametrize("members", [1, 2])
def test_no_large_pass_is_recorded_for_good(members: int) -> None:
    net = network(members=members, condition_dimension=0)
    net.workspace.limit = 40 * members * sum(net.hidden) - 1
    net.value_and_gradient(points(40, 2))
    assert not net.views().passes.made
    assert len(net.workspace.made) == 1  # the views
    net.value_and_gradient(points(39, 2))
    assert net.views().passes.made
    assert len(net.workspace.made) == 2


@pytest.mark.parametrize(("threads", "parts"), [(1, 4), (2, 2)])
def test_large_parts_share_their_memory(
    threads: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network()
    whole = net.given(points(1, 3)).value_and_gradient(points(40, 2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(passes, "_CACHED", 7 * 10)  # 10 rows of a part for each thread
    net.workspace.limit = 0
    bound = net.given(points(1, 3))
    torch.testing.assert_close(bound.value_and_gradient(points(40, 2)), whole)
    places = [tensor.data_ptr() for tensor in written(bound.passes, net.hidden[0])]
    assert len(places) == parts * 5  # up and down
    assert len(set(places)) == 2  # the sums, which become the gradient, and the slopes


def test_memory_of_inference_mode_serves_outside_of_it() -> None:
    net, x = network(), points(4, 2)
    with torch.inference_mode():
        within = net.given(points(4, 3)).value_and_gradient(x)
        net.given(points(4, 3))(x)
    outside = net.given(points(4, 3)).value_and_gradient(x)
    torch.testing.assert_close(outside, within)
    net.given(points(4, 3)).regress(x, points(4))
