"""The page that compares a photograph with its result, in a browser where there is one."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from photographs import colour, grey
from PIL import Image

from ebrl.vision.pages import before_after_page
from ebrl.vision.photograph import Photograph

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WHITE = Photograph(np.full((60, 80, 1), 255, np.uint8))
BLACK = Photograph(np.zeros((60, 80, 1), np.uint8))


@pytest.mark.parametrize("pixels", [colour(), grey()[..., None]])
def test_both_images_are_in_the_page_pixel_by_pixel(pixels: np.ndarray) -> None:
    page = before_after_page(Photograph(pixels), Photograph(255 - pixels), "a<b> & c.png")
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in images]
    assert np.array_equal(shown[1].reshape(pixels.shape), pixels)
    assert np.array_equal(shown[0].reshape(pixels.shape), 255 - pixels)
    assert "<title>a&lt;b&gt; &amp; c.png</title>" in page
    assert not re.search(r'(?:src|href)="http', page)  # self-contained


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("place", "share"), [("50", 0.5), ("20", 0.2)])
def test_the_slider_shows_before_on_its_left(place: str, share: float, tmp_path: Path) -> None:
    """A white photograph whose result is black: the white part is as wide as the slider says."""
    page = before_after_page(WHITE, BLACK, "white.png").replace('value="50"', f'value="{place}"')
    (tmp_path / "page.html").write_text(page)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--window-size=400,300", f"--screenshot={tmp_path / 'shot.png'}"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("L"))
    row = shot[30]  # through the images, which lie 16 pixels below the top
    white = np.flatnonzero(row == 255)
    black = np.flatnonzero(row == 0)
    assert white.max() < black.min() + 3  # the edge is white, too
    width = black.max() + 1 - white.min()
    assert (black.min() - white.min()) / width == pytest.approx(share, abs=0.04)
