"""Arguments of the verbs that take a run: `ebrl VERB RUN [--option NUMBER]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from ebrl.command.errors import UsageError, did_you_mean


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest known option."""

    known: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        hint = did_you_mean(unknown, self.known) if unknown.startswith("--") else ""
        raise UsageError(f"{message}.{hint} ({self.format_usage().strip()})")


def parse(
    verb: str,
    text: str,
    options: dict[str, tuple[int, int, str]],
    arguments: list[str],
    texts: dict[str, tuple[str, str]] | None = None,
) -> argparse.Namespace:
    """`run`, whole numbers `options`, {name: (default, minimum, help)}, and `texts`, {…: (…, …)}.

    Raises UsageError for anything else; `--help` prints `text` and exits.
    """
    parser = _Parser(
        prog=f"ebrl {verb}",
        epilog=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="the folder of the run")
    for name, (default, minimum, meaning) in options.items():
        parser.add_argument(
            f"--{name}",
            type=_number_from(minimum),
            default=default,
            help=f"{meaning} (default {default})",
        )
    for name, (default_text, meaning) in (texts or {}).items():
        help_text = f"{meaning} (default {default_text})"
        parser.add_argument(f"--{name}", default=default_text, help=help_text)
    parser.known = tuple(f"--{name}" for name in [*options, *(texts or {})])
    return parser.parse_args(arguments)


def _number_from(minimum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number from {minimum}, got {text}")
        return int(text)

    return number
