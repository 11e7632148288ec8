"""Several processes that train one energy: started here for `--devices`, or by torchrun."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from types import FrameType

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, spawn

from ebrl.command.errors import RunError, UsageError
from ebrl.command.training.endings import SIGNALS

GRACE = 20  # seconds for the others to end after one has failed


def take_devices(options: list[str]) -> tuple[int, list[str]]:
    """Return the number of `--devices`, by default 1, and the other options.

    Raises:
        UsageError: If it is not a whole number >= 1.
    """
    rest, count, i = [], "1", 0
    while i < len(options):
        name, equals, value = options[i].partition("=")
        if name == "--devices":
            count = value if equals else "".join(options[i + 1 : i + 2])
            i += 1 if equals else 2
        else:
            rest.append(options[i])
            i += 1
    if not count.isdecimal() or int(count) < 1:
        raise UsageError(f"--devices: expected a whole number >= 1, got {count!r}.")
    return int(count), rest


def train_in(count: int, arguments: Sequence[str]) -> int:
    """Run the command `arguments` in `count` processes on this machine; return its exit code.

    Signals are forwarded to the first process, which stops all of them after the same step.

    Raises:
        UsageError: If this is one of several processes already.
        RunError: If another process than the first failed.
    """
    if "WORLD_SIZE" in os.environ:
        raise UsageError("--devices: torchrun has started the processes already: leave it out.")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Not all objectives leave parameters without gradients, of which the C++ side would warn.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    context = spawn(_enter, (count, port, list(arguments)), nprocs=count, join=False)

    def hand_on(number: int, frame: FrameType | None) -> None:
        os.kill(context.pids()[0], number)

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, hand_on) for number in heard}
    try:
        while not context.join(grace_period=GRACE):
            pass
    except ProcessExitedException as error:
        first = context.processes[0].exitcode
        if first:  # it has reported why
            return first if first > 0 else 128 - first
        raise RunError(f"process {error.error_index} of {count}: {error}.") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _enter(rank: int, count: int, port: int, arguments: list[str]) -> None:
    """Run the command as one of the processes."""
    if hasattr(os, "setpgrp"):  # Ctrl-C in a terminal reaches the process that started this one
        os.setpgrp()
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    from ebrl.command import main

    sys.exit(main(arguments))


def _initialise() -> None:
    """Join the group, each process with a GPU of its own where there are as many."""
    here, beside = (int(os.environ.get(f"LOCAL_{name}", 1)) for name in ("RANK", "WORLD_SIZE"))
    if torch.cuda.device_count() >= beside:
        torch.cuda.set_device(here)
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")


@contextmanager
def joined() -> Iterator[int]:
    """Join the processes that were started together, and yield the rank of this one.

    All but the first are silent: whatever stops one stops all, and the first reports it.

    Raises:
        RunError: If another process was lost.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if count == 1:
        yield 0
        return
    _initialise()
    try:
        with ExitStack() as silence:
            if rank > 0:
                nowhere = silence.enter_context(open(os.devnull, "w"))
                silence.enter_context(redirect_stdout(nowhere))
                silence.enter_context(redirect_stderr(nowhere))
            yield rank
    except (UsageError, RunError) as error:
        if rank > 0:
            sys.exit(error.exit_code)
        raise
    except RuntimeError as error:
        if "onnection" not in str(error):  # gloo has no class for a peer that is gone
            raise
        if rank > 0:
            sys.exit(RunError.exit_code)
        raise RunError(f"another of the {count} processes was lost: {error}.") from error
    finally:
        dist.destroy_process_group()
