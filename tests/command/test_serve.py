"""`ebrl serve`: what the page answers, and that it is served."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import GaussianImages, grey, noisy, read, wiener, write

from ebrl.command.serve import NOTHING, compared

CPU = torch.device("cpu")


def test_a_photograph_is_compared_with_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = import_module("ebrl.vision.denoising")
    monkeypatch.setattr(home, "prior_of", lambda *_: GaussianImages())
    image = noisy(grey())
    path = write(tmp_path / "photo.png", image)
    found = compared(str(path), 25, 1.0, CPU, tmp_path)
    assert found.images is not None
    assert found.file is not None
    assert np.array_equal(found.images[0], np.repeat(image[..., None], 3, -1))
    assert np.array_equal(found.images[1][..., 0], wiener(image, 25))
    assert np.array_equal(read(Path(found.file)), wiener(image, 25))
    assert tmp_path in Path(found.file).parents
    assert found.facts.startswith("Noise 25.0 of 255.")
    assert "Noise 2" in compared(str(path), None, 1.0, CPU, tmp_path).facts
    assert (read(path) == image).all()


def test_what_is_no_photograph_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    found = compared(str(tmp_path / "notes.txt"), None, 1.0, CPU, tmp_path)
    assert found.images is None
    assert "is not an image" in found.facts
    assert compared(None, None, 1.0, CPU, tmp_path).facts == NOTHING


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
@pytest.mark.slow
def test_the_page_is_served() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ebrl.command", "serve", "--port", str(port)]
    server = subprocess.Popen(command, env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"})
    try:
        for _ in range(120):
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                break
            except OSError:
                assert server.poll() is None, "it ended"
                time.sleep(0.5)
        assert b"ebrl denoise" in page
    finally:
        server.terminate()
        server.wait(30)
