"""What `ebrl train` and `ebrl fit` share: help, and the search for the config."""

from __future__ import annotations

from pathlib import Path

from ebrl.command.configs.files import find, listing
from ebrl.command.configs.schema import Schema
from ebrl.command.errors import UsageError

TRUSTED = (
    "\nA config may name any class or function of any installed package, or of a file in the "
    "working\nfolder (`env: my_env:MyEnv-v0`), and {verb} runs it: read a config that comes from "
    "somebody else\nbefore you give it here.\n"
)


def print_help(text: str, schema: Schema) -> int:
    """Print the help of a verb, with all keys of its configs; return the exit code."""
    print(text + TRUSTED.format(verb=f"`ebrl {schema.verb}`"))
    print(schema.parser.format_help())
    return 0


def print_configs(verb: str) -> int:
    """Print the shipped configs of a verb; return the exit code."""
    print(f"usage: ebrl {verb} CONFIG [--KEY VALUE ...]    (more: ebrl {verb} --help)\n")
    print(listing(verb))
    return 0


def config_and_options(verb: str, arguments: list[str]) -> tuple[Path, list[str]]:
    """Return the file of the config, found by path or name, and the options after it.

    Raises:
        UsageError: If the first argument is not a config, or there is none of that name.
    """
    config, *options = arguments
    if config.startswith("-"):
        raise UsageError(f"the config comes first: ebrl {verb} CONFIG {' '.join(arguments)}")
    return find(config, verb), options
