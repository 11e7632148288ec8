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
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from ebrl.storage import StorageError

Schema = Callable[[Any, str], None]

SHOWN = 12  # names of a dict that a message lists in full
FEW = 4  # of more, those that differ
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


def where(fits: Callable[[Any], bool], expected: str) -> Schema:
    """A value for which `fits` is true; `expected` says what that is."""

    def check(value: Any, place: str) -> None:
        if not fits(value):
            raise refuse(place, expected, value)

    return check


def anything(value: Any, place: str) -> None:
    """Any value that a file can hold, where its reader checks what it needs."""


def integer(low: int = -(2**63), below: int = 2**63) -> Schema:
    """A whole number in a range."""
    expected = f"a whole number from {low} to below {below}"
    return where(lambda value: type(value) is int and low <= value < below, expected)


def real(low: float = -math.inf) -> Schema:
    """A finite number that is not below `low`."""

    def fits(value: Any) -> bool:
        number = type(value) in (int, float) or isinstance(value, np.floating | np.integer)
        return number and math.isfinite(value) and value >= low

    return where(fits, "a finite number" if low == -math.inf else f"a finite number >= {low}")


def share(value: Any, place: str) -> None:
    """A number from 0 to below 1."""
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise refuse(place, "a number from 0 to below 1", value)


def of_type(*types: type) -> Schema:
    """A value of exactly one of the types."""
    return where(lambda value: type(value) in types, " or ".join(one.__name__ for one in types))


def exactly(reference: Any) -> Schema:
    """This value."""
    kind, expected = type(reference), repr(reference)[:60]
    return where(lambda value: type(value) is kind and value == reference, expected)


def array(*shapes: tuple[int, ...], kinds: str = "biuf") -> Schema:
    """A NumPy array of one of the shapes, of these kinds of numbers."""

    def fits(value: Any) -> bool:
        return isinstance(value, np.ndarray) and value.shape in shapes and value.dtype.kind in kinds

    return where(fits, f"an array of shape {' or '.join(map(str, shapes))}")


def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Schema:
    """A tensor of this shape and dtype."""

    def fits(value: Any) -> bool:
        return isinstance(value, Tensor) and value.shape == shape and value.dtype == dtype

    return where(fits, f"a tensor of shape {tuple(shape)} and {dtype}")


# ---- nested values --------------------------------------------------------------------------


def in_order(schema: Schema, keys: Sequence[str]) -> Schema:
    """What the schema says of a dictionary, with its keys in this order."""

    def check(value: Any, place: str) -> None:
        schema(value, place)
        if list(value) != list(keys):
            raise refuse(place, f"keys in the order {list(keys)}", list(value))

    return check


def optional(schema: Schema) -> Schema:
    """None, or what the schema says."""

    def check(value: Any, place: str) -> None:
        if value is not None:
            schema(value, place)

    return check


def record(fields: dict[Any, Schema], may_lack: Collection[Any] = (), rest: bool = False) -> Schema:
    """A dict of these keys, each with its schema; with `rest`, others beside them."""

    def check(value: Any, place: str) -> None:
        of_type(dict)(value, place)
        unknown = set() if rest else value.keys() - fields.keys()
        missing = fields.keys() - value.keys() - set(may_lack)
        if unknown or missing:
            raise StorageError(f"{place}: {_other_names(fields, value, missing, unknown)}")
        for key in (key for key in fields if key in value):
            fields[key](value[key], f"{place}/{key}")

    return check


def _other_names(expected: Any, got: Any, missing: set[Any], unknown: set[Any]) -> str:
    """Say how the names of a dict differ from the expected ones; of many, a few that differ."""
    if max(len(expected), len(got)) <= SHOWN:
        return f"expected {sorted(map(str, expected))}, got {sorted(map(str, got))}"
    parts = [
        f"{what} {', '.join(sorted(map(str, names))[:FEW])}"
        + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
        for what, names in (("missing", missing), ("unexpected", unknown))
        if names
    ]
    return f"expected other names: {'; '.join(parts)}"


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


def sequence(schemas: Sequence[Schema], kind: type[list] | type[tuple] = list) -> Schema:
    """A list or tuple of as many values as there are schemas, each with its own."""

    def check(value: Any, place: str) -> None:
        if type(value) is not kind or len(value) != len(schemas):
            raise refuse(place, f"a {kind.__name__} of {len(schemas)} values", value)
        for i, (schema, item) in enumerate(zip(schemas, value, strict=True)):
            schema(item, f"{place}/{i}")

    return check


def like(reference: Any) -> Schema:
    """A value built as the reference: its keys and lengths, types, shapes and dtypes."""
    match reference:
        case dict():
            return record({key: like(item) for key, item in reference.items()})
        case list() | tuple():
            return sequence([like(item) for item in reference], type(reference))
        case Tensor():
            return tensor(reference.shape, reference.dtype)
        case np.ndarray() | np.generic():
            kind, shape, dtype = type(reference), reference.shape, reference.dtype
            return where(
                lambda value: type(value) is kind and value.shape == shape and value.dtype == dtype,
                f"a {kind.__name__} of shape {shape} and {dtype}",
            )
        case float():
            return of_type(int, float)
    return of_type(type(reference))


def numbers(value: Any, place: str) -> None:
    """Numbers and arrays of any nesting; no text."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, item in value.items():
            numbers(item, f"{place}/{key}")
    elif value is not None and not isinstance(value, bool | int | float | np.ndarray | np.generic):
        raise refuse(place, "numbers", value)


# ---- optimisers and random streams -----------------------------------------------------------


def optimizer_state(optimizer: Optimizer) -> Schema:
    """The `state_dict` of this optimiser: moments of its parameters' shapes, its own switches."""
    moments: dict[int, Schema] = {}
    described = optimizer.state_dict()["param_groups"]
    for group, plain in zip(optimizer.param_groups, described, strict=True):
        for number, parameter in zip(plain["params"], group["params"], strict=True):
            moments[number] = _moments(optimizer, group, parameter)
    groups = sequence([_group(plain) for plain in described])
    return record({"state": record(moments, may_lack=moments), "param_groups": groups})


def _moments(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> Schema:
    """The state of one parameter: what a step makes of a tensor of its shape."""
    probe = torch.zeros_like(parameter, requires_grad=True)
    probe.grad = torch.zeros_like(parameter)
    twin = copy.copy(optimizer)
    twin.param_groups, twin.state = [{**group, "params": [probe]}], defaultdict(dict)
    twin.step()
    return like(dict(twin.state[probe]))


def _group(group: dict[str, Any]) -> Schema:
    """The settings of a group: numbers at least 0 or as here, and switches as they are here."""

    def setting(here: Any) -> Schema:
        if isinstance(here, Tensor):
            return like(here)
        if isinstance(here, tuple):
            return sequence([setting(one) for one in here], tuple)
        return real(min(0, here)) if type(here) in (int, float) else exactly(here)

    fields = {name: setting(value) for name, value in group.items()}
    if "betas" in group:  # of moving averages
        fields["betas"] = sequence([share] * len(group["betas"]), tuple)
    return record({**fields, "initial_lr": real(0)}, may_lack=["initial_lr"])


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
        exactly(reference["bit_generator"])(value["bit_generator"], place)
        inner = value["state"]
        for name, item in [*value.items(), *(inner.items() if isinstance(inner, dict) else ())]:
            if type(item) is int:
                integer(0, RANGES.get(name, 2**63))(item, f"{place}/{name}")

    return check


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
