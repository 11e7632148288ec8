"""Files: what goes in comes out, and what is not whole is refused."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

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


def rewrite(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    facts = {"steps": 3, "big": 2**130, "ratio": 0.1, "nested": {"list": [None, True, "é"]}}
    save(tmp_path / "a.zip", TENSORS, facts)
    stored = load(tmp_path / "a.zip")
    assert stored.facts == facts
    assert list(stored.tensors) == list(TENSORS)
    assert all(same(stored.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert os.listdir(tmp_path) == ["a.zip"]


def test_tensors_are_plain_safetensors_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save(path, TENSORS, {})
    entries = entries_of(path)
    theirs = load_safetensors(entries[storage.TENSORS])
    assert all(same(theirs[name], tensor) for name, tensor in TENSORS.items())

    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    rewrite(path, {**entries, storage.TENSORS: save_safetensors(contiguous)})
    ours = load(path).tensors
    assert all(same(ours[name], tensor) for name, tensor in TENSORS.items())


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


def test_a_dtype_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"tensor 'z': expected a dtype of .* got torch.complex64"):
        save(tmp_path / "a.zip", {"z": torch.zeros(2, dtype=torch.complex64)}, {})
    assert os.listdir(tmp_path) == []


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save(path, {"x": torch.arange(10.0)}, {"steps": 1})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StorageError, match="expected a file written by ebrl"):
            load(path)


def test_every_flipped_bit_of_the_contents_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save(path, {"x": torch.arange(10.0)}, {"steps": 1})
    whole = path.read_bytes()
    data = torch.arange(10.0).numpy().tobytes()
    for where in range(whole.index(data), whole.index(data) + len(data)):
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
        with pytest.raises(StorageError, match="Bad CRC-32"):
            load(path)


def table(**rows: object) -> bytes:
    text = json.dumps(rows).encode()
    return len(text).to_bytes(8, "little") + text


ROW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "tensors",
    [
        b"",
        b"\xff" * 8,
        table(x=ROW),  # bytes missing
        table(x=ROW) + bytes(12),  # bytes left over
        table(x={**ROW, "dtype": "PICKLE"}) + bytes(8),
        table(x={**ROW, "shape": [-2]}) + bytes(8),
        table(x={**ROW, "shape": [2**40], "data_offsets": [0, 2**42]}) + bytes(8),
        table(x={**ROW, "data_offsets": [8, 16]}) + bytes(16),
        table(x="?") + bytes(8),
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_hostile_tensor_tables_are_refused(tmp_path: Path, tensors: bytes) -> None:
    path = tmp_path / "a.zip"
    save(path, {}, {})
    rewrite(path, {**entries_of(path), storage.TENSORS: tensors})
    with pytest.raises(StorageError):
        load(path)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"format": "ebrl", "version": 2, "facts": {}}, "expected format version 1, got 2"),
        ({"format": "other"}, "expected format 'ebrl'"),
        ({"format": "ebrl", "version": 1, "facts": []}, "expected an object of facts"),
        ([], "expected format 'ebrl'"),
    ],
)
def test_unknown_heads_are_refused(tmp_path: Path, head: object, message: str) -> None:
    path = tmp_path / "a.zip"
    save(path, {}, {})
    rewrite(path, {**entries_of(path), storage.FACTS: json.dumps(head).encode()})
    with pytest.raises(StorageError, match=message):
        load(path)


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save(path, {}, {})
    rewrite(path, {**entries_of(path), storage.FACTS: b"[" * 100_000})
    with pytest.raises(StorageError, match="damaged or foreign"):
        load(path)


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save(path, {}, {})
    rewrite(path, entries_of(path), zipfile.ZIP_DEFLATED)
    with pytest.raises(StorageError, match="expected uncompressed entries"):
        load(path)


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
    rewrite(path, {"data.pkl": bomb})
    with pytest.raises(StorageError, match=r"got a zip with data\.pkl"):
        load(path)
    rewrite(path, {storage.FACTS: bomb, storage.TENSORS: bomb})
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
