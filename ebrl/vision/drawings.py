"""Line art to learn from, drawn by chance: what photographs lack, and scans and charts are full of.

Gratings and checkerboards of 1 to 8 pixels, lines, outlines, filled shapes and text, in few colours
without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COUNT = 80  # drawings among some 400 photographs
HEIGHT, WIDTH = 320, 480
PANEL = 80  # pixels a side of the squares that a drawing is made of

Colour = tuple[int, int, int]


def drawings(count: int = COUNT) -> Iterator[Image.Image]:
    """Yield RGB drawings of 480x320 pixels, always the same ones."""
    for number in range(count):
        random = np.random.default_rng((0, number))
        drawing = Image.new("RGB", (WIDTH, HEIGHT))
        for top in range(0, HEIGHT, PANEL):
            for left in range(0, WIDTH, PANEL):
                panel = PANELS[random.integers(len(PANELS))]
                drawing.paste(panel(random), (left, top))
        yield drawing


def _pattern(random: np.random.Generator) -> Image.Image:
    """Draw a grating or a checkerboard at one of a few slopes."""
    rows, columns = np.indices((PANEL, PANEL))
    period = int(random.integers(2, 9))
    along, across = random.integers(-2, 3, 2)
    position = along * rows + across * columns
    if random.random() < 0.5:
        on = (position % period) < random.integers(1, period)
    else:
        on = (rows // (period // 2) + columns // (period // 2)) % 2 == 0
    ink, paper = _colours(random)
    pixels = np.where(on[..., None], np.array(ink, np.uint8), np.array(paper, np.uint8))
    return Image.fromarray(pixels)


def _lines(random: np.random.Generator) -> Image.Image:
    """Draw lines and outlines, one to three pixels wide."""
    ink, paper = _colours(random)
    panel = Image.new("RGB", (PANEL, PANEL), paper)
    pen = ImageDraw.Draw(panel)
    for _ in range(int(random.integers(3, 16))):
        ends, width = random.integers(0, PANEL, 4).tolist(), int(random.integers(1, 4))
        kind = random.integers(3)
        if kind == 0:
            pen.line(ends, fill=ink, width=width)
        elif kind == 1:
            pen.line([(0, ends[0]), (PANEL, ends[0])], fill=ink, width=width)
        else:
            pen.ellipse(_box([(ends[0], ends[1]), (ends[2], ends[3])]), outline=ink, width=width)
    return panel


def _shapes(random: np.random.Generator) -> Image.Image:
    """Draw filled shapes in flat colours."""
    panel = Image.new("RGB", (PANEL, PANEL), _colours(random)[1])
    pen = ImageDraw.Draw(panel)
    for _ in range(int(random.integers(2, 8))):
        corners = random.integers(0, PANEL, (4, 2))
        fill = _colours(random)[0]
        if random.random() < 0.5:
            pen.polygon([tuple(map(int, corner)) for corner in corners], fill=fill)
        else:
            pen.rectangle(_box([tuple(corner) for corner in corners[:2].tolist()]), fill=fill)
    return panel


def _text(random: np.random.Generator) -> Image.Image:
    """Write random letters in Pillow's own font."""
    ink, paper = _colours(random)
    panel = Image.new("RGB", (PANEL, PANEL), paper)
    pen, size = ImageDraw.Draw(panel), float(random.integers(8, 20))
    font = ImageFont.load_default(size)
    for top in np.arange(0.0, PANEL, 1.3 * size):
        letters = "".join(map(chr, random.integers(33, 127, 14)))
        pen.text((2, top), letters, fill=ink, font=font)
    return panel


def _colours(random: np.random.Generator) -> tuple[Colour, Colour]:
    """Return ink and paper: greys, dark on white or any, or two colours."""
    kind = random.random()
    if kind < 0.4:
        ink, paper = int(random.integers(0, 80)), int(random.integers(180, 256))
        return _grey(ink), _grey(paper)
    if kind < 0.7:
        return _grey(int(random.integers(256))), _grey(int(random.integers(256)))
    one, other = random.integers(0, 256, (2, 3)).tolist()
    return (one[0], one[1], one[2]), (other[0], other[1], other[2])


def _grey(level: int) -> Colour:
    return int(level), int(level), int(level)


def _box(corners: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the upper left and the lower right corner of what two corners span."""
    (x0, y0), (x1, y1) = corners
    return [(min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))]


PANELS: list[Callable[[np.random.Generator], Image.Image]] = [_pattern, _lines, _shapes, _text]
