"""Reading a config; what jsonargparse refuses is said in a line: the key, the nearest name."""

from __future__ import annotations

import inspect
import pydoc
import re
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ebrl.command.errors import UsageError, did_you_mean

# Lines that describe the parser's search, not the mistake.
NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value type:|Given value: (Namespace|\{)"
    r"|Given value: NestedArg|Expected a NoneType|Expected a path but|Parser key|"
    r"Problem with given class_path"
)


VERB_OF = {"agent": "train", "energy": "fit", "objective": "fit"}  # by the keys of its config


def explain(message: str, top_level: set[str]) -> str:
    """Shorten jsonargparse's `message`; `top_level` are the keys of a config.

    >>> explain("Option 'total_timestep' is not accepted", {"total_timesteps", "agent"})
    'unknown key `total_timestep`. Did you mean `total_timesteps`?'
    """
    class_paths = re.findall(r"Problem with given class_path '([^']+)'", message)
    class_path = class_paths[-1] if class_paths else None  # the innermost
    keys = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    if unknown := _first(r"Option '([^']+)' is not accepted", message):
        verb = VERB_OF.get(unknown.partition(".")[0])
        if verb and unknown.partition(".")[0] not in top_level and class_path is None:
            return f"this is a config of `ebrl {verb}`."
        return _unknown_key(keys, unknown, class_path, top_level)
    if unknown := _first(r"unrecognized arguments: (\S+)", message):
        if not unknown.startswith("-"):
            return f"unexpected `{unknown}`: after the config come options such as --seed 1."
        key = unknown.lstrip("-").partition("=")[0]
        return f"unknown option `{unknown}`.{did_you_mean(key, top_level)}"
    if class_path and (_first(r"(has no attribute|No module named)", message)):
        return _unknown_class(keys, class_path)
    if _first(r"(Problems parsing config)", message):
        where = " ".join(message.partition(":")[2].split()).replace(
            'in "<unicode string>", ', "at "
        )
        return f"this is not YAML: {where}."
    if _first(r"(Unexpected config)", message):
        keys = " and ".join(f"`{key}`" for key in VERB_OF if key in top_level)
        return f"this is not a config: expected keys such as {keys}."
    if missing := _first(r"arguments are required: (.+)", message):
        prefix = f"{keys}." if class_path else ""
        return f"missing: {', '.join(prefix + name for name in missing.split(', '))}."
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    said = [re.sub(r"<class '(\w+)'>", r"\1", line) for line in lines if line]
    said = [re.sub(r'^Parser key "[^"]+":\s*', "", line) for line in said]
    said = [line for line in said if line and not NOISE.match(line)]
    return (f"{keys}: " if keys else "") + "; ".join(said)


def _unknown_key(owner: str, key: str, class_path: str | None, top_level: set[str]) -> str:
    if class_path is None:
        return f"unknown key `{key}`.{did_you_mean(key, top_level)}"
    known = set(inspect.signature(_locate(class_path)).parameters) - {key}
    if key in top_level:
        return f"`{owner}.{key}` belongs to the run: write `{key}` at the top level (--{key})."
    if key.partition(".")[0] == "init_arg":
        return f"unknown key `{owner}.init_arg`. Did you mean `init_args`?"
    hint = did_you_mean(key, known)
    return f"unknown key `{owner}.{key}`: {class_path} has no such argument.{hint}"


def _unknown_class(owner: str, class_path: str) -> str:
    module, _, name = class_path.rpartition(".")
    home = _locate(module)
    hint = did_you_mean(name, getattr(home, "__all__", dir(home))) if home else ""
    return f"{owner}: there is no class `{class_path}`.{hint}"


def _locate(dotted: str) -> type:
    return pydoc.locate(dotted)  # type: ignore[return-value]


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None


def parse_config(
    schema: ArgumentParser, config: str | Path, options: Sequence[str], top_level: set[str]
) -> Namespace:
    """Check the file `config`, changed by `options`, against a schema with these `top_level` keys.

    Raises UsageError for a missing file, bad YAML, an unknown key or a value of the wrong type.
    """
    try:
        Path(config).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"there is no config file {config}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the config {config} cannot be read: {error}.") from error
    try:
        parsed = schema.parse_args(["--config", str(config), *options])
    except ArgumentError as error:
        raise UsageError(f"{config}: {explain(str(error), top_level)}") from error
    del parsed["config"]
    if parsed.name is None:
        parsed.name = Path(config).stem
    return parsed
