"""The look of a progress bar over training steps."""

from __future__ import annotations

from tqdm import tqdm

STEPS = (
    "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} steps{postfix}, {rate_fmt}, {remaining} left"
)


def steps_bar(total: int, done: int) -> tqdm:
    """Return a bar that is at `done` of `total` steps, shown only on a terminal."""
    return tqdm(
        total=total,
        initial=done,
        bar_format=STEPS,
        unit=" steps",
        disable=None,  # no bar outside of a terminal
        dynamic_ncols=True,
        leave=False,
    )
