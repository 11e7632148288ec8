"""Who may import whom: the table of the layers, enforced on every file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [  # a room sees those before it, and in its own row unless the row says otherwise
    {"constants", "data_folder", "energies", "generators", "lazy", "networks", "programs"}
    | {"ranges", "rolling", "schedules", "schema", "spaces", "storage"},
    {"kernels"},
    {"sampling"},
    {"estimators", "objectives"},
    {"training"},
    {"diagnostics"},  # a face of what lies below
    {"ebrl"},  # the names at the top
    {"agents", "sequences", "vision"},  # worlds never meet
    {"command"},  # sees everything, and nothing sees it
    {"__main__"},  # the command again, for `python -m`
]
WORLDS = {"agents", "sequences", "vision"}
# The wings of the command, each of which sees those before it.
COMMAND = ["configs", "runs", "environments", "pictures", "training", "photographs", "sweeps"]
THIRD_PARTIES = {  # package: the rooms that may import it; "*" is every room but envs
    "torch": {"*"},
    "numpy": {"*", "envs"},
    "safetensors": {"storage"},
    "arviz": {"sampling"},
    "tensorboard": {"training", "agents"},
    "gymnasium": {"agents", "envs", "command"},
    "minari": {"agents", "command"},
    "stable_baselines3": {"agents", "command"},
    "onnx": {"agents"},
    "onnxruntime": {"agents"},
    "onnxscript": {"agents"},
    "PIL": {"vision"},
    "skimage": {"vision"},
    "sklearn": {"vision"},
    "tifffile": {"vision"},
    "imagecodecs": {"vision"},
    "pywt": {"vision"},
    "tokenizers": {"sequences"},
    **{name: {"command"} for name in ["jsonargparse", "matplotlib", "rich", "tqdm", "yaml"]},
    **{
        name: {"command"}
        for name in [
            "filelock",
            "gradio",
            "huggingface_hub",
            "imageio",
            "imageio_ffmpeg",
            "optuna",
            "ray",
            "rliable",
        ]
    },
}


def sources() -> dict[str, Path]:
    """Return the file of every module by its installed name."""
    files = {}
    for folder, package in (("ebrl", "ebrl"), ("agents", "ebrl.agents"), ("envs", "ebrl.envs")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            files[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return files


SOURCES = sources()


def imports(module: str) -> Iterator[str]:
    """Yield what the module imports, anywhere in its file: our modules by their full names."""
    path = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            source = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name in SOURCES else source


def room(module: str) -> str:
    return [*module.split("."), "ebrl"][1]


def allowed(one: str, other: str) -> bool:
    """Whether room `one` may import room `other`."""
    if one == other:
        return True
    if "envs" in (one, other):  # imports none of ours, and is imported by the command alone
        return one == "command"
    rank = {name: i for i, row in enumerate(LAYERS) for name in row}
    return rank[other] < rank[one] or (rank[other] == rank[one] and one not in WORLDS)


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    here = room(module)
    for name in imports(module):
        top = name.split(".")[0]
        if top == "ebrl":
            assert name in SOURCES, f"{module} imports {name}, which does not exist"
            assert allowed(here, room(name)), f"{here} may not import {name}"
        elif top not in sys.stdlib_module_names:
            rooms = THIRD_PARTIES.get(top, set())
            assert here in rooms or ("*" in rooms and here != "envs"), f"{here} imports {name}"


@pytest.mark.parametrize(
    "module",
    [name for name in SOURCES if name.startswith("ebrl.command.") and name.count(".") == 3],
)
def test_a_wing_of_the_command_sees_those_before_it(module: str) -> None:
    here = COMMAND.index(module.split(".")[2])
    others = {name.split(".")[2] for name in imports(module) if name.startswith("ebrl.command.")}
    assert {other for other in others if other in COMMAND[here + 1 :]} == set()


def test_every_room_has_its_layer() -> None:
    known = set().union(*LAYERS, {"envs"})
    assert {room(module) for module in SOURCES} <= known


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: {name for name in imports(module) if name in SOURCES} for module in SOURCES}
    TopologicalSorter({module: found - {module} for module, found in graph.items()}).prepare()


def test_the_table_forbids() -> None:
    # The rules themselves: a table that allows everything would pass all of the above.
    for one, other in [
        ("energies", "kernels"),
        ("kernels", "sampling"),
        ("sampling", "estimators"),
        ("agents", "vision"),
        ("agents", "command"),
        ("agents", "envs"),
        ("envs", "energies"),
        ("energies", "ebrl"),
    ]:
        assert not allowed(one, other), (one, other)
    for one, other in [("agents", "sampling"), ("command", "envs"), ("spaces", "energies")]:
        assert allowed(one, other), (one, other)
