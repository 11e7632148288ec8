"""Files: what goes in comes out, and what is not whole is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ebrl import storage
from ebrl.storage import StorageError, flatten, load, save, unflatten

TENSORS = {
    "float32": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "float64": torch.tensor([float("nan"), float("inf"), -0.0], dtype=torch.float64),
    "bfloat16": torch.arange(5).to(torch.bfloat16),
    "bool": torch.tensor([True, False, True]),
    "uint8": torch.arange(256, dtype=torch.uint8).reshape(16, 16),
    "int64": torch.tensor(2**62),
    "empty": torch.zeros(0, 7),
    "odd strides": torch.zeros(3, 1, dtype=torch.float64).as_strided((1, 1), (1, 0)),
    "strided": torch.arange(12.0).reshape(3, 4).T,
}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit, NaN and -0 included."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and raw(a) == raw(b)


def raw(tensor: torch.Tensor) -> bytes:
    flat = tensor.flatten().clone().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().tobytes()


def rezip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


NAMES = ["a.zip", "a.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_to_the_bit(tmp_path: Path, name: str) -> None:
    facts = {"steps": 3, "big": 2**130, "ratio": 0.1, "nested": {"list": [None, True, "é"]}}
    save(tmp_path / name, TENSORS, facts)
    stored = load(tmp_path / name)
    assert stored.facts == facts
    assert set(stored.tensors) == set(TENSORS)
    assert all(same(stored.tensors[key], tensor) for key, tensor in TENSORS.items())
    assert os.listdir(tmp_path) == [name]


def test_the_plain_file_is_one_of_safetensors_own(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", TENSORS, {"steps": 3})
    theirs = load_file(tmp_path / "a.safetensors")
    assert all(same(theirs[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ebrl"])["facts"] == {"steps": 3}


def test_a_zip_holds_the_plain_file_and_nothing_else(tmp_path: Path) -> None:
    for name in NAMES:
        save(tmp_path / name, TENSORS, {"steps": 3})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [storage.ENTRY]
        assert archive.read(storage.ENTRY) == (tmp_path / "a.safetensors").read_bytes()


def test_a_stream_is_written_and_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    save(stream, TENSORS, {"steps": 3})
    assert load(stream).facts == {"steps": 3}
    (tmp_path / "a.zip").write_bytes(stream.getvalue())
    assert same(load(tmp_path / "a.zip").tensors["bool"], TENSORS["bool"])


def test_two_names_may_share_one_memory(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    save(tmp_path / "a.zip", {"a": weight, "b": weight.T}, {})
    stored = load(tmp_path / "a.zip").tensors
    assert same(stored["a"], weight)
    assert same(stored["b"], weight.T)


def test_nested_values_come_back_with_their_types() -> None:
    value = {
        "state": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "betas": (0.9, 0.999),
        "array": np.arange(6, dtype=np.int32).reshape(2, 3).T,
        "scalar": np.float32(0.1),
        "list": [1, None, "a", True, 2**100],
        "tensor": {"tensor": 1},  # a key that looks like our own marks
    }
    tensors, facts = flatten(value)
    back = unflatten(tensors, json.loads(json.dumps(facts)))
    assert back["state"][0]["step"].item() == 3.0
    assert back["state"][1] == {}
    assert back["betas"] == (0.9, 0.999)
    assert type(back["betas"]) is tuple
    np.testing.assert_array_equal(back["array"], value["array"])
    assert back["array"].dtype == np.int32
    assert type(back["scalar"]) is np.float32
    assert back["list"] == value["list"]
    assert back["tensor"] == {"tensor": 1}


def test_places_that_read_alike_stay_apart() -> None:
    value = {
        0: torch.zeros(1),
        "0": torch.ones(1),
        "a/b": torch.zeros(2),
        "a": {"b": torch.ones(2)},
    }
    tensors, facts = flatten(value)
    back = unflatten(tensors, json.loads(json.dumps(facts)))
    assert [back[0], back["0"]] == [torch.zeros(1), torch.ones(1)]
    assert torch.equal(back["a/b"], torch.zeros(2))
    assert torch.equal(back["a"]["b"], torch.ones(2))


def test_objects_are_refused_with_their_place() -> None:
    with pytest.raises(TypeError, match=r"/a/1: expected numbers.*got type"):
        flatten({"a": [1, int]})


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"f": len}, "not JSON serializable"), ({"f": torch.ones(1)}, "not JSON serializable")],
)
def test_facts_that_are_no_json_write_nothing(tmp_path: Path, facts: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        save(tmp_path / "a.zip", {}, facts)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.zip", "a.safetensors"])
def test_the_name_of_the_facts_is_no_name_of_a_tensor(tmp_path: Path, name: str) -> None:
    tensors = {"__metadata__": torch.ones(1), "b": torch.ones(1)}
    with pytest.raises(ValueError, match=r"other names than '__metadata__'.*: rename it"):
        save(tmp_path / name, tensors, {})
    assert os.listdir(tmp_path) == []
    value = {"__metadata__": torch.ones(1)}
    save(tmp_path / name, *flatten(value))
    stored = load(tmp_path / name)
    assert torch.equal(unflatten(*stored)["__metadata__"], torch.ones(1))


def test_a_dtype_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"tensor 'z': Unknown dtype \"complex128\""):
        save(tmp_path / "a.zip", {"z": torch.zeros(2, dtype=torch.complex128)}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save(path, {"x": torch.arange(10.0)}, {"steps": 1})
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(StorageError, match="expected a file written by ebrl"):
            load(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_that_is_lost_is_noticed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save(path, {"x": torch.arange(10.0)}, {"steps": 1})
    whole = path.read_bytes()
    for where in range(0, len(whole), 5):
        path.write_bytes(whole[:where] + whole[where + 1 :])
        with pytest.raises(StorageError, match="expected a file written by ebrl"):
            load(path)


def test_every_flipped_bit_in_a_zip_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save(path, {"x": torch.arange(10.0)}, {"steps": 1})
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = archive.read(storage.ENTRY)
    for where in range(whole.index(entry), whole.index(entry) + len(entry)):
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
        with pytest.raises(StorageError, match="Bad CRC-32"):
            load(path)


def table(**rows: object) -> bytes:
    text = json.dumps(rows).encode()
    return len(text).to_bytes(8, "little") + text


ROW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        table(x=ROW),  # bytes missing
        table(x=ROW) + bytes(12),  # bytes left over
        table(x={**ROW, "dtype": "PICKLE"}) + bytes(8),
        table(x={**ROW, "shape": [-2]}) + bytes(8),
        table(x={**ROW, "shape": [2**40], "data_offsets": [0, 2**42]}) + bytes(8),
        table(x={**ROW, "shape": [2_000_000_000, "x"], "data_offsets": [0, 0]}),
        table(x={**ROW, "shape": [10**18, 10**18], "data_offsets": [0, 0]}),
        table(x={**ROW, "data_offsets": [8, 16]}) + bytes(16),
        table(x="?") + bytes(8),
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_hostile_tables_of_tensors_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    if name == "a.zip":
        rezip(path, {storage.ENTRY: data})
    with pytest.raises(StorageError, match="expected a file written by ebrl"):
        load(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"ebrl": '{"version": 1, "facts": {}}'}, "expected format version 2, got 1"),
        ({"ebrl": "[]"}, "expected format version 2, got None"),
        ({"format": "pt"}, r"expected metadata with 'ebrl', got \['format'\]"),
        (None, "expected metadata with 'ebrl'"),
        ({"ebrl": '{"version": 2, "facts": []}'}, "expected facts that are a JSON object"),
        ({"ebrl": '{"version": 2}'}, "expected facts that are a JSON object"),
        ({"ebrl": "{"}, "damaged"),
        ({"ebrl": "[" * 100_000}, "damaged"),
    ],
)
def test_foreign_metadata_is_refused(
    tmp_path: Path, metadata: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2)}, path, metadata)
    with pytest.raises(StorageError, match=message):
        load(path)
    rezip(tmp_path / "a.zip", {storage.ENTRY: path.read_bytes()})
    with pytest.raises(StorageError, match=message):
        load(tmp_path / "a.zip")


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", {}, {})
    data = (tmp_path / "a.safetensors").read_bytes()
    rezip(tmp_path / "a.zip", {storage.ENTRY: data}, zipfile.ZIP_DEFLATED)
    with pytest.raises(StorageError, match="a compressed entry"):
        load(tmp_path / "a.zip")


@pytest.mark.parametrize(
    "facts",
    [
        {"map": [1]},
        {"map": [[[], 1]]},
        {"map": [["a"]]},
        {"tensor": "none"},
        {"scalar": "vector"},
        {"array": "bfloat16"},
        {"unknown": 1},
        [{"tuple": 3}],
    ],
)
def test_values_that_flatten_cannot_have_written_are_refused(facts: Any) -> None:
    tensors = {"vector": torch.ones(2), "bfloat16": TENSORS["bfloat16"]}
    with pytest.raises(StorageError, match="expected a nested value"):
        unflatten(tensors, facts)


def test_values_nested_too_deep_are_refused() -> None:
    deep: list = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(StorageError, match="nested too deep"):
        unflatten({}, deep)


def test_what_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(StorageError, match=r"a\.zip: expected a file.*Is a directory"):
        load(tmp_path / "a.zip")


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.mark),))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "a.zip", tmp_path / "mark"
    bomb = pickle.dumps(Bomb(mark))
    path.write_bytes(bomb)
    with pytest.raises(StorageError):
        load(path)
    rezip(path, {"data.pkl": bomb})
    with pytest.raises(StorageError, match=r"a zip with data\.pkl"):
        load(path)
    rezip(path, {storage.ENTRY: bomb})
    with pytest.raises(StorageError):
        load(path)
    assert not mark.exists()
    pickle.loads(bomb)  # the bomb itself works
    assert mark.exists()


def test_a_missing_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.zip")


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save(path, {"x": torch.ones(4)}, {"steps": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not write .*a\.zip.*unchanged") as caught:
            save(path, {"x": torch.ones(1_000_000)}, {"steps": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert load(path).facts == {"steps": 1}
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_failing_sync_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zip"
    save(path, {}, {"steps": 1})

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match=r"No space left on device.*free space") as caught:
            save(path, {}, {"steps": 2})
    assert caught.value.errno == errno.ENOSPC
    assert load(path).facts == {"steps": 1}
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"could not write .*nowhere"):
        save(tmp_path / "nowhere" / "a.zip", {}, {})


def test_a_large_tensor_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    big = torch.zeros(64 << 20, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    save(path, {"big": big}, {})
    # a copy would add 64 MiB; ru_maxrss is in KiB on Linux
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
    assert same(load(path).tensors["big"], big)
