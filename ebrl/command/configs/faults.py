"""What is wrong with a config that was refused, by its keys.

If jsonargparse refuses the whole config, its parts are checked one by one, so that the message
names the key, what was expected there and the nearest known name.
"""

from __future__ import annotations

import importlib
import inspect
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from ebrl.command.arguments import WORDS
from ebrl.command.configs.schema import FLAGS, PART, Schema, as_part, locate
from ebrl.command.errors import UsageError, did_you_mean

# How to describe what a part must be, in place of "one of these".
KINDS = {"agent": "one that learns from a replay"}
OF_ANOTHER_VERB = {"agent": "train", "energy": "fit", "objective": "fit"}


class Fault(NamedTuple):
    """What is wrong with a config, and the dotted key that has it; '' for the whole config."""

    key: str
    said: str


def unknown_key(schema: Schema, tree: dict[str, Any]) -> str | None:
    """Return a message for an unknown key at the top level, None if there is none."""
    for key in tree.keys() - schema.keys - {"$schema"}:
        if key in OF_ANOTHER_VERB:
            return f"this is a config of `ebrl {OF_ANOTHER_VERB[key]}`."
        return f"unknown key `{key}`.{did_you_mean(key, schema.keys)}"
    return None


def unknown_option(schema: Schema, options: Sequence[str]) -> str | None:
    """Return a message for an unknown option or one without a value, None if there is none."""
    rest = iter(options)
    for option in rest:
        if not option.startswith("--"):
            return f"unexpected `{option}`: after the config come options such as --seed 1."
        key, equals, _ = option[2:].partition("=")
        if key in FLAGS:
            continue
        if key.partition(".")[0] not in schema.keys:
            return f"unknown option `--{key}`.{did_you_mean(key, schema.keys)}"
        if not equals and next(rest, None) is None:
            return f"option `--{key}` expects a value."
    return None


def faults(schema: Schema, tree: dict[str, Any], given: set[str]) -> Iterator[Fault]:
    """Yield the faults of a refused config that its tree shows, with the options `given`."""
    needed = [field.name for field in fields(schema.settings) if field.default is MISSING]
    if missing := [key for key in (*schema.required, *needed) if key not in tree]:
        yield Fault("", f"missing: {', '.join(missing)}.")
    for key, base in schema.parts.items():
        if key in tree:
            part = _switched(schema, key, tree[key], given) if key in given else tree[key]
            yield from _faults_of_part(schema, key, part, base)
    values = {key: tree[key] for key in tree if key not in schema.parts}
    yield from _faults_of_values("", schema.settings, values)


def _faults_of_part(schema: Schema, place: str, value: Any, base: type | None) -> Iterator[Fault]:
    """Yield the faults of a class and its arguments, innermost first."""
    if not isinstance(value, dict if base is None else dict | str):
        return
    part = as_part(value)
    class_path, arguments = part.get("class_path", ""), part.get("init_args") or {}
    if not isinstance(class_path, str):
        yield Fault(
            f"{place}.class_path", f"expected the dotted path of a class, got {class_path!r}."
        )
        return
    if not isinstance(arguments, dict):
        yield Fault(f"{place}.init_args", f"expected a mapping of arguments, got {arguments!r}.")
        return
    try:
        made_by = _maker(schema, place, class_path)
    except UsageError as error:
        yield Fault(place, str(error))
        return
    if made_by is None:
        return
    if base is not None and inspect.isclass(made_by) and not issubclass(made_by, base):
        yield Fault(place, f"expected a subclass of {base.__name__}, got {class_path}.")
    for key in part.keys() - {*PART}:
        hint = did_you_mean(key, ["class_path", "init_args"])
        yield Fault(f"{place}.{key}", f"a part has no such key.{hint}")
    for key, inner in arguments.items():
        if isinstance(inner, dict) and "class_path" in inner:
            yield from _faults_of_part(schema, f"{place}.{key}", inner, None)
        if key in schema.owned:
            cure = f": write `{key}` at the top level (--{key})" if key in schema.keys else ""
            said = f"this belongs to the run{cure or ', which sets it: leave it out'}."
            yield Fault(f"{place}.{key}", said)
    yield from _faults_of_values(place, made_by, arguments)


def _maker(schema: Schema, place: str, class_path: str) -> Callable[..., Any] | None:
    """Return the class or function of a part, also by a short name; None if that says nothing.

    Raises:
        UsageError: If there is none.
    """
    if "." in class_path:
        return locate(class_path)
    if not class_path or place not in schema.families:
        return None
    known = {one.__name__: one for one in _family(schema.families[place]) if _is_public(one)}
    if class_path not in known:
        raise UsageError(
            f"there is no {place} {class_path} here: expected {KINDS.get(place, 'one of these')} "
            f"({', '.join(sorted(known))}), or a dotted path.{did_you_mean(class_path, known)}"
        )
    return known[class_path]


def _family(base: type[Any]) -> Iterator[type[Any]]:
    """Yield a class and all that derive from it and were imported."""
    yield base
    below: list[type] = base.__subclasses__()
    for derived in below:
        yield from _family(derived)


def _is_public(one: type) -> bool:
    """Return whether the package of a class exports it."""
    package = importlib.import_module(one.__module__.rpartition(".")[0] or one.__module__)
    return not inspect.isabstract(one) and hasattr(package, one.__name__)


def _switched(schema: Schema, place: str, value: Any, given: set[str]) -> Any:
    """Return a part of another class without the file's arguments that this class does not take."""
    part = as_part(value) if isinstance(value, dict | str) else {}
    class_path, arguments = part.get("class_path"), part.get("init_args")
    if not isinstance(class_path, str) or not isinstance(arguments, dict):
        return value
    try:
        made_by = _maker(schema, place, class_path)
    except UsageError:
        return value
    names = _parser_of(made_by, set())[1] if made_by else [*arguments]
    kept = {k: v for k, v in arguments.items() if k in names or f"{place}.{k}" in given}
    return {**part, "init_args": kept}


def _faults_of_values(
    place: str, made_by: Callable[..., Any], values: dict[str, Any]
) -> Iterator[Fault]:
    """Yield the arguments that are unknown, missing or of another type."""
    prefix = f"{place}." if place else ""
    _, names = _parser_of(made_by, set())
    for key in values:
        if key not in names:
            said = f"{made_by.__name__} has no such argument.{did_you_mean(key, names)}"
            yield Fault(f"{prefix}{key}", said)
    parameters = _parameters(made_by).values()
    needed = {p.name for p in parameters if p.default is p.empty and p.name in names}
    for key, value in values.items():
        if key not in names:
            continue
        parser, _ = _parser_of(made_by, {*needed} - {key})
        try:
            parser.parse_object({key: value})
        except (ArgumentError, ValueError, TypeError, KeyError):
            if isinstance(value, str) and "." in value and (none := _no_class(value)):
                yield Fault(f"{prefix}{key}", none)
            yield Fault(f"{prefix}{key}", f"expected {_type(made_by, key)}, got {value!r}.")
    if missing := sorted(f"{prefix}{name}" for name in needed - values.keys()):
        yield Fault(place, f"missing: {', '.join(missing)}.")


def _parser_of(made_by: Callable[..., Any], skip: set[str]) -> tuple[ArgumentParser, list[str]]:
    """Return a parser of the arguments of a class or function but some, and their names."""
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(made_by) else parser.add_function_arguments
    return parser, add(made_by, fail_untyped=False, skip={*skip})


def _no_class(dotted: str) -> str:
    """Return a message if there is no such class, else ''."""
    try:
        locate(dotted)
    except UsageError as error:
        return str(error)
    return ""


def _parameters(made_by: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class or function; none where C code hides them."""
    try:
        return inspect.signature(made_by).parameters
    except ValueError:
        return {}


def _type(made_by: Callable[..., Any], key: str) -> str:
    """Return a description of the annotation of an argument."""
    parameters = _parameters(made_by)
    if key not in parameters:
        return "another type"
    said = inspect.formatannotation(parameters[key].annotation).strip("'").replace("typing.", "")
    return WORDS.get(said, said)


def nulls(schema: Schema, parsed: Namespace) -> Iterator[Fault]:
    """Yield values of null where the annotation has no None, which jsonargparse accepts."""
    for field in fields(schema.settings):
        if parsed[field.name] is None and "None" not in str(field.type):
            said = f"expected {WORDS.get(str(field.type), field.type)}, got null."
            yield Fault(field.name, said)
    for key in schema.parts:
        yield from _nulls_of_part(key, parsed[key])


def _nulls_of_part(place: str, value: Any) -> Iterator[Fault]:
    if isinstance(value, list):
        for i, one in enumerate(value):
            yield from _nulls_of_part(f"{place}[{i}]", one)
    if not isinstance(value, Namespace):
        return
    if "class_path" not in value:
        yield Fault(place, f"expected a class_path, got {value.as_dict()!r}.")
        return
    made_by = locate(value.class_path)
    parameters = _parameters(made_by)
    for key, one in vars(value.get("init_args", Namespace())).items():
        yield from _nulls_of_part(f"{place}.{key}", one)
        if one is None and key in parameters and _wants_a_value(parameters[key]):
            yield Fault(f"{place}.{key}", f"expected {_type(made_by, key)}, got null.")


def _wants_a_value(parameter: inspect.Parameter) -> bool:
    said = inspect.formatannotation(parameter.annotation)
    allows = ("None", "Optional", "Any", "object", "_empty")
    return parameter.default is not None and not any(word in said for word in allows)
