"""What a stored value must be before anything takes it: its types, shapes, dtypes and ranges.

    record({"step": integer(0), "weights": like(network.state_dict())})(state, "state")

A schema is a function of a value and its place. It raises StorageError for a value that does not
fit, and changes nothing. Schemas are made from the objects that the value is meant for, so that a
file can be checked as a whole before any of it is used.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from ebrl.storage import StorageError

Schema = Callable[[Any, str], None]

WORD = 2**32
RANGES = {  # of the integers in the state of a NumPy bit generator, upper ends excluded
    "pos": 625,  # of the 624 words of MT19937
    "buffer_pos": 5,  # of the 4 words of Philox
    "has_gauss": 2,
    "has_uint32": 2,
    "uinteger": WORD,
    "state": 2**128,
    "inc": 2**128,
}


def refuse(place: str, expected: str, value: Any) -> StorageError:
    """Return the error for a value that is not what was expected."""
    if isinstance(value, Tensor | np.ndarray):
        shown = f"{type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    else:
        shown = repr(value)[:60]
    return StorageError(f"{place}: expected {expected}, got {shown}")


# ---- single values --------------------------------------------------------------------------


def integer(low: int = -(2**63), below: int = 2**63) -> Schema:
    """A whole number in a range."""

    def check(value: Any, place: str) -> None:
        if type(value) is not int or not low <= value < below:
            raise refuse(place, f"a whole number from {low} to below {below}", value)

    return check


def real(low: float = -math.inf) -> Schema:
    """A finite number."""

    def check(value: Any, place: str) -> None:
        is_number = type(value) in (int, float) or isinstance(value, np.floating | np.integer)
        if not is_number or not math.isfinite(value) or value < low:
            raise refuse(place, "a finite number", value)

    return check


def one_of(*types: type) -> Schema:
    """A value of exactly one of the types."""

    def check(value: Any, place: str) -> None:
        if type(value) not in types:
            raise refuse(place, " or ".join(one.__name__ for one in types), value)

    return check


def array(*shapes: tuple[int, ...], kinds: str = "biuf") -> Schema:
    """A NumPy array of one of the shapes, of these kinds of numbers."""

    def check(value: Any, place: str) -> None:
        fits = isinstance(value, np.ndarray) and value.shape in shapes and value.dtype.kind in kinds
        if not fits:
            raise refuse(place, f"an array of shape {' or '.join(map(str, shapes))}", value)

    return check


def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Schema:
    """A tensor of this shape and dtype."""

    def check(value: Any, place: str) -> None:
        fits = isinstance(value, Tensor) and value.shape == shape and value.dtype == dtype
        if not fits:
            raise refuse(place, f"a tensor of shape {tuple(shape)} and {dtype}", value)

    return check


def anything(value: Any, place: str) -> None:
    """Any value that a file can hold, where its reader checks what it needs."""


def numbers(value: Any, place: str) -> None:
    """Numbers and arrays of any nesting; no text."""
    if isinstance(value, dict):
        for key, item in value.items():
            numbers(item, f"{place}/{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            numbers(item, f"{place}/{i}")
    elif value is not None and not isinstance(value, bool | int | float | np.ndarray | np.generic):
        raise refuse(place, "numbers", value)


# ---- nested values --------------------------------------------------------------------------


def optional(schema: Schema) -> Schema:
    """None, or what the schema says."""

    def check(value: Any, place: str) -> None:
        if value is not None:
            schema(value, place)

    return check


def record(fields: dict[Any, Schema], may_lack: Collection[Any] = (), rest: bool = False) -> Schema:
    """A dict of these keys, each with its schema; with `rest`, others beside them."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise refuse(place, f"a dict of {sorted(map(str, fields))}", value)
        unknown = set() if rest else value.keys() - fields.keys()
        if unknown or fields.keys() - value.keys() - set(may_lack):
            raise StorageError(
                f"{place}: expected {sorted(map(str, fields))}, got {sorted(map(str, value))}"
            )
        for key in (key for key in fields if key in value):
            fields[key](value[key], f"{place}/{key}")

    return check


def each(schema: Schema, length: int | None = None) -> Schema:
    """A list of values of one schema."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise refuse(place, f"a list of {'' if length is None else length} values", value)
        for i, item in enumerate(value):
            schema(item, f"{place}/{i}")

    return check


def named(schema: Schema) -> Schema:
    """A dict of values of one schema by their names."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise refuse(place, "values by their names", value)
        for name, item in value.items():
            schema(item, f"{place}/{name}")

    return check


def fixed_list(schemas: dict[int, Schema]) -> Schema:
    """A list of as many values as there are schemas, each with its own."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list) or len(value) != len(schemas):
            raise refuse(place, f"a list of {len(schemas)} values", value)
        for i, item in enumerate(value):
            schemas[i](item, f"{place}/{i}")

    return check


def like(reference: Any) -> Schema:
    """A value built as the reference: its keys and lengths, types, shapes and dtypes."""

    def check(value: Any, place: str) -> None:
        match reference:
            case dict():
                record({key: like(item) for key, item in reference.items()})(value, place)
            case list() | tuple():
                if type(value) is not type(reference) or len(value) != len(reference):
                    raise refuse(place, f"{len(reference)} values", value)
                for i, (item, other) in enumerate(zip(value, reference, strict=True)):
                    like(other)(item, f"{place}/{i}")
            case Tensor():
                tensor(reference.shape, reference.dtype)(value, place)
            case np.ndarray() | np.generic():
                fits = type(value) is type(reference) and value.shape == reference.shape
                if not fits or value.dtype != reference.dtype:
                    shown = f"{type(reference).__name__} of shape {reference.shape}"
                    raise refuse(place, f"a {shown} and {reference.dtype}", value)
            case float():
                one_of(int, float)(value, place)
            case _:
                one_of(type(reference))(value, place)

    return check


# ---- optimisers and random streams -----------------------------------------------------------


def optimizer_state(optimizer: Optimizer) -> Schema:
    """The `state_dict` of this optimiser: moments of its parameters' shapes, its own switches."""
    moments: dict[int, Schema] = {}
    groups: dict[int, Schema] = {}
    for index, (group, described) in enumerate(
        zip(optimizer.param_groups, optimizer.state_dict()["param_groups"], strict=True)
    ):
        groups[index] = _group(described)
        for number, parameter in zip(described["params"], group["params"], strict=True):
            moments[number] = _moments(optimizer, group, parameter)
    fields = {"state": record(moments, may_lack=moments), "param_groups": fixed_list(groups)}
    return record(fields)


def _moments(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> Schema:
    """The state of one parameter: what a step makes of a tensor of its shape."""
    probe = torch.zeros_like(parameter, requires_grad=True)
    probe.grad = torch.zeros_like(parameter)
    twin = copy.copy(optimizer)
    twin.param_groups, twin.state = [{**group, "params": [probe]}], defaultdict(dict)
    twin.step()
    return like(dict(twin.state[probe]))


def _group(group: dict[str, Any]) -> Schema:
    """The settings of a group: numbers at least 0, and switches as they are here."""

    def setting(here: Any) -> Schema:
        if isinstance(here, Tensor):
            return like(here)
        if isinstance(here, tuple):
            return coefficients(len(here))
        if type(here) in (int, float):
            return real(0)
        return exactly(here)

    fields = {name: setting(value) for name, value in group.items()}
    return record({**fields, "initial_lr": real(0)}, may_lack=["initial_lr"])


def coefficients(length: int) -> Schema:
    """A tuple of coefficients of moving averages, from 0 to below 1."""

    def check(value: Any, place: str) -> None:
        if type(value) is not tuple or len(value) != length:
            raise refuse(place, f"a tuple of {length} numbers", value)
        for item in value:
            real(0)(item, place)
            if item >= 1:
                raise refuse(place, "coefficients below 1", value)

    return check


def exactly(reference: Any) -> Schema:
    """This value."""

    def check(value: Any, place: str) -> None:
        if type(value) is not type(reference) or value != reference:
            raise refuse(place, repr(reference)[:60], value)

    return check


def torch_stream(generator: torch.Generator) -> Schema:
    """The state of a generator on this one's device."""

    def check(value: Any, place: str) -> None:
        like(generator.get_state())(value, place)
        try:
            torch.Generator(generator.device).set_state(value)
        except RuntimeError as error:
            raise StorageError(f"{place}: not the state of a generator: {error}") from error

    return check


def numpy_stream(reference: Any) -> Schema:
    """The state of a NumPy bit generator of the reference's kind, its positions in range."""

    def check(value: Any, place: str) -> None:
        like(reference)(value, place)
        if value["bit_generator"] != reference["bit_generator"]:
            raise refuse(place, reference["bit_generator"], value["bit_generator"])
        for name, item in [*value.items(), *_inside(value["state"])]:
            if type(item) is int:
                integer(0, RANGES.get(name, 2**63))(item, f"{place}/{name}")

    return check


def _inside(state: Any) -> list[tuple[str, Any]]:
    return list(state.items()) if isinstance(state, dict) else []


def python_stream(value: Any, place: str) -> None:
    """What `random.getstate` returns."""
    match value:
        case (3, tuple(words), None | float()) if (
            len(words) == 625
            and all(type(word) is int and 0 <= word < WORD for word in words)
            and words[-1] <= 624
        ):
            return
    raise refuse(place, "the state of Python's generator", value)
