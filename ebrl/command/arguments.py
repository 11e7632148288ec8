"""The command lines of the verbs: types of jsonargparse, one-line errors, help."""

from __future__ import annotations

import math
import re
from argparse import Action, ArgumentError, RawDescriptionHelpFormatter
from itertools import zip_longest
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, get_loader
from jsonargparse.typing import restricted_number_type
from yaml import YAMLError

from ebrl.command.errors import UsageError, did_you_mean

TRUST = (
    "run the code that the run's config names. Without it a config may only name what ebrl, "
    "stable_baselines3, sb3_contrib, torch and gymnasium provide"
)

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
Count = restricted_number_type("Count", int, [(">=", 1), ("<", 2**32)])
Threads = restricted_number_type("Threads", int, [(">=", 1), ("<=", 1024)])
Environments = restricted_number_type("Environments", int, [(">=", 1), ("<=", 2**16)])
LearningRate = restricted_number_type("LearningRate", float, [(">", 0), ("<=", 1e30)])
Strength = restricted_number_type("Strength", float, [(">=", 0), ("<", math.inf)])
EightBit = restricted_number_type("EightBit", float, [(">=", 0), ("<=", 255)])
Levels = restricted_number_type("Levels", int, [(">=", 2), ("<=", 1000)])
Factor = restricted_number_type("Factor", int, [(">=", 2), ("<=", 16)])

WORDS = {  # descriptions of these types and jsonargparse's, for messages
    "PositiveInt": "a whole number > 0",
    "NonNegativeInt": "a whole number >= 0",
    "PositiveFloat": "a number > 0",
    "NonNegativeFloat": "a number >= 0",
    "ClosedUnitInterval": "a number from 0 to 1",
    "Seed": "a whole number from 0 to 2^32 - 1",
    "Count": "a whole number from 1 to 2^32 - 1",
    "Threads": "a whole number from 1 to 1024",
    "Environments": "a whole number from 1 to 65536",
    "LearningRate": "a number > 0 and at most 1e30",
    "Strength": "a finite number >= 0",
    "EightBit": "a number from 0 to 255",
    "Levels": "a whole number from 2 to 1000",
    "Factor": "a whole number from 2 to 16",
    "Port": "a whole number from 1 to 65535",
    "dict": "a mapping such as '{g: 5}'",
}


class PlainHelp(DefaultHelpFormatter):
    """Help with types in words, and without jsonargparse's list of every imported subclass."""

    def _expand_help(self, action: Action) -> str:
        text = re.sub(r", known subclasses: [^)]*", "", super()._expand_help(action))
        text = re.sub(r"type: Literal\[[^\]]*\], ", "", text)  # the choices stand before it
        return re.sub(r"type: (\w+)", lambda found: WORDS.get(found[1], found[0]), text)


class _Help(PlainHelp, RawDescriptionHelpFormatter):
    """Help with the type and the default of each option, and the description unchanged."""

    def _get_help_string(self, action: Action) -> str:
        """Leave out the defaults null and false."""
        if action.default is None or action.default is False:
            return action.help or ""
        return super()._get_help_string(action)


class Parser(ArgumentParser):
    """The command line of one verb.

    Args:
        verb: Its name.
        text: The head of its help: what it does, what it writes and where, with examples.
    """

    def __init__(self, verb: str, text: str) -> None:
        self.types: dict[str, Any] = {}  # of the options that have one
        super().__init__(
            prog=f"ebrl {verb}",
            description=text,
            formatter_class=_Help,
            exit_on_error=False,
            allow_abbrev=False,
        )

    def add_argument(self, *names: str, **keywords: Any) -> Any:
        """Add an argument as `jsonargparse` does, and remember its type."""
        self.types[names[0]] = keywords.get("type")
        return super().add_argument(*names, **keywords)

    def add_run(self) -> None:
        """Add the arguments `run` and `--trust`."""
        self.add_argument("run", metavar="RUN", help="the folder of the run")
        self.add_argument("--trust", action="store_true", help=TRUST)

    def read(self, arguments: list[str]) -> Namespace:
        """Parse the arguments; options and positional arguments may be mixed.

        Raises:
            UsageError: If an option is unknown, missing or of the wrong type.
        """
        known = {name for action in self._actions for name in action.option_strings}
        end = arguments.index("--") if "--" in arguments else len(arguments)
        for name in map(_name, arguments[:end]):
            if name.startswith("--") and " " not in name and name not in known:
                raise UsageError(f"unknown option {name}.{did_you_mean(name, known)} {self._cure}")
        try:
            options, names = self._divided(arguments[:end])
            names += arguments[end + 1 :]
            # After `--` everything is a name, even with leading dashes.
            return self.parse_args([*options, "--", *names] if names else options)
        except ArgumentError as error:
            said = self._wrong_type(arguments) or " ".join(str(error).split())
            raise UsageError(f"{said}. {self._cure}") from error

    def _wrong_type(self, arguments: list[str]) -> str:
        """Return which option has a wrong number or mapping; '' if none has."""
        for token, following in zip_longest(arguments, arguments[1:], fillvalue=""):
            name, equals, value = token.partition("=")
            kind: Any = self.types.get(name)
            words = WORDS.get(getattr(kind, "__name__", ""))
            if kind and words and not _is(kind, value if equals else following):
                return f"{name}: expected {words}, got {value if equals else following}"
        return ""

    @property
    def _cure(self) -> str:
        return f"All options: {self.prog} --help"

    def _divided(self, arguments: list[str]) -> tuple[list[str], list[str]]:
        """Return the options with their values, and the names: so are sentences with dashes."""
        flags = {n for a in self._actions if a.nargs == 0 for n in a.option_strings}
        options: list[str] = []
        names: list[str] = []
        value_follows = False
        for token in arguments:
            dashed = token.startswith("-") and token != "-" and " " not in _name(token)
            (options if dashed or value_follows else names).append(token)
            value_follows = dashed and token[:2] == "--" and "=" not in token and token not in flags
        return options, names


def _is(kind: type, text: str) -> bool:
    try:
        if kind is dict:
            return isinstance(get_loader("yaml")(text), dict)
        kind(text)
    except (ValueError, YAMLError):
        return False
    return True


def _name(argument: str) -> str:
    return argument.partition("=")[0]
