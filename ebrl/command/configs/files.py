"""Config files: found by path or by name, read as plain data of bounded size."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader

from ebrl.command.errors import UsageError, did_you_mean

LARGEST = 10_000  # values of a config, aliases written out


class Shipped(NamedTuple):
    """A config that comes with the package."""

    path: Path
    about: str  # the first sentence of its first comment


def shipped(verb: str) -> dict[str, Shipped]:
    """Return the installed configs of `train` or `fit` by their names: `baselines/pendulum`."""
    package = find_spec("ebrl.configs")
    if package is None or not package.submodule_search_locations:
        return {}
    folder = Path(package.submodule_search_locations[0])
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if ("\nagent:" in text) == (verb == "train"):
            name = path.relative_to(folder).with_suffix("").as_posix()
            found[name] = Shipped(path, _first_sentence(text))
    return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))


def _first_sentence(text: str) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ") for line in lines).partition(". ")[0].rstrip(".") + "."


def find(config: str, verb: str) -> Path:
    """Return the file of a config, from its path or the name of a shipped one.

    Raises:
        UsageError: If there is no such config.
    """
    if Path(config).exists():
        return Path(config)
    known = shipped(verb)
    name = Path(config).with_suffix("").as_posix().removeprefix("configs/")
    if name in known:
        return known[name].path
    for other in {"train", "fit"} - {verb}:
        if name in shipped(other):
            raise UsageError(f"{config}: that is a config of `ebrl {other}`: ebrl {other} {name}")
    hint = did_you_mean(name, known) or f" Those that come with ebrl: ebrl {verb}"
    raise UsageError(f"there is no config file {config}, and none of that name is installed.{hint}")


def listing(verb: str) -> str:
    """Return a list of the shipped configs of a verb, for calls without a config."""
    known = shipped(verb)
    width = max(map(len, known), default=0)
    lines = [f"  {name:<{width}}  {config.about}" for name, config in known.items()]
    return "\n".join([f"configs that come with ebrl (ebrl {verb} NAME):", "", *lines])


def read_tree(path: Path) -> dict[str, Any]:
    """Read a config as plain data, without importing anything that it names.

    Raises:
        UsageError: If the file cannot be read, is no YAML, is no mapping, or is a mapping whose
            aliases grow beyond `LARGEST` values or contain themselves.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the config {path} cannot be read: {error}.") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_size(path, root)
        tree = get_loader("yaml")(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        where = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise UsageError(f"{path}: this is not YAML: {where}.") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise UsageError(f"{path}: this is not a config: expected keys such as `agent: ...`.")
    return tree


def _check_size(path: Path, root: yaml.Node | None) -> None:
    """Raise UsageError if a tree of nodes, aliases expanded, is too large or endless."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: frozenset[int]) -> int:
        if id(node) in above:
            raise UsageError(f"{path}: an alias contains itself.")
        if id(node) not in sizes:
            inside: list[yaml.Node] = []
            if isinstance(node, yaml.SequenceNode):
                inside = node.value
            elif isinstance(node, yaml.MappingNode):
                inside = [one for pair in node.value for one in pair]
            sizes[id(node)] = 1 + sum(size(one, above | {id(node)}) for one in inside)
        return sizes[id(node)]

    if root is not None and size(root, frozenset()) > LARGEST:
        raise UsageError(f"{path}: expected at most {LARGEST:,} values, aliases written out.")
