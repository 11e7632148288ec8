"""Schemas: what fits passes, what does not is refused with its place."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from ebrl import schema
from ebrl.schema import Schema
from ebrl.storage import StorageError

ONE = np.arange(3.0)
CASES: list[tuple[Schema, list[Any], list[Any]]] = [
    (schema.integer(0, 5), [0, 4], [-1, 5, 2.0, True, "1", None]),
    (schema.real(0), [0, 1.5, np.float32(2)], [-1, float("nan"), float("inf"), True, "1"]),
    (schema.of_type(str, bool), ["a", True], [1, None]),
    (schema.array((3,), (0,)), [ONE, np.zeros(0)], [np.zeros(4), ONE.tolist(), ONE.astype(str)]),
    (schema.tensor((2,), torch.float32), [torch.ones(2)], [torch.ones(3), torch.ones(2).int(), 1]),
    (schema.numbers, [1, [True, None], {"a": (ONE, 2.0)}], ["a", {"a": ["b"]}, object()]),
    (schema.optional(schema.integer()), [None, 1], ["a"]),
    (schema.record({"a": schema.integer()}), [{"a": 1}], [{}, {"a": 1, "b": 2}, {"a": "x"}, [1]]),
    (schema.record({"a": schema.integer()}, rest=True), [{"a": 1, "b": 2}], [{"b": 2}]),
    (schema.record({"a": schema.integer()}, may_lack=["a"]), [{}, {"a": 1}], [{"a": None}]),
    (schema.each(schema.integer(), 2), [[1, 2]], [[1], (1, 2), ["a", 1], {0: 1, 1: 2}]),
    (schema.named(schema.integer()), [{}, {"a": 1}], [[1], {"a": "b"}, {1: 1}]),
    (schema.sequence([schema.integer()]), [[1]], [[], [1, 2], ["a"], (1,)]),
    (schema.like({"a": (1, 2.0)}), [{"a": (3, 4)}], [{"a": [3, 4]}, {"a": (3,)}, {"b": (3, 4)}]),
    (schema.like([ONE, "x"]), [[ONE + 1, "y"]], [[ONE[:2], "y"], [ONE.astype(int), "y"], [ONE, 1]]),
    (schema.like(torch.ones(2)), [torch.zeros(2)], [torch.zeros(1), ONE, torch.zeros(2).double()]),
    (schema.exactly(None), [None], [False, 0]),
    (schema.share, [0.9, 0], [1, -1, "a", float("nan"), True]),
]


@pytest.mark.parametrize(("checks", "fitting", "others"), CASES)
def test_what_fits_passes_and_what_does_not_is_refused(
    checks: Schema, fitting: list[Any], others: list[Any]
) -> None:
    for value in fitting:
        checks(value, "place")
    for value in others:
        with pytest.raises(StorageError, match=r"^place.*: expected"):
            checks(value, "place")


def trained(kind: type[torch.optim.Optimizer], **settings: Any) -> torch.optim.Optimizer:
    network = torch.nn.Linear(3, 2)
    optimizer = kind(network.parameters(), **settings)
    network(torch.ones(3)).sum().backward()
    optimizer.step()
    return optimizer


OPTIMIZERS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.Adam, {"fused": True}),
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.AdamW, {}),
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.RMSprop, {}),
]


def test_a_number_out_of_range_hears_of_the_range() -> None:
    with pytest.raises(StorageError, match="rate: expected a finite number >= 0, got -1"):
        schema.real(0)(-1, "rate")


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
def test_the_state_of_an_optimizer_fits_a_new_one(kind: Any, settings: dict[str, Any]) -> None:
    state = trained(kind, **settings).state_dict()
    fresh = kind(torch.nn.Linear(3, 2).parameters(), **settings)
    schema.optimizer_state(fresh)(state, "optimizer")
    schema.optimizer_state(fresh)(fresh.state_dict(), "optimizer")
    other = kind(torch.nn.Linear(4, 2).parameters(), **settings)
    if state["state"].get(0):
        with pytest.raises(StorageError, match=r"state/0/\w+: expected a tensor of shape \(2, 4\)"):
            schema.optimizer_state(other)(state, "optimizer")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["state"][0].update(exp_avg=torch.zeros(1)),
        lambda state: state["state"][0].update(exp_avg=torch.zeros(2, 3, dtype=torch.float64)),
        lambda state: state["state"][0].update(step=torch.zeros(2)),
        lambda state: state["state"][0].pop("exp_avg_sq"),
        lambda state: state["state"].update({7: state["state"][0]}),
        lambda state: state["param_groups"][0].update(fused=None),
        lambda state: state["param_groups"][0].update(lr=float("nan")),
        lambda state: state["param_groups"][0].update(betas=(0.9, 1.5)),
        lambda state: state["param_groups"][0].update(params=[0]),
        lambda state: state["param_groups"].append(state["param_groups"][0]),
        lambda state: state.update(state=[]),
    ],
)
def test_another_state_of_an_optimizer_is_refused(change: Any) -> None:
    optimizer = trained(torch.optim.Adam, fused=True)
    state = optimizer.state_dict()
    change(state)
    with pytest.raises(StorageError, match=r"^optimizer.*: expected"):
        schema.optimizer_state(optimizer)(state, "optimizer")


def test_states_of_random_streams() -> None:
    for kind in (np.random.MT19937, np.random.PCG64, np.random.Philox, np.random.SFC64):
        generator = np.random.Generator(kind(0))
        generator.normal(size=3)
        schema.numpy_stream(kind(1).state)(generator.bit_generator.state, "numpy")
    schema.python_stream(random.getstate(), "python")
    generator = torch.Generator().manual_seed(1)
    schema.torch_stream(torch.Generator())(generator.get_state(), "torch")


@pytest.mark.parametrize("position", [-5, 625, 2**30])
def test_positions_out_of_range_are_refused(position: int) -> None:
    for kind, name in ((np.random.MT19937, "pos"), (np.random.Philox, "buffer_pos")):
        state = kind(0).state
        (state["state"] if name == "pos" else state)[name] = position
        with pytest.raises(StorageError, match=name):
            schema.numpy_stream(kind(0).state)(state, "numpy")
    version, words, gauss = random.Random(0).getstate()
    with pytest.raises(StorageError, match="Python's generator"):
        schema.python_stream((version, (*words[:-1], position), gauss), "python")
    state = torch.Generator().get_state()
    state[8:16] = torch.tensor([position], dtype=torch.int64).view(torch.uint8)
    with pytest.raises(StorageError, match="not the state of a generator"):
        schema.torch_stream(torch.Generator())(state, "torch")


def test_another_kind_of_generator_is_refused() -> None:
    with pytest.raises(StorageError, match="expected"):
        schema.numpy_stream(np.random.PCG64(0).state)(np.random.MT19937(0).state, "numpy")


def test_of_many_names_only_those_that_differ_are_listed() -> None:
    weights = {f"layer.{i}": torch.zeros(1) for i in range(40)}
    other = {name.replace("layer.1", "block."): one for name, one in weights.items()}
    with pytest.raises(StorageError) as caught:
        schema.like(weights)(other, "state")
    said = str(caught.value)
    assert said.startswith("state: expected other names: missing layer.1, layer.10, layer.11")
    assert "and 7 more; unexpected block., block.0" in said
    assert len(said) < 200
