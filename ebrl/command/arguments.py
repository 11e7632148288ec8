"""Arguments of the verbs that take no config: `ebrl VERB RUN [--option NUMBER]` and the like."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from ebrl.command.errors import UsageError, did_you_mean


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest known option. `text` ends the help."""

    def __init__(self, verb: str, text: str) -> None:
        super().__init__(
            prog=f"ebrl {verb}",
            epilog=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        hint = did_you_mean(unknown, known) if unknown.startswith("--") else ""
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
    parser = Parser(verb, text)
    parser.add_argument("run", metavar="RUN", help="the folder of the run")
    add_numbers(parser, options)
    for name, (default_text, meaning) in (texts or {}).items():
        help_text = f"{meaning} (default {default_text})"
        parser.add_argument(f"--{name}", default=default_text, help=help_text)
    return parser.parse_args(arguments)


def add_numbers(parser: Parser, options: dict[str, tuple[int, int, str]]) -> None:
    """Add whole numbers, {name: (default, minimum, help)}."""
    for name, (default, minimum, meaning) in options.items():
        parser.add_argument(
            f"--{name}",
            type=_number_from(minimum),
            default=default,
            help=f"{meaning} (default {default})",
        )


def decimal(lowest: float, highest: float) -> Callable[[str], float]:
    """A finite number within bounds, for `add_argument(type=…)`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest or math.isinf(value):
            to = "" if math.isinf(highest) else f" to {highest:g}"
            raise argparse.ArgumentTypeError(f"expected a number from {lowest:g}{to}, got {text}")
        return value

    return number


def _number_from(minimum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not minimum <= int(text) < 2**32:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {minimum} to 2^32 - 1, got {text}"
            )
        return int(text)

    return number
