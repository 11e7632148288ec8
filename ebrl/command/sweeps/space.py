"""The space of a sweep: grids and ranges of a config's keys, from the command line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import get_loader

from ebrl.command.errors import UsageError


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
    kind: str  # "plain", "log" or "int"

    @property
    def first(self) -> float:
        return int(self.low) if self.kind == "int" else self.low


def dimensions(texts: Sequence[str]) -> dict[str, Grid | Range]:
    """Read `KEY=a,b` and `KEY=low:high[:log|:int]`.

    Raises:
        UsageError: If a text has another form.
    """
    found: dict[str, Grid | Range] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise UsageError(
                f"expected KEY=a,b,c or KEY=low:high, such as agent.batch_size=64,256, got {text}."
            )
        found[key.removeprefix("--")] = _dimension(text, values)
    return found


def _dimension(text: str, values: str) -> Grid | Range:
    load = get_loader("yaml")
    parts = [load(part) for part in values.split(":")]
    if len(parts) in (2, 3) and all(isinstance(part, int | float) for part in parts[:2]):
        kind = parts[2] if len(parts) == 3 else "plain"
        low, high = parts[:2]
        whole = isinstance(low, int) and isinstance(high, int)
        wrong = kind not in ("plain", "log", "int") or not low < high
        if wrong or (kind == "log" and low <= 0) or (kind == "int" and not whole):
            raise UsageError(
                f"{text}: expected low:high with low < high, :log after it where low > 0, or :int."
            )
        return Range(low, high, kind)
    grid = load(values) if values.startswith("[[") else [load(one) for one in values.split(",")]
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

    @property
    def varied(self) -> list[str]:
        """The keys with more than one value."""
        return [k for k, one in self.space.items() if isinstance(one, Range) or one.values[1:]]

    @property
    def grid(self) -> list[dict[str, Any]]:
        return combinations(self.space)
