"""The schema of a config, its parts as objects, and options as changes of its tree.

A part of a config is a `class_path` with its `init_args`; both may nest.
"""

from __future__ import annotations

import pydoc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace, get_loader

from ebrl.command.errors import UsageError, did_you_mean

PART = ("class_path", "init_args", "dict_kwargs")
FLAGS = ("help", "print_config")  # options without a value
EXTRAS = {"sb3_contrib": "contrib"}  # package of a class: the extra that installs it


class Schema(NamedTuple):
    """The schema of the configs of one verb."""

    verb: str
    parser: ArgumentParser
    settings: type  # a dataclass: the keys of the run itself
    parts: dict[str, type | None]  # the parts, with the base class of each where there is one
    required: tuple[str, ...]  # of the parts
    families: dict[str, type]  # of the parts that a short name may name: where it is looked for
    owned: frozenset[str] = frozenset()  # arguments of a part that the run sets

    @property
    def keys(self) -> set[str]:
        return {field.name for field in fields(self.settings)} | self.parts.keys()


def instantiate(value: Any) -> Any:
    """Build the objects that a parsed config names, innermost first.

    Raises:
        Exception: For any error of a constructor.
    """
    if isinstance(value, Namespace):
        given = vars(value.get("init_args", Namespace()))
        arguments = {key: instantiate(one) for key, one in given.items()}
        return locate(value.class_path)(**arguments, **value.get("dict_kwargs", {}))
    if isinstance(value, list):
        return [instantiate(one) for one in value]
    if isinstance(value, dict):
        return {key: instantiate(one) for key, one in value.items()}
    return value


def locate(class_path: str) -> Callable[..., Any]:
    """Return the object of a dotted path; UsageError if there is none."""
    try:
        found = pydoc.locate(class_path)
    except pydoc.ErrorDuringImport as error:
        raise UsageError(f"{class_path} cannot be imported: {error.value!r}.") from error
    if not callable(found):
        package = class_path.partition(".")[0]
        if package in EXTRAS and find_spec(package) is None:
            raise UsageError(f"{class_path} needs {package}: pip install 'ebrl[{EXTRAS[package]}]'")
        home, _, name = class_path.rpartition(".")
        module = pydoc.locate(home) if home else None
        known = getattr(module, "__all__", dir(module)) if module else []
        raise UsageError(f"there is no class `{class_path}`.{did_you_mean(name, known)}")
    return found


# ---- options as a tree -----------------------------------------------------------------------


def with_values(schema: Schema, options: Sequence[str]) -> Iterator[str]:
    """Yield the options, where a switch of the run without a value means true."""
    switches = {f"--{field.name}" for field in fields(schema.settings) if field.type == "bool"}
    for option, following in zip_longest(options, options[1:], fillvalue="--"):
        yield option
        if option in switches and following.startswith("--"):
            yield "true"


def pairs(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the key and the text of each option that has a value."""
    rest = iter(options)
    for option in rest:
        key, equals, value = option.removeprefix("--").partition("=")
        if key not in FLAGS:
            yield key, value if equals else next(rest, "")


def merge(tree: dict[str, Any], changes: Iterator[tuple[str, str]]) -> dict[str, Any]:
    """Return the tree with dotted keys set, where `init_args` is implied, as in jsonargparse.

    >>> merge({"agent": {"class_path": "a.B"}}, iter([("agent.gamma", "0.9")]))
    {'agent': {'class_path': 'a.B', 'init_args': {'gamma': 0.9}}}
    """
    merged = dict(tree)
    for key, text in changes:
        _put(merged, key.split("."), _value(text))
    return merged


def _value(text: str) -> Any:
    try:
        return get_loader("yaml")(text)
    except Exception:
        return text


def _put(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    key, *inner = keys
    part = tree.get(key)
    if inner:
        part = as_part(part)
        implied = "class_path" in part and inner[0] not in PART
        _put(part, ["init_args", *inner] if implied else inner, value)
        tree[key] = part
    elif isinstance(part, dict) and "class_path" in part and isinstance(value, str):
        tree[key] = {**part, "class_path": value}
    else:
        tree[key] = value


def as_part(value: Any) -> dict[str, Any]:
    """Return a part as a mapping, where its class may be written alone."""
    return {"class_path": value} if isinstance(value, str) else dict(value or {})
