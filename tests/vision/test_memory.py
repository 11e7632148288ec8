"""Memory of a process that works on images of many sizes."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from ebrl.vision import memory
from ebrl.vision.networks import SumEnergy
from ebrl.vision.tiles import Tiled

PAGE = 4096  # bytes


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return PAGE * int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library has no malloc_trim")
def test_the_holes_between_what_stays_are_given_back() -> None:
    blocks = [b"x" * (16 * PAGE - 100) for _ in range(1_000)]
    kept = blocks[::10]  # between each two lies a hole of nine blocks
    del blocks
    before = resident()
    memory.give_back()
    assert before - resident() > 0.5 * 9 * 16 * PAGE * len(kept)


def test_memory_is_given_back_once_for_each_new_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(memory, "give_back", lambda: calls.append(1))
    memory.give_back_once.cache_clear()
    prior = Tiled(SumEnergy(1, widths=(4, 4), blocks=1)).given(torch.tensor(0.1))
    for height in (8, 16, 8, 16, 8):
        prior.value_and_gradient(torch.zeros(1, height, 8))
    assert len(calls) == 2


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LIBC", None)
    memory.give_back()
