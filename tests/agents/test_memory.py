"""The memory of updates."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from ebrl.agents import SoftQ

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.zeros(2**20) for _ in range(8)]  # 8,192 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert faults() > 10_000, "an allocator that gives freed memory back"
SoftQ("MlpPolicy", "CartPole-v1", buffer_size=10, learning_starts=2, batch_size=2).learn(4)
faults()
assert faults() < 1_000, "the agent lets it keep what is freed"
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other rules")
def test_an_agent_lets_the_allocator_keep_what_is_freed() -> None:
    subprocess.run([sys.executable, "-c", FAULTS], check=True)
