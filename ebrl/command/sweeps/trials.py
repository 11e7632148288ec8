"""A trial of a sweep: its runs, each in a process of one thread, watched as they train."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from filelock import FileLock, Timeout

from ebrl.command.errors import UsageError
from ebrl.command.runs.folder import Run, read_evaluations

POLL = 0.2  # seconds between two looks at a run

PR_SET_PDEATHSIG = 1  # of prctl(2)
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
RETRIES = 3  # restarts of a run whose process was killed

Seen = Callable[[int, float], None]  # called with the steps and the mean return of an evaluation


class FailedError(Exception):
    """A run of a trial failed; the message is its last line."""


def folder_of(parameters: dict[str, Any]) -> str:
    """Return the name of a trial's folder, which depends on its values alone."""
    text = json.dumps(parameters, sort_keys=True, default=str)
    return f"trial-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def train_run(folder: Path, config: Path, options: list[str], seen: Seen, stopping: Event) -> float:
    """Train or resume a run in a process of its own, and return its last mean return.

    A killed process is restarted from its checkpoint.

    Args:
        folder: Folder of the run.
        config: Its config file.
        options: Changes of the config.
        seen: Called with each new evaluation. If it raises, the run saves and stops.
        stopping: Stops the run when it is set.

    Raises:
        FailedError: If the run failed.
        KeyboardInterrupt: If it was stopped.
    """
    run = Run(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(1 + RETRIES):
        _wait_for_orphan(run, stopping)
        if run.model.exists():
            break
        code = _run_process(run, config, options, seen, stopping)
        if code > 0 and code < 128:
            raise FailedError(_last_words(run) or f"exit code {code}")
    if not run.model.exists():
        raise FailedError(f"its process was killed {1 + RETRIES} times")
    try:
        evaluations = read_evaluations(run)
    except UsageError as error:
        raise FailedError(str(error)) from error
    if not evaluations:
        raise FailedError(f"{run.folder} is finished, but its evaluations are gone")
    for entry in evaluations:
        seen(entry["timesteps"], entry["mean"])
    return float(evaluations[-1]["mean"])


def _wait_for_orphan(run: Run, stopping: Event) -> None:
    """Wait while a process of a killed sweep still trains the run."""
    while run.folder.exists():
        try:
            with FileLock(run.folder / ".lock", timeout=POLL):
                return
        except Timeout:  # noqa: PERF203, a few times a second
            if stopping.is_set():
                raise KeyboardInterrupt from None


def _run_process(run: Run, config: Path, options: list[str], seen: Seen, stopping: Event) -> int:
    """Train the run in a process; return its exit code, which is negative if it was killed."""
    if run.config.exists():
        verb = ["resume", str(run.folder), "--trust"]
    else:
        verb = ["train", str(config), *options, "--run", str(run.folder)]
    with _log(run).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ebrl.command", *verb],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # the sweep handles Ctrl-C, and asks its runs to save
            preexec_fn=_save_when_orphaned if LIBC is not None else None,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
    shown = 0
    try:
        while process.poll() is None:
            time.sleep(POLL)
            for entry in read_evaluations(run)[shown:]:
                shown += 1
                seen(entry["timesteps"], entry["mean"])
            if stopping.is_set():
                raise KeyboardInterrupt
    finally:
        if process.poll() is None:
            process.terminate()  # it then saves
            process.wait()
    return process.returncode


def _save_when_orphaned() -> None:
    """In the new process: ask for SIGTERM, at which a training saves, when the sweep dies."""
    assert LIBC is not None  # or this is not called
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _log(run: Run) -> Path:
    return run.folder.with_name(f"{run.folder.name}.log")


def _last_words(run: Run) -> str:
    said = _log(run).read_text(errors="replace").strip().splitlines()
    return said[-1] if said else ""
