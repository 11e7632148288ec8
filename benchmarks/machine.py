"""What a benchmark reports about the machine that it ran on, and about the code."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch


def device_name(device: str) -> str:
    """Return the name of the processor or of the graphics card."""
    return processor() if device == "cpu" else torch.cuda.get_device_name(device)


def processor() -> str:
    """Return the processor's name where the system tells it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """Return the short name of the commit that is checked out, "unknown" outside a repository."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True
    )
    return told.stdout.strip() or "unknown"
