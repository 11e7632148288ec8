"""The picture of sentences in the README: each token is the redder the less likely it is.

python benchmarks/sentence_picture.py --out benchmarks/results/sentences.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ebrl import sequences
from ebrl.sequences.pages import redness

PAIRS = (
    ("She walked into the room and sat down.", "She walked into the room and sat was."),
    ("The children were playing in the garden.", "The children were in playing the garden."),
    ("He gave her an old book.", "He gave to her the an old book."),
)
SHADES = colors.LinearSegmentedColormap.from_list("energy", ["#ffffff", "#d63c28"])


def draw(axes: Axes, sentence: str, row: float) -> None:
    """Draw a sentence in a row, a character in a unit of x, with its energy before it."""
    (score,) = sequences.score([sentence])
    axes.text(-1, row, f"{score.total:.1f}", ha="right", va="center", color="grey", family="serif")
    place = 0
    for part in score.per_token:
        shown = part.text or "∎"
        corner, size = (place, row - 0.38), (len(shown), 0.76)
        axes.add_patch(Rectangle(corner, *size, lw=0, facecolor=SHADES(redness(part))))
        for at, character in enumerate(shown, start=place):
            axes.text(
                at + 0.5, row, character, ha="center", va="center", family="monospace", size=8
            )
        place += len(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sentences.png"))
    given = parser.parse_args()
    figure = Figure(figsize=(5.4, 2.3), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    longest = max(len(sentence) for pair in PAIRS for sentence in pair)
    axes.set(xlim=(-7, longest + 2), ylim=(-0.6, 2.5 * len(PAIRS) - 0.9))
    for place, pair in enumerate(reversed(PAIRS)):
        for below, sentence in enumerate(reversed(pair)):
            draw(axes, sentence, 2.5 * place + below)
    figure.savefig(given.out, dpi=130)


if __name__ == "__main__":
    main()
