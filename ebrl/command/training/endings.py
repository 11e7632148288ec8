"""Early ends of a training, each with one line, an exit code, and a saved state."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ebrl.command.configs.trust import command
from ebrl.command.errors import NO_ROOM, EnvironmentFailure, RunError
from ebrl.command.output import lasting_output
from ebrl.command.runs.folder import Run, trains_energy, write
from ebrl.rolling import checkpoints_in, step_of
from ebrl.storage import StorageError
from ebrl.training import DivergedError

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Stopped(RunError):
    """A training stopped by a signal, after saving. Exit code 128 and the signal's number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@contextmanager
def ending_well(
    run: Run, stop: Callable[[], None], save: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Turn whatever stops a training into one line: what was saved, and how to continue.

    Args:
        run: The run that trains.
        stop: Asks the training to save and then raise KeyboardInterrupt.
        save: Saves the state of a training after an environment failed.

    Raises:
        Stopped: If a signal came.
        RunError: If the training diverged, an environment failed, a file is damaged, or there is no
            room left on the disk.
    """
    with lasting_output(), stop_on_signals(stop) as received:
        try:
            yield
        except KeyboardInterrupt as error:
            number = received[0] if received else signal.SIGINT
            raise Stopped(f"stopped. {how_to_resume(run)}", number) from error
        except DivergedError as error:  # resuming would fail again
            raise RunError(
                f"{error}. The last good checkpoint is kept. Try another config: "
                f"{_again(run)} --run OTHER --KEY VALUE"
            ) from error
        except EnvironmentFailure as error:
            save()
            raise RunError(f"{error}{_kept_traceback(run, error)} {how_to_resume(run)}") from error
        except StorageError as error:  # of a checkpoint, which resuming would read again
            raise RunError(f"{error}.") from error
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise RunError(
                f"no room left on the disk for {run.folder} ({error.strerror}). Free some; "
                f"nothing that was written before is lost. {how_to_resume(run)}"
            ) from error


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Call `stop` at SIGINT, SIGTERM and SIGHUP, unless they are ignored, as `nohup` does.

    Yields the list of received signals. The second signal raises KeyboardInterrupt at once. Python
    discards a KeyboardInterrupt raised inside a destructor or a garbage-collection callback; the
    signal is then sent again.
    """
    received: list[int] = []
    dropped = sys.unraisablehook

    def send_again(lost: Any) -> None:
        if lost.exc_type is not KeyboardInterrupt or not received:
            return dropped(lost)
        threading.Timer(0.05, os.kill, (os.getpid(), received[0])).start()

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        print("\nebrl: saving, then stopping (again: stop now) …", file=sys.stderr)
        stop()

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in heard}
    sys.unraisablehook = send_again
    try:
        yield received
    finally:
        sys.unraisablehook = dropped
        for number, handler in before.items():
            signal.signal(number, handler)


def how_to_resume(run: Run) -> str:
    """Return the command that continues a run, and the step that it continues from."""
    steps = [step_of(path) for path in checkpoints_in(run.checkpoints)]  # newest first
    where = f"from step {steps[0]:,}" if steps else "from the start: no checkpoint was due yet"
    return f"Go on ({where}): {command('resume', run.folder)}"


def _again(run: Run) -> str:
    return f"ebrl {'fit' if trains_energy(run) else 'train'} {run.config}"


def _kept_traceback(run: Run, error: EnvironmentFailure) -> str:
    """Write the traceback of the environment's own error, if there is one; return where."""
    if not error.traceback:
        return ""
    write(run.traceback, error.traceback)
    return f" Its traceback: {run.traceback}."
