"""The space of a sweep: grids and ranges of a config's keys, from the command line."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader

from ebrl.command.errors import UsageError
from ebrl.storage import replacing

RANGE = re.compile(r"([^:,\[{]+):([^:,]+)(?::(\w+))?")  # low:high, low:high:kind
KINDS = ("plain", "log", "int", "logint")
NOTE = "sweep.yaml"  # in the folder of a search: what is searched


class Grid(NamedTuple):
    """A grid: all these values of a key are tried."""

    values: tuple[Any, ...]

    @property
    def first(self) -> Any:
        return self.values[0]


class Range(NamedTuple):
    """A range of numbers for a key."""

    low: float
    high: float
    kind: str  # one of `KINDS`

    @property
    def first(self) -> float:
        return int(self.low) if self.whole else self.low

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole."""
        return self.kind.endswith("int")

    @property
    def logarithmic(self) -> bool:
        """Whether the scale is."""
        return self.kind.startswith("log")

    @property
    def middle(self) -> float:
        """A number between the ends, not a whole one unless all are."""
        return self.first if self.whole else self.low + 0.618 * (self.high - self.low)


def dimensions(texts: Sequence[str]) -> dict[str, Grid | Range]:
    """Read `KEY=a,b` and `KEY=low:high[:log|:int|:logint]`.

    Raises:
        UsageError: If a text has another form, and for a key that comes twice.
    """
    found: dict[str, Grid | Range] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise UsageError(
                f"expected KEY=a,b,c or KEY=low:high, such as agent.batch_size=64,256, got {text}."
            )
        key = key.removeprefix("--")
        if key in found:
            raise UsageError(f"{key} comes twice: write its values after one =, with commas.")
        found[key] = _dimension(text, values)
    return found


def _dimension(text: str, values: str) -> Grid | Range:
    load = get_loader("yaml")
    ends = RANGE.fullmatch(values)
    first, last, kind = ends.groups("plain") if ends else ("", "", "plain")
    low, high = load(first), load(last)
    if isinstance(low, int | float) and isinstance(high, int | float):
        whole = isinstance(low, int) and isinstance(high, int)
        found = Range(low, high, kind)
        wrong = kind not in KINDS or not low < high
        if wrong or (found.logarithmic and low <= 0) or (found.whole and not whole):
            raise UsageError(
                f"{text}: expected low:high with low < high, and after it :log where low > 0, or "
                ":int or :logint where both are whole."
            )
        return found
    try:
        grid = load(values if values.startswith("[[") else f"[{values}]")
    except yaml.YAMLError as error:
        raise UsageError(
            f"{text}: expected values with commas between, such as 64,256 or [64,64],[256,256]."
        ) from error
    return Grid(tuple(grid))


def combinations(space: dict[str, Grid | Range]) -> list[dict[str, Any]]:
    """Return every combination of the grids, or nothing if there is a range."""
    grids = [one.values for one in space.values() if isinstance(one, Grid)]
    if len(grids) < len(space):
        return []
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*grids)]


class Plan(NamedTuple):
    """The plan of a sweep for each task."""

    config: Path
    space: dict[str, Grid | Range]
    seeds: int
    trials: int
    jobs: int
    prune: bool
    seed: int
    timesteps: int  # of a run
    text: str  # the config with every key, at the first of the values

    @property
    def varied(self) -> list[str]:
        """The keys with more than one value."""
        return [k for k, one in self.space.items() if isinstance(one, Range) or one.values[1:]]

    @property
    def grid(self) -> list[dict[str, Any]]:
        return combinations(self.space)


def options(values: dict[str, Any]) -> list[str]:
    """Return the values of a trial as options of `ebrl train`."""
    shown = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    return [f"--{name}={value}" for name, value in shown.items()]


def claim(folder: Path, plan: Plan) -> None:
    """Note in the folder of a search what is searched there.

    Raises:
        UsageError: If it holds a search of other values or of another config.
    """
    space = {name: _plain(one) for name, one in plan.space.items()}
    asked = {"values": space, "seeds": plan.seeds, "config": plan.text}
    note = folder / NOTE
    if not note.exists():
        with replacing(note) as file:
            file.write(yaml.safe_dump(asked, sort_keys=False).encode())
        return
    held = yaml.safe_load(note.read_text(encoding="utf-8"))
    for name, value in asked.items():
        if held.get(name) != value:
            what = f"another {name}" if name == "config" else f"other {name}, {held.get(name)}"
            raise UsageError(
                f"{folder} holds a sweep of {what}. Choose another folder: --out OTHER"
            )


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
