"""Ray's clusters: whether one answers, before Ray waits for it without an end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from ebrl.command.errors import RunError

ANSWER = 5  # seconds to wait for a cluster
# HTTP/2, which Ray's servers speak, begins with these bytes and a frame of settings on either side.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HEAD, KIND, SETTINGS = 9, 3, 4  # bytes of a frame's head, the place of its kind, that of settings


@contextmanager
def joining(address: str) -> Iterator[None]:
    """Hold the start of Ray; first ask whether a cluster answers at an address with a port.

    Args:
        address: HOST:PORT, ray://HOST:PORT, or a word that Ray knows.

    Raises:
        RunError: If nobody answers there, or Ray cannot start.
    """
    try:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        if port.isdecimal():
            _ask(host.strip("[]"), int(port))
        yield
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise RunError(
            f"no Ray cluster answers at {address or 'this machine'} ({said}). Expected auto, local "
            "or HOST:PORT of one; start one: ray start --head"
        ) from error


def _ask(host: str, port: int) -> None:
    """Raise OSError unless a server of Ray's kind answers."""
    with socket.create_connection((host, port), timeout=ANSWER) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return  # it answers in ciphers
        connection.sendall(PREFACE)
        with connection.makefile("rb") as answers:
            head = answers.read(HEAD)
    if len(head) < HEAD or head[KIND] != SETTINGS:
        raise ConnectionError("something else answers")
