"""The device that a command computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from ebrl.command.errors import UsageError

if TYPE_CHECKING:
    import torch

HELP = "cpu, cuda, … (default: a GPU where there is one)"


def add_device(parser: ArgumentParser) -> None:
    """Add the option `--device`."""
    parser.add_argument("--device", help=HELP)


def device_of(name: str | None) -> torch.device:
    """Return the device of this name; for None a GPU where there is one, else the CPU.

    Raises:
        UsageError: If this machine lacks the device.
    """
    import torch

    best = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name or best).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"device: {name} cannot be used here ({reason}).") from error
