"""Packages that import the file behind a name when the name is first used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def attach(
    package: str, names: dict[str, str], *, extra: str = "", requires: tuple[str, ...] = ()
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__all__`, `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: The package's `__name__`.
        names: The names that each file offers, separated by spaces.
        extra: The extra that installs what the files import.
        requires: The distributions of that extra, by the names that they are imported by.
    """
    homes = {name: file for file, found in names.items() for name in found.split()}

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in requires:
                raise
            raise ModuleNotFoundError(
                f"{package}.{name} needs {missing}: pip install 'ebrl[{extra}]'", name=error.name
            ) from error

    def attributes() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return list(homes), attribute, attributes
