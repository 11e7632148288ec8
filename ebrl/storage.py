"""One file of tensors and facts: safetensors and JSON in an uncompressed zip.

    save("run.zip", {"weight": weight}, {"steps": 100})
    stored = load("run.zip")  # stored.tensors["weight"], stored.facts["steps"]

Nothing in a file is ever executed. A file is written beside its goal and then renamed, so that
whoever reads sees the old file or the new one, never half of one. Tensors go straight from memory
to the disk and back (the library's own writer would first make two copies of everything, which a
large replay buffer does not forgive); the bytes are those of the safetensors format, version 0.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

JSON = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | None

FORMAT = "ebrl"
VERSION = 1
FACTS, TENSORS = "facts.json", "tensors.safetensors"
CHUNK = 1 << 22  # bytes copied at a time

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class StorageError(ValueError):
    """A file is not what was asked for: foreign, damaged, or of another version."""


class Stored(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]  # on the CPU, in memory of their own
    facts: dict[str, Any]


def save(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write `tensors` and `facts` (JSON values only) to one file, atomically.

    Raises TypeError for a fact that JSON cannot hold or a dtype that safetensors cannot, OSError
    when the disk refuses; whatever was at `path` before is then still there, whole.
    """
    path = Path(path)
    head = {"format": FORMAT, "version": VERSION, "facts": dict(facts)}
    text = json.dumps(head).encode()
    table = _tensor_table(tensors)
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(FACTS), text)
        with archive.open(zipfile.ZipInfo(TENSORS), "w", force_zip64=True) as entry:
            entry.write(len(table).to_bytes(8, "little") + table)
            for tensor in tensors.values():
                data = _bytes_of(tensor.detach().cpu().contiguous())
                for start in range(0, len(data), CHUNK):
                    entry.write(data[start : start + CHUNK])


def load(path: str | Path) -> Stored:
    """Read and check a file that `save` wrote.

    Raises FileNotFoundError when there is none, StorageError when it is not a whole file of ours.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _check_entries(path, archive)
                with archive.open(FACTS) as entry:
                    facts = _check_head(path, json.loads(entry.read()))
                with archive.open(TENSORS) as entry:
                    tensors = _read_tensors(entry, archive.getinfo(TENSORS).file_size)
        except StorageError:
            raise
        except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, RecursionError) as error:
            # ValueError covers JSON and text that do not decode, RuntimeError encrypted entries
            raise StorageError(
                f"{path}: expected a file written by ebrl, got a damaged or foreign one ({error}); "
                "use an earlier copy, or write it again"
            ) from error
    return Stored(tensors, facts)


# ---- nested values --------------------------------------------------------------------------


def flatten(value: Any) -> tuple[dict[str, Tensor], JSON]:
    """Split nested dicts, lists and tuples of tensors, arrays and numbers into tensors and JSON.

    `unflatten` gives the same value back, types included (tuples, integer keys, NumPy scalars).
    Raises TypeError, with the place, for anything else: no object is turned into code or a string.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _flatten(value, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], facts: Any) -> Any:
    """The inverse of `flatten`. Raises StorageError for JSON that `flatten` cannot have made."""
    if isinstance(facts, list):
        return [unflatten(tensors, item) for item in facts]
    if not isinstance(facts, dict):
        return facts
    match list(facts.items()):
        case [("tensor", str(name))] if name in tensors:
            return tensors[name]
        case [("array", str(name))] if name in tensors:
            return tensors[name].numpy()
        case [("scalar", str(name))] if name in tensors:
            return tensors[name].numpy()[()]
        case [("tuple", list(items))]:
            return tuple(unflatten(tensors, item) for item in items)
        case [("map", list(items))]:
            return {key: unflatten(tensors, item) for key, item in items}
    raise StorageError(f"expected a nested value as `flatten` writes it, got {str(facts)[:80]}")


def _flatten(value: Any, place: str, tensors: dict[str, Tensor]) -> JSON:
    name = place or "value"
    while name in tensors:  # the keys 0 and "0", or one with a slash
        name += "'"
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        array = np.asarray(value, order="C")
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


# ---- writing --------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well, and vanishes otherwise."""
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
    """Make the rename itself survive a power cut; only POSIX can open a folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _tensor_table(tensors: Mapping[str, Tensor]) -> bytes:
    """The JSON header of the safetensors format, padded to 8 bytes."""
    table: dict[str, Any] = {}
    start = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_NAMES:
            raise TypeError(
                f"tensor {name!r}: expected a dtype of {sorted(DTYPES)}, got {tensor.dtype}"
            )
        end = start + tensor.numel() * tensor.element_size()
        table[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(table).encode()
    return text + b" " * (-len(text) % 8)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    # as_strided: a tensor of one number counts as contiguous whatever its strides say
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data


# ---- reading --------------------------------------------------------------------------------


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    names = sorted(archive.namelist())
    if names != [FACTS, TENSORS]:
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise StorageError(
            f"{path}: expected a file written by ebrl ({FACTS} and {TENSORS}), got a zip with "
            f"{shown or 'nothing'}; open it with the program that wrote it"
        )
    for entry in archive.infolist():
        # compressed entries could blow up to any size, and we write none
        if entry.compress_type != zipfile.ZIP_STORED:
            raise StorageError(f"{path}: expected uncompressed entries, {entry.filename} is not")


def _check_head(path: Path, head: Any) -> dict[str, Any]:
    if not (isinstance(head, dict) and head.get("format") == FORMAT):
        raise StorageError(f"{path}: expected format {FORMAT!r} in {FACTS}, got {str(head)[:80]}")
    if head.get("version") != VERSION:
        raise StorageError(
            f"{path}: expected format version {VERSION}, got {head.get('version')!r}; "
            "read it with the version of ebrl that wrote it"
        )
    if not isinstance(head.get("facts"), dict):
        raise StorageError(f"{path}: expected an object of facts in {FACTS}")
    return head["facts"]


def _read_tensors(entry: IO[bytes], size: int) -> dict[str, Tensor]:
    """Read the tensors in order, each into memory of its own; the end checks the zip's checksum."""
    length = int.from_bytes(entry.read(8), "little")
    if length > size - 8:
        raise ValueError(f"tensor table of {length} bytes in an entry of {size}")
    table = json.loads(entry.read(length))
    if not isinstance(table, dict):
        raise ValueError("a tensor table that is no JSON object")
    tensors: dict[str, Tensor] = {}
    position = 0
    for name, row in table.items():
        if name == "__metadata__":
            continue
        tensor, end = _allocate(name, row, position, size - 8 - length)
        data = _bytes_of(tensor)
        for start in range(0, len(data), CHUNK):
            chunk = entry.read(len(data[start : start + CHUNK]))
            data[start : start + len(chunk)] = chunk
        tensors[name], position = tensor, end
    if entry.read(1) != b"" or position != size - 8 - length:
        raise ValueError(f"tensors of {position} bytes, got {size - 8 - length}")
    return tensors


def _allocate(name: str, row: Any, position: int, available: int) -> tuple[Tensor, int]:
    """An empty tensor as its row in the table says, and where its bytes end."""
    try:
        dtype, shape, (start, end) = DTYPES[row["dtype"]], row["shape"], row["data_offsets"]
        size = math.prod(shape) * dtype.itemsize
        whole = all(type(n) is int and n >= 0 for n in shape) and [start, end] == [
            position,
            position + size,
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"tensor {name!r}: a row that cannot be read ({row})") from error
    if not whole or end > available:
        raise ValueError(f"tensor {name!r}: shape {shape} does not fit its bytes {start}..{end}")
    return torch.empty(shape, dtype=dtype, device="cpu"), end
