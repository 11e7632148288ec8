"""The photographs of one command, one after another: options, progress, what is said, the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from jsonargparse import ActionYesNo, Namespace
from tqdm import tqdm

from ebrl.command.arguments import Parser

if TYPE_CHECKING:
    from ebrl.command.photographs import Job, Refusal
    from ebrl.vision.fidelity import Fidelity

WHITE = 255  # the units of --sigma
BAR = "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} photographs{postfix}, {remaining} left"


class Outcome(NamedTuple):
    """What is known of a photograph after it was worked on."""

    facts: str  # such as 'sigma 25.0'
    fidelity: tuple[Fidelity, Fidelity] | None  # before and after
    note: str  # what is doubtful about it, or ''


def add_photographs(parser: Parser) -> None:
    """Add the arguments that say which photographs, where results go and what is shown of them."""
    parser.add_argument("photo", nargs="+", metavar="PHOTO", help="a file, a folder or a pattern")
    parser.add_argument(
        "--out", help="a folder for the results, or a file for that of a single photograph"
    )
    parser.add_argument(
        "--reference",
        help="the clean photograph, or a folder with those of the same names: prints PSNR and SSIM",
    )
    parser.add_argument(
        "--picture",
        action=ActionYesNo(no_prefix="no-"),
        default=None,
        help="whether to write NAME-before-after.png (default: for a single photograph)",
    )


def work_through(
    given: Namespace,
    done: str,
    work: Callable[[Job], Outcome],
    beside: tuple[str, ...] = (),
) -> int:
    """Work on the photographs that were `given`; 0 if all of them are `done`, else 1.

    `done` is a participle such as 'denoised', with which the names of results end too; `beside` are
    the ends of the names of further pictures.
    """
    from ebrl.command.photographs import PICTURE, Refusal, find, plan

    sources, refused = find(given.photo)
    shows = len(sources) == 1 if given.picture is None else given.picture
    pictures = [PICTURE, *beside] if shows else [*beside]
    jobs, conflicts = plan(sources, given.out, f"-{done}", pictures, given.reference)
    refused += conflicts
    for refusal in refused:
        _complain(refusal)
    outcomes = []
    with tqdm(
        total=len(jobs),
        bar_format=BAR,
        disable=True if len(jobs) < 2 else None,  # None: not a terminal, no bar
        dynamic_ncols=True,
        leave=False,
    ) as bar:
        for job in jobs:
            bar.set_postfix_str(job.source.name, refresh=True)
            try:
                outcome = work(job)
            except (OSError, ValueError) as error:
                refused.append(Refusal(str(job.source), _reason(error)))
                _complain(refused[-1])
            else:
                _report(job, outcome)
                outcomes.append(outcome)
            bar.update()
    return _summarise(done, outcomes, refused)


def doubt(sigma: float | None, used: float, most: float) -> str:
    """Return what is doubtful about the noise that was given, and that which is taken away."""
    if used > most:
        return f"sigma {used:.3g} is beyond the {most:.3g} that was learnt: the result may be poor"
    if sigma is not None and 0 < sigma < 1:
        return (
            f"sigma {sigma:.2g} of 255 is hardly any noise; if it was meant for images in [0, 1], "
            f"it is --sigma {sigma * WHITE:.3g}"
        )
    return ""


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _complain(refusal: Refusal) -> None:
    name, reason = refusal.name, " ".join(refusal.reason.split())
    about = reason if reason.startswith(f"{name} ") else f"{name}: {reason}"
    tqdm.write(f"ebrl: {about}.", file=sys.stderr)


def _report(job: Job, outcome: Outcome) -> None:
    if outcome.note:
        tqdm.write(f"ebrl: note: {job.source}: {outcome.note}.", file=sys.stderr)
    figures = ""
    if outcome.fidelity:
        (psnr, ssim), (better, more) = outcome.fidelity
        figures = f"   PSNR {psnr:.2f} -> {better:.2f} dB"
        if ssim is not None and more is not None:
            figures += f"   SSIM {ssim:.3f} -> {more:.3f}"
    tqdm.write(f"{job.source}   {outcome.facts}{figures}", file=sys.stdout)
    made = "   ".join(map(str, [job.out, *job.beside.values()]))
    tqdm.write(f"  -> {made}", file=sys.stdout)


def _summarise(done: str, outcomes: list[Outcome], refused: list[Refusal]) -> int:
    """Print how it went; the exit code."""
    means = ""
    figures = [outcome.fidelity for outcome in outcomes if outcome.fidelity]
    if len(figures) > 1:
        before, after = (sum(pair[i].psnr for pair in figures) / len(figures) for i in (0, 1))
        means = f", mean PSNR {before:.2f} -> {after:.2f} dB"
    if len(outcomes) + len(refused) > 1:
        print(f"Done: {len(outcomes)} {done}{means}, {len(refused)} not.")
        for refusal in refused:
            print(f"  not {refusal.name}")
    return 1 if refused else 0
