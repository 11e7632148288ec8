"""Reads a config against its schema, with errors that name the key and the expected value."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from ebrl.command.configs.faults import Fault, faults, nulls, unknown_key, unknown_option
from ebrl.command.configs.files import read_tree
from ebrl.command.configs.schema import Schema, merge, pairs, with_values
from ebrl.command.configs.trust import check_known, search_working_folder
from ebrl.command.errors import UsageError


def parse_config(schema: Schema, path: Path, options: Sequence[str], trust: bool) -> Namespace:
    """Check a config file, changed by options such as `--agent.learning_rate 1e-3`.

    Args:
        schema: Schema of the verb.
        path: The file.
        options: From the command line.
        trust: Whether the config may name code of any package.

    Raises:
        UsageError: If a key is unknown or missing, a value is of the wrong type, or the config
            names code that is not known and not trusted.
    """
    options = list(with_values(schema, options))
    tree = read_tree(path)
    merged = merge(tree, pairs(options))
    given = {key.replace(".init_args.", ".") for key, _ in pairs(options)}
    if trust:
        search_working_folder()
    else:
        check_known(path, merged)
    if unknown := unknown_key(schema, tree):
        raise UsageError(f"{path}: {unknown}")
    if unknown := unknown_option(schema, options):
        raise UsageError(unknown)
    try:
        parsed = schema.parser.parse_args(["--config", str(path), *options])
    except (ArgumentError, ValueError, TypeError) as error:
        unexplained = Fault("", " ".join(str(error).split()) + ".")
        fault = next(faults(schema, merged, given), unexplained)
        raise UsageError(_placed(fault, path, given)) from error
    if null := next(nulls(schema, parsed), None):
        raise UsageError(_placed(null, path, given))
    del parsed["config"]
    if parsed.name is None:
        parsed.name = path.stem
    return parsed


def _placed(fault: Fault, path: Path, given: set[str]) -> str:
    """Return the message of a fault: of the option if one was `given` for its key, or the file."""
    key, said = fault
    if key in given:
        return f"--{key}: {said}"
    return f"{path}: {key}: {said}" if key else f"{path}: {said}"
