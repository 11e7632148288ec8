"""Addresses of clusters: nobody, or something else, answers there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ebrl.command.environments import ray_clusters
from ebrl.command.errors import RunError


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """Yield the address of a server that gives one answer, or None: that keeps silent."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                if answer is None:
                    done.wait(5)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        done.set()
        thread.join()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_is_no_cluster_is_not_waited_for(
    answer: bytes | None, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_clusters, "ANSWER", 0.2)
    with server(answer) as address:
        said = f"no Ray cluster answers at {scheme}{address}"
        with pytest.raises(RunError, match=said), ray_clusters.joining(scheme + address):
            pytest.fail("Ray was started")


def test_a_server_of_rays_kind_is_joined() -> None:
    with server(ray_clusters.PREFACE[-ray_clusters.HEAD :]) as address:
        started = []
        with ray_clusters.joining(address):
            started.append(address)
        assert started


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1:99999999"])
def test_an_address_of_nobody_is_one_line(address: str) -> None:
    with pytest.raises(RunError, match="start one: ray start"), ray_clusters.joining(address):
        pytest.fail("Ray was started")
