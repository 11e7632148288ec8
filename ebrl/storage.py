"""One file of tensors and facts, in the format of safetensors.

    save("weights.safetensors", {"weight": weight}, {"steps": 100})
    stored = load("weights.safetensors")  # stored.tensors["weight"], stored.facts["steps"]

The facts are JSON in the file's metadata, so that every reader of safetensors can open it. If the
name ends in `.zip`, as tools of Stable-Baselines3 expect of an agent, the same file is the only
entry of a zip, which adds a checksum.

Reading a file never runs code from it. Writing is atomic: under another name, then renamed.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, TensorSpec, safe_open
from torch import Tensor

JSON = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | None
Source = str | Path | IO[bytes]

FORMAT, VERSION = "ebrl", 2  # the key of the metadata, and of what is under it
METADATA = "__metadata__"  # the key of safetensors beside the names of the tensors
ENTRY = "ebrl.safetensors"  # inside a zip
CHUNK = 1 << 22  # bytes written at a time


class StorageError(ValueError):
    """A file is foreign, damaged, or of another version."""


class Stored(NamedTuple):
    """The contents of a file."""

    tensors: dict[str, Tensor]  # on the CPU, in the order of their names
    facts: dict[str, Any]


def save(target: Source, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts to one file, atomically.

    Args:
        target: A path, or an open binary stream, which gets a zip.
        tensors: Tensors by name, of any shape and layout, on any device.
        facts: JSON values only.

    Raises:
        TypeError: For a fact that JSON cannot hold, or a dtype that safetensors cannot.
        ValueError: For a tensor of the name `__metadata__`.
        OSError: When the disk refuses; a file that was at the path before is unchanged.
    """
    table = _table(tensors, json.dumps({"version": VERSION, "facts": dict(facts)}))
    ordered = [tensors[name] for name in list(table)[1:]]
    text = json.dumps(table).encode()
    header = text + b" " * (-len(text) % 8)
    with ExitStack() as stack:
        if not isinstance(target, str | os.PathLike):
            entry = stack.enter_context(_entry(target))
        else:
            entry = stack.enter_context(replacing(Path(target)))
            if Path(target).suffix == ".zip":
                entry = stack.enter_context(_entry(entry))
        entry.write(len(header).to_bytes(8, "little") + header)
        for tensor in ordered:
            data = _bytes_of(tensor)
            for start in range(0, len(data), CHUNK):
                entry.write(data[start : start + CHUNK])


def load(source: Source) -> Stored:
    """Read and check a file that `save` wrote.

    Args:
        source: A path, or an open binary stream of a zip.

    Raises:
        FileNotFoundError: When there is no file.
        StorageError: When there is one that cannot be read, or that `save` did not write.
    """
    shown = source if isinstance(source, str | os.PathLike) else "the stream"
    try:
        tensors, metadata = _read(source)
        facts = _checked(metadata)
    except FileNotFoundError:
        raise
    # zipfile alone raises a dozen kinds of errors for damaged files
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise StorageError(
            f"{shown}: expected a file written by ebrl, got a damaged, unreadable or foreign one "
            f"({reason}); use an earlier copy, or write it again"
        ) from error
    return Stored(dict(sorted(tensors.items())), facts)  # safetensors has no order


# ---- nested values --------------------------------------------------------------------------


def flatten(value: Any) -> tuple[dict[str, Tensor], JSON]:
    """Split nested dicts, lists and tuples of tensors, arrays and numbers into tensors and JSON.

    `unflatten` gives the same value back, types included (tuples, integer keys, NumPy scalars).
    Anything else is a `TypeError` that names its place.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _flatten(value, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], facts: Any) -> Any:
    """Return the value that `flatten` split; `StorageError` for JSON that it cannot have made."""
    try:
        return _unflatten(tensors, facts)
    except RecursionError:
        raise StorageError("expected a nested value, got one that is nested too deep") from None


def _flatten(value: Any, place: str, tensors: dict[str, Tensor]) -> JSON:
    name = place or "value"
    while name in tensors:  # the keys 0 and "0", or one with a slash
        name += "'"
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        array = np.asarray(value, value.dtype.newbyteorder("="), order="C")
        tensors[name] = torch.from_numpy(array if array.flags.writeable else array.copy())
        return {"array" if isinstance(value, np.ndarray) else "scalar": name}
    if isinstance(value, list):
        return [_flatten(item, f"{place}/{i}", tensors) for i, item in enumerate(value)]
    if type(value) is tuple:
        return {"tuple": [_flatten(item, f"{place}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
        return {"map": [[key, _flatten(v, f"{place}/{key}", tensors)] for key, v in value.items()]}
    raise TypeError(
        f"{name}: expected numbers, strings, tensors, arrays, or dicts, lists and tuples of them; "
        f"got {type(value).__name__}, which a file cannot hold"
    )


def _unflatten(tensors: Mapping[str, Tensor], facts: Any) -> Any:
    if isinstance(facts, list):
        return [_unflatten(tensors, item) for item in facts]
    if not isinstance(facts, dict):
        return facts
    match list(facts.items()):
        case [("tensor", str(name))] if name in tensors:
            return tensors[name]
        case [("array", str(name))] if _has_array(tensors, name):
            return tensors[name].numpy()
        case [("scalar", str(name))] if _has_array(tensors, name) and tensors[name].ndim == 0:
            return tensors[name].numpy()[()]
        case [("tuple", list(items))]:
            return tuple(_unflatten(tensors, item) for item in items)
        case [("map", list(items))] if all(_is_pair(item) for item in items):
            return {key: _unflatten(tensors, item) for key, item in items}
    raise StorageError(f"expected a nested value as `flatten` writes it, got {str(facts)[:80]}")


def _has_array(tensors: Mapping[str, Tensor], name: str) -> bool:
    return name in tensors and tensors[name].dtype != torch.bfloat16  # NumPy has no bfloat16


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and type(item[0]) in (str, int)


# ---- writing --------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` when the block succeeds, and is removed otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {path} ({error.strerror or error}); whatever was there before is "
            "unchanged; free space or choose another folder",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename survive a power cut, on POSIX, which can open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _entry(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Open the only entry of a new zip."""
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        archive.open(zipfile.ZipInfo(ENTRY), "w", force_zip64=True) as entry,
    ):
        yield entry


def _table(tensors: Mapping[str, Tensor], head: str) -> dict[str, Any]:
    """Return the header of a file, with the tensors in the order of the file.

    The library cannot write to streams, and its writers copy all tensors.
    """
    if METADATA in tensors:
        raise ValueError(
            f"expected tensors of other names than {METADATA!r}, under which safetensors keeps the "
            "facts of a file, got one of this name: rename it"
        )
    table: dict[str, Any] = {METADATA: {FORMAT: head}}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        size = tensor.numel() * tensor.itemsize
        try:
            spec = TensorSpec(
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tensor.shape,
                data_ptr=0,
                data_len=size,
            )
        except SafetensorError as error:
            raise TypeError(f"tensor {name!r}: {error}") from error
        table[name] = {
            "dtype": spec.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end := end + size],
        }
    return table


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a tensor, without a copy if it is contiguous on the CPU."""
    packed = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    # as_strided: a tensor of one number counts as contiguous with any strides
    return packed.as_strided((packed.numel(),), (1,)).view(torch.uint8).numpy().data


# ---- reading --------------------------------------------------------------------------------


def _read(source: Source) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors and the metadata of a file."""
    if not isinstance(source, str | os.PathLike):
        source.seek(0)
        return _parse(_read_zip(source))
    with open(source, "rb") as file:
        if file.read(2) == b"PK":
            return _parse(_read_zip(file))
    with safe_open(source, "pt") as plain:
        return plain.get_tensors(), plain.metadata()


def _read_zip(file: IO[bytes]) -> bytes:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if names != [ENTRY]:
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise StorageError(f"a zip with {shown or 'nothing'}, where {ENTRY} was expected")
        # A compressed entry could expand to any size.
        if entries[0].compress_type != zipfile.ZIP_STORED:
            raise StorageError("a compressed entry, where an uncompressed one was expected")
        return archive.read(ENTRY)


def _parse(data: bytes) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors and the metadata of a file in memory; the library checks them."""
    tensors = safetensors.torch.load(data)
    length = int.from_bytes(data[:8], "little")
    return tensors, json.loads(data[8 : 8 + length]).get(METADATA)


def _checked(metadata: Any) -> dict[str, Any]:
    """Return the facts in the metadata of a file that `save` wrote."""
    if FORMAT not in (metadata or {}):
        raise StorageError(f"expected metadata with {FORMAT!r}, got {list(metadata or {})[:6]}")
    head = json.loads(metadata[FORMAT])
    version = head.get("version") if isinstance(head, dict) else None
    if version != VERSION:
        raise StorageError(
            f"expected format version {VERSION}, got {version!r}, of another version of ebrl"
        )
    if not isinstance(head.get("facts"), dict):
        raise StorageError("expected facts that are a JSON object")
    return head["facts"]
