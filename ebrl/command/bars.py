"""Progress bars, shown on a terminal alone, and removed at the end."""

from __future__ import annotations

from tqdm import tqdm

STEPS = (
    "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} steps{postfix}, {rate_fmt}, {remaining} left"
)


def progress_bar(
    form: str = STEPS, *, total: float | None = None, done: int = 0, title: str = ""
) -> tqdm:
    """Return a bar of tqdm's format `form` that is at `done` of `total`."""
    return tqdm(
        total=total,
        initial=done,
        desc=title,
        bar_format=form,
        unit=" steps",
        disable=None,  # no bar outside of a terminal
        dynamic_ncols=True,
        leave=False,
    )
