"""The photographs of a command, and the files of its results."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jsonargparse import Namespace

from ebrl.command.errors import UsageError
from ebrl.vision.files import READ_ONLY, SUFFIXES, is_image_name

# Suffixes of the names of what is written, as PNG except for the page.
PICTURE, DEVIATION, PAGE = "-before-after", "-deviation", "-before-after.html"
RESULTS = ("-denoised", "-restored", PICTURE, DEVIATION)
ENDINGS = ", ".join(sorted(SUFFIXES))


class Job(NamedTuple):
    """A photograph, and the files of its results."""

    source: Path
    out: Path
    beside: dict[str, Path]  # further pictures, by the suffixes of their names
    reference: Path | None  # the clean photograph, where there is one


class Refusal(NamedTuple):
    """A photograph that cannot be worked on, and why."""

    name: str
    reason: str


def find(names: list[str]) -> tuple[list[Path], list[Refusal]]:
    """Return the photographs of files, folders and patterns, each once, in order.

    Of folders and patterns these are the files that look like images and are not results.
    """
    found: dict[Path, Path] = {}  # by its resolved path
    refused = []
    for name in names:
        path, images = Path(name), []
        if os.path.isdir(name):
            try:
                images = list(_images(path.iterdir()))
                reason = f"a folder without images (files that end in {ENDINGS})"
            except OSError as error:
                reason = f"a folder that cannot be read ({error.strerror})"
        elif os.path.exists(name) or not glob.has_magic(name):
            images = [path] if os.path.exists(name) else []
            reason = "there is no such file"
        else:
            images = list(_images(map(Path, glob.glob(name, recursive=True))))
            reason = f"no image matches (files that end in {ENDINGS})"
        paths = [each for each in images if each == path or not each.stem.endswith(RESULTS)]
        if images and not paths:
            reason = f"only results of ebrl, such as {images[0].name}: name the files themselves"
        if not paths:
            refused.append(Refusal(name, reason))
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values()), refused


def plan(
    sources: list[Path], given: Namespace, done: str, beside: list[str]
) -> tuple[list[Job], list[Refusal]]:
    """Return the jobs, and the photographs whose results cannot be written.

    Args:
        sources: The photographs.
        given: The options `out`, `reference` and `overwrite`.
        done: The suffix of the names of results.
        beside: The suffixes of the names of pictures.

    Raises:
        UsageError: For an unusable `out`, and a missing `reference`.
    """
    file = _out_file(given.out, len(sources))
    folder = None if given.out is None or file else Path(given.out)
    if given.reference is not None and not Path(given.reference).exists():
        raise UsageError(f"--reference: there is no file or folder {given.reference}.")
    jobs: list[Job] = []
    refused = []
    taken: dict[Path, Path] = {}
    for source in sources:
        # A format that can only be read becomes PNG.
        suffix = source.suffix if source.suffix.lower() in SUFFIXES else ".png"
        target = file or (folder or source.parent) / f"{source.stem}{done}{suffix}"
        stem = target.stem.removesuffix(done)
        pictures = {end: target.with_name(stem + _with_suffix(end)) for end in beside}
        targets = [target, *pictures.values()]
        try:
            reason = _conflict(targets, sources, taken, given.overwrite)
        except OSError as error:
            reason = f"its result {target.name} cannot be written ({error.strerror})"
        if reason:
            refused.append(Refusal(str(source), reason))
            continue
        taken.update((path.resolve(), source) for path in targets)
        jobs.append(Job(source, target, pictures, _reference(given.reference, source)))
    return jobs, refused


def _with_suffix(end: str) -> str:
    return end if Path(end).suffix else f"{end}.png"


def _images(paths: Iterator[Path]) -> Iterator[Path]:
    for path in sorted(paths):
        is_image = path.suffix.lower() in SUFFIXES | READ_ONLY
        if is_image and path.is_file():
            yield path


def _out_file(out: str | None, count: int) -> Path | None:
    """Return `--out` if it names a file; None if it is a folder, which is created."""
    if out is None:
        return None
    path = Path(out)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        if count > 1:
            raise UsageError(f"--out: expected a folder for {count} photographs, got {out}.")
        if not path.parent.is_dir():
            raise UsageError(f"--out: there is no folder {path.parent}.")
        return path
    if is_image_name(path) and not path.is_dir():
        raise UsageError(f"--out: {path.suffix} is not written, only {ENDINGS}.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out: expected a folder, or a file that ends in {ENDINGS}, got {out} "
            f"({error.strerror})."
        ) from error
    return None


def _conflict(
    targets: list[Path], sources: list[Path], taken: dict[Path, Path], overwrite: bool
) -> str:
    """Return why these files cannot be written, '' if they can."""
    folder = targets[0].parent  # of all of them
    if not os.access(folder, os.W_OK):
        return f"its result cannot be written to {folder}: choose another --out"
    for target in targets:
        if target.resolve() in taken:
            first = taken[target.resolve()]
            return f"its result {target} is that of {first} already: choose another --out"
        for source in sources:
            if target.exists() and source.exists() and os.path.samefile(target, source):
                return f"its result would overwrite the photograph {source}: choose another --out"
        if target.exists() and not overwrite:
            return f"its result {target} is there already: --overwrite, or another --out"
    return ""


def _reference(reference: str | None, source: Path) -> Path | None:
    if reference is None or Path(reference).is_file():
        return None if reference is None else Path(reference)
    exact = Path(reference) / source.name
    if exact.is_file():
        return exact
    same_stem = [path for path in _images(Path(reference).iterdir()) if path.stem == source.stem]
    return (same_stem or [exact])[0]
