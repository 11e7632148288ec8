"""Which code a config may name: with `--trust` any, otherwise that of known packages.

`ebrl train` and `ebrl fit` import whatever their config names. A run folder is data, perhaps of
another person: its config may name only the classes that are listed here, and with `--trust`
any class or function, of files in the working folder as well.
"""

from __future__ import annotations

import os
import pydoc
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ebrl.command.configs.files import read_tree
from ebrl.command.errors import UsageError

OURS = re.compile(
    r"ebrl(\.(agents|diagnostics|energies|estimators|kernels|networks|objectives|sampling|schedules"
    r"|spaces|training|vision|sequences)(\.\w+)?|\.command\.spaces)?"
)
FOREIGN = {  # package: base classes whose subclasses may be built from a config
    "stable_baselines3": (
        "stable_baselines3.common.base_class.BaseAlgorithm",
        "stable_baselines3.common.policies.BaseModel",
        "stable_baselines3.common.torch_layers.BaseFeaturesExtractor",
        "stable_baselines3.common.noise.ActionNoise",
        "stable_baselines3.common.buffers.BaseBuffer",
        "stable_baselines3.common.utils.LinearSchedule",
        "stable_baselines3.common.utils.ConstantSchedule",
    ),
    "torch": ("torch.nn.Module", "torch.optim.Optimizer"),
    "gymnasium": ("gymnasium.spaces.Space",),
    "numpy": ("numpy.generic",),
}
OF_GYMNASIUM = {  # wrappers whose arguments name neither files nor code
    "AtariPreprocessing",
    "ClipAction",
    "ClipReward",
    "DtypeObservation",
    "FlattenObservation",
    "FrameStackObservation",
    "GrayscaleObservation",
    "MaxAndSkipObservation",
    "RescaleAction",
    "ReshapeObservation",
    "ResizeObservation",
    "StickyAction",
    "TimeAwareObservation",
    "TimeLimit",
}
OF_SB3 = {
    "AtariWrapper",
    "ClipRewardEnv",
    "EpisodicLifeEnv",
    "FireResetEnv",
    "MaxAndSkipEnv",
    "NoopResetEnv",
    "StickyActionEnv",
    "WarpFrame",
}
WRAPPERS = {f"gymnasium.wrappers.{name}" for name in OF_GYMNASIUM}
WRAPPERS |= {f"stable_baselines3.common.atari_wrappers.{name}" for name in OF_SB3}
FUNCTIONS = (  # of ours that make parts or read files, and write nothing
    "ebrl.schedules.",
    "ebrl.objectives.defaults.",
    "ebrl.sequences.language.tokenizer",
    "ebrl.sequences.language.trainable",
    "ebrl.training.tables.",
    "ebrl.vision.digits.",
    "ebrl.vision.fashion.",
    "ebrl.vision.shipped.pretrained",
    "ebrl.vision.shipped.trainable",
    "ebrl.command.spaces.",
)
WRITERS = {"ebrl.training.log"}  # modules of ours whose classes write when they are made
FOREIGN["sb3_contrib"] = FOREIGN["stable_baselines3"]

IMPORTS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+|[\w.]+:[^\W\d].*")  # a.b.C, or module:Name-v0
NO_CODE = {"name", "run", "offline", "prefill"}  # names, and data that are read as numbers


def search_working_folder() -> None:
    """Add the working folder to the end of Python's path, for a config that is trusted."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def check_known(path: Path, tree: dict[str, Any]) -> None:
    """Raise UsageError if a config names code that is not listed."""
    for place, text in _strings("", {k: v for k, v in tree.items() if k not in NO_CODE}):
        if IMPORTS.fullmatch(text) and not is_known(text) and not _is_file_name(text):
            raise UsageError(
                f"{path}: {place} names `{text}`, which is not code that ebrl knows. "
                "If you trust it to run on this machine, add --trust"
            )


def command(verb: str, folder: Path) -> str:
    """Return the command that calls a verb on a run, with `--trust` if its config needs that."""
    path = folder / "config.yaml"
    try:
        check_known(path, read_tree(path))
    except UsageError:
        return f"ebrl {verb} {folder} --trust"
    return f"ebrl {verb} {folder}"


def check_objects(place: str, tree: Any) -> None:
    """Raise UsageError for an object in free-form arguments that is not listed."""
    for key, text in _strings(place, tree):
        if key.endswith(".class_path") and not is_known(text):
            raise UsageError(
                f"{key}: expected a class of ebrl, stable_baselines3, sb3_contrib or torch, "
                f"got `{text}`."
            )


def is_known(text: str) -> bool:
    """Return whether the object that a string of a config would import is listed."""
    if text in WRAPPERS:
        return True
    module, colon, _ = text.partition(":")
    if colon:
        return module in ("ebrl.envs", "ale_py", "shimmy")
    home, _, _ = text.rpartition(".")
    package = home.partition(".")[0]
    if any(part.startswith("_") for part in text.split(".")):  # importing a `__main__` runs it
        return False
    if OURS.fullmatch(home) and _defined_in(text, "ebrl"):
        found: Any = pydoc.locate(text)
        if isinstance(found, type):
            return found.__module__ not in WRITERS
        return f"{found.__module__}.{found.__qualname__}".startswith(FUNCTIONS)
    if package in FOREIGN and _defined_in(text, package):
        found = pydoc.locate(text)
        bases = tuple(pydoc.locate(base) for base in FOREIGN[package])
        return isinstance(found, type) and issubclass(found, bases)  # type: ignore[arg-type]
    return False


def _is_file_name(text: str) -> bool:
    """Return whether a dotted name, such as `text.txt`, is of no package that is installed."""
    package = text.partition(".")[0]
    return ":" not in text and package != "__main__" and find_spec(package) is None


def _defined_in(text: str, package: str) -> bool:
    """Return whether the object of this path is the package's own, not an imported one."""
    try:
        found = pydoc.locate(text)
    except pydoc.ErrorDuringImport:
        return False
    return str(getattr(found, "__module__", "")).partition(".")[0] == package


def _strings(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every string of a tree with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _strings(f"{place}.{key}" if place else str(key), one)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _strings(f"{place}[{i}]", one)
