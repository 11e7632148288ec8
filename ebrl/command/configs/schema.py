"""Checks of a config against its schema, with errors that name the key and the expected value.

A part of a config is a `class_path` with its `init_args`; both may nest. If jsonargparse refuses
the whole config, its parts are checked one by one, so that the message names the key, what was
expected there and the nearest known name.
"""

from __future__ import annotations

import inspect
import pydoc
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace, get_loader

from ebrl.command.arguments import WORDS
from ebrl.command.configs.files import read_tree
from ebrl.command.configs.trust import check_known
from ebrl.command.errors import UsageError, did_you_mean

PART = ("class_path", "init_args", "dict_kwargs")
FLAGS = ("help", "print_config")  # options without a value
EXTRAS = {"sb3_contrib": "contrib"}  # package of a class: the extra that installs it
OF_ANOTHER_VERB = {"agent": "train", "energy": "fit", "objective": "fit"}


class Schema(NamedTuple):
    """The schema of the configs of one verb."""

    verb: str
    parser: ArgumentParser
    settings: type  # a dataclass: the keys of the run itself
    parts: dict[str, type | None]  # the parts, with the base class of each where there is one
    required: tuple[str, ...]  # of the parts
    owned: frozenset[str] = frozenset()  # arguments of a part that the run sets

    @property
    def keys(self) -> set[str]:
        return {field.name for field in fields(self.settings)} | self.parts.keys()


def parse_config(schema: Schema, path: Path, options: Sequence[str], trust: bool) -> Namespace:
    """Check a config file, changed by options such as `--agent.learning_rate 1e-3`.

    Args:
        schema: Of the verb.
        path: The file.
        options: From the command line.
        trust: Whether the config may name code of any package.

    Raises:
        UsageError: If a key is unknown or missing, a value is of the wrong type, or the config
            names code that is not known and not trusted.
    """
    options = list(_with_values(schema, options))
    tree = read_tree(path)
    merged = merge(tree, _pairs(options))
    if not trust:
        check_known(path, merged)
    if unknown := _unknown_key(schema, tree, options):
        raise UsageError(f"{path}: {unknown}")
    try:
        parsed = schema.parser.parse_args(["--config", str(path), *options])
    except (ArgumentError, ValueError, TypeError) as error:
        said = next(_faults(schema, merged), " ".join(str(error).split()) + ".")
        raise UsageError(f"{path}: {said}") from error
    if fault := next(_nulls(schema, parsed), None):
        raise UsageError(f"{path}: {fault}")
    del parsed["config"]
    if parsed.name is None:
        parsed.name = path.stem
    return parsed


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


def _with_values(schema: Schema, options: Sequence[str]) -> Iterator[str]:
    """Yield the options, where a switch of the run without a value means true."""
    switches = {f"--{field.name}" for field in fields(schema.settings) if field.type == "bool"}
    for option, following in zip_longest(options, options[1:], fillvalue="--"):
        yield option
        if option in switches and following.startswith("--"):
            yield "true"


def _pairs(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = iter(options)
    for option in rest:
        key, equals, value = option.removeprefix("--").partition("=")
        if key not in FLAGS:
            yield key, value if equals else next(rest, "")


def merge(tree: dict[str, Any], pairs: Iterator[tuple[str, str]]) -> dict[str, Any]:
    """Return the tree with dotted keys set, where `init_args` is implied, as in jsonargparse.

    >>> merge({"agent": {"class_path": "a.B"}}, iter([("agent.gamma", "0.9")]))
    {'agent': {'class_path': 'a.B', 'init_args': {'gamma': 0.9}}}
    """
    merged = dict(tree)
    for key, text in pairs:
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
        part = _as_part(part)
        implied = "class_path" in part and inner[0] not in PART
        _put(part, ["init_args", *inner] if implied else inner, value)
        tree[key] = part
    elif isinstance(part, dict) and "class_path" in part and isinstance(value, str):
        tree[key] = {**part, "class_path": value}
    else:
        tree[key] = value


def _as_part(value: Any) -> dict[str, Any]:
    return {"class_path": value} if isinstance(value, str) else dict(value or {})


# ---- what is wrong ---------------------------------------------------------------------------


def _unknown_key(schema: Schema, tree: dict[str, Any], options: Sequence[str]) -> str | None:
    """Return a message for an unknown key or option at the top level, None if there is none."""
    for key in tree.keys() - schema.keys - {"$schema"}:
        if key in OF_ANOTHER_VERB:
            return f"this is a config of `ebrl {OF_ANOTHER_VERB[key]}`."
        return f"unknown key `{key}`.{did_you_mean(key, schema.keys)}"
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


def _faults(schema: Schema, tree: dict[str, Any]) -> Iterator[str]:
    """Yield the faults of a refused config that its tree shows."""
    needed = [field.name for field in fields(schema.settings) if field.default is MISSING]
    if missing := [key for key in (*schema.required, *needed) if key not in tree]:
        yield f"missing: {', '.join(missing)}."
    for key, base in schema.parts.items():
        if key in tree:
            yield from _faults_of_part(schema, key, tree[key], base)
    values = {key: tree[key] for key in tree if key not in schema.parts}
    yield from _faults_of_values("", schema.settings, values)


def _faults_of_part(schema: Schema, place: str, value: Any, base: type | None) -> Iterator[str]:
    """Yield the faults of a class and its arguments, innermost first."""
    if not isinstance(value, dict if base is None else dict | str):
        return
    part = _as_part(value)
    class_path, arguments = part.get("class_path", ""), part.get("init_args") or {}
    if not isinstance(class_path, str):
        yield f"{place}.class_path: expected the dotted path of a class, got {class_path!r}."
        return
    if not isinstance(arguments, dict):
        yield f"{place}.init_args: expected a mapping of arguments, got {arguments!r}."
        return
    if "." not in class_path:
        return  # a short name, which jsonargparse resolves
    try:
        made_by = locate(class_path)
    except UsageError as error:
        yield f"{place}: {error}"
        return
    if base is not None and inspect.isclass(made_by) and not issubclass(made_by, base):
        yield f"{place}: expected a subclass of {base.__name__}, got {class_path}."
    for key in part.keys() - {*PART}:
        yield f"unknown key `{place}.{key}`.{did_you_mean(key, ['class_path', 'init_args'])}"
    for key, inner in arguments.items():
        if isinstance(inner, dict) and "class_path" in inner:
            yield from _faults_of_part(schema, f"{place}.{key}", inner, None)
        if key in schema.owned:
            yield f"`{place}.{key}` belongs to the run: write `{key}` at the top level (--{key})."
    yield from _faults_of_values(f"{place}.", made_by, arguments)


def _faults_of_values(
    prefix: str, made_by: Callable[..., Any], values: dict[str, Any]
) -> Iterator[str]:
    """Yield the arguments that are unknown, missing or of another type."""
    _, names = _parser_of(made_by, set())
    owner = f": {made_by.__name__} has no such argument" if prefix else ""
    for key in values:
        if key not in names:
            yield f"unknown key `{prefix}{key}`{owner}.{did_you_mean(key, names)}"
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
                yield f"{prefix}{key}: {none}"
            yield f"{prefix}{key}: expected {_type(made_by, key)}, got {value!r}."
    if missing := sorted(f"{prefix}{name}" for name in needed - values.keys()):
        yield f"missing: {', '.join(missing)}."


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


def _nulls(schema: Schema, parsed: Namespace) -> Iterator[str]:
    """Yield values of null where the annotation has no None, which jsonargparse accepts."""
    for field in fields(schema.settings):
        if parsed[field.name] is None and "None" not in str(field.type):
            yield f"{field.name}: expected {WORDS.get(str(field.type), field.type)}, got null."
    for key in schema.parts:
        yield from _nulls_of_part(key, parsed[key])


def _nulls_of_part(place: str, value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for i, one in enumerate(value):
            yield from _nulls_of_part(f"{place}[{i}]", one)
    if not isinstance(value, Namespace):
        return
    if "class_path" not in value:
        yield f"{place}: expected a class_path, got {value.as_dict()!r}."
        return
    made_by = locate(value.class_path)
    parameters = _parameters(made_by)
    for key, one in vars(value.get("init_args", Namespace())).items():
        yield from _nulls_of_part(f"{place}.{key}", one)
        if one is None and key in parameters and _wants_a_value(parameters[key]):
            yield f"{place}.{key}: expected {_type(made_by, key)}, got null."


def _wants_a_value(parameter: inspect.Parameter) -> bool:
    said = inspect.formatannotation(parameter.annotation)
    allows = ("None", "Optional", "Any", "object", "_empty")
    return parameter.default is not None and not any(word in said for word in allows)
