"""Signals that stop a training once it has saved."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(request: Callable[[], None]) -> Iterator[list[int]]:
    """Call `request` at SIGINT and SIGTERM; it is to end the training once a checkpoint is written.

    Yields the list that the signals are noted in. The second one raises KeyboardInterrupt at once.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        print("\nebrl: saving, then stopping (again: stop now) …", file=sys.stderr)
        request()

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
