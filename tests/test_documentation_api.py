"""The reference: every package has its page, and every public method says what it does.

Ruff asks the same of modules, classes and functions. It cannot ask it of methods, most of which
keep a contract that is documented where it is made: `forward` of an energy, `step` of a kernel.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import ebrl
from ebrl.kernels import Kernel, Proposal
from ebrl.vision.observations import Observation

PAGES = Path(__file__).parents[1] / "docs/api"
WITHOUT_A_PAGE = {"command", "configs", "constants", "diagnostics", "generators", "ranges"}
WITHOUT_A_PAGE |= {"data_folder", "lazy", "programs", "rolling", "schema"}
CONTRACTS = (Kernel, Proposal, Observation)  # kept by classes that need not inherit from them
KEPT = {name for contract in CONTRACTS for name in vars(contract) if inspect.getdoc(contract)}


def modules() -> Iterator[str]:
    """Yield the name of every module but the command's, which has `--help`."""
    for package in (ebrl, import_module("ebrl.agents"), import_module("ebrl.envs")):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(("ebrl.__main__", "ebrl.command", "ebrl.configs")):
                yield module.name


def undocumented(module: str) -> Iterator[str]:
    """Yield the public methods of public classes that neither say what they do nor inherit it."""
    for name, member in vars(import_module(module)).items():
        if name.startswith("_") or not inspect.isclass(member) or member.__module__ != module:
            continue
        if getattr(member, "_is_protocol", False):
            continue
        for method, function in vars(member).items():
            public = not method.startswith("_") and method not in KEPT
            callable_ = inspect.isfunction(function) or isinstance(function, property | classmethod)
            if public and callable_ and not inspect.getdoc(getattr(member, method)):
                yield f"{name}.{method}"


@pytest.mark.parametrize("module", sorted(set(modules())))
def test_every_public_method_says_what_it_does_or_keeps_a_contract(module: str) -> None:
    assert list(undocumented(module)) == []


def test_every_package_has_its_page() -> None:
    names = {module.name for module in pkgutil.iter_modules(ebrl.__path__)} | {"agents", "envs"}
    pages = {page.stem for page in PAGES.glob("*.md")}
    assert {name for name in names - WITHOUT_A_PAGE - pages if not name.startswith("_")} == set()
