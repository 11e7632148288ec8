"""The photographs of one command, in turn: options, progress, reports, exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from jsonargparse import ActionYesNo, Namespace
from tqdm import tqdm

from ebrl.command.arguments import EightBit, Parser
from ebrl.command.bars import progress_bar
from ebrl.command.devices import add_device

if TYPE_CHECKING:
    from pathlib import Path

    from ebrl.command.photographs.files import Job, Refusal
    from ebrl.vision.fidelity import Fidelity
    from ebrl.vision.photograph import Photograph

WHITE = 255  # the units of --sigma
BAR = "{desc} {percentage:3.0f}%|{bar:24}| {elapsed}, {remaining} left"
FAILURES = (OSError, ValueError, RuntimeError, MemoryError)  # of one photograph


class Outcome(NamedTuple):
    """The result of the work on a photograph."""

    facts: str  # such as 'sigma 25.0'
    fidelity: tuple[Fidelity, Fidelity] | None = None  # before and after
    notes: tuple[str, ...] = ()  # warnings; empty ones are not printed


Work = Callable[["Job", tqdm], Outcome]


def add_photographs(parser: Parser) -> None:
    """Add the arguments for photographs, results and what is shown of them."""
    parser.add_argument(
        "photo",
        nargs="+",
        metavar="PHOTO",
        help="a file, a folder or a pattern; of folders and patterns all but the results of ebrl",
    )
    parser.add_argument(
        "--out", help="a folder for the results, or a file for that of a single photograph"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing results")
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
    parser.add_argument(
        "--page",
        action="store_true",
        help="write NAME-before-after.html: a page with a slider between before and after",
    )
    parser.add_argument(
        "--sigma",
        type=EightBit,
        help="standard deviation of the noise, 0 to 255 in 8-bit units (default: as said above)",
    )
    parser.add_argument(
        "--range",
        type=tuple[float, float],
        metavar="[BLACK,WHITE]",
        help="values of black and white in the file, such as [0,4095] for 12 bits in 16",
    )
    parser.add_argument(
        "--prior",
        type=Literal["white", "camera"],
        default="white",
        help="the noise to expect: white, or correlated between neighbouring pixels, as cameras "
        "leave it",
    )
    add_device(parser)


def work_through(given: Namespace, done: str, work: Work, beside: tuple[str, ...] = ()) -> int:
    """Work on the photographs that were `given`.

    Args:
        given: The arguments of `add_photographs`.
        done: A participle such as 'denoised', also the suffix of the results' names.
        work: Works on one photograph, and moves a bar that is cleared before each.
        beside: Suffixes of the names of further pictures.

    Returns:
        The exit code: 0 if all are done, else 1.
    """
    from ebrl.command.photographs.files import PAGE, PICTURE, Refusal, find, plan

    sources, refused = find(given.photo)
    shows = len(sources) == 1 if given.picture is None else given.picture
    ends = [*([PICTURE] if shows else []), *([PAGE] if given.page else []), *beside]
    jobs, conflicts = plan(sources, given, f"-{done}", ends)
    refused += conflicts
    for refusal in refused:
        _complain(refusal)
    outcomes = []
    for number, job in enumerate(jobs, 1):
        title = job.source.name if len(jobs) == 1 else f"{number}/{len(jobs)}"
        with progress_bar(BAR, total=1, title=title) as bar:
            try:
                outcome = work(job, bar)
            except FAILURES as error:
                refused.append(Refusal(str(job.source), _reason(error)))
                _complain(refused[-1])
            else:
                _report(job, outcome)
                outcomes.append(outcome)
    return _summarise(done, outcomes, refused)


def check_reference(job: Job, before: Photograph, data_range: tuple[float, float]) -> None:
    """Raise ImageError or OSError, before the work, for a reference that does not fit."""
    if job.reference:
        _fidelity(job.reference, [before], data_range)


def _fidelity(
    reference: Path, photographs: list[Photograph], data_range: tuple[float, float]
) -> list[Fidelity]:
    """Return figures of photographs against the reference; one of their type has their range."""
    from ebrl.vision.fidelity import fidelity
    from ebrl.vision.files import load
    from ebrl.vision.images import picture

    clean = load(reference)
    alike = clean.pixels.dtype == photographs[0].pixels.dtype
    truth = picture(clean, data_range if alike else None).pixels
    return [fidelity(picture(one, data_range).pixels, truth) for one in photographs]


def show(
    job: Job, before: Photograph, after: Photograph, data_range: tuple[float, float], facts: str
) -> tuple[Fidelity, Fidelity] | None:
    """Write the comparison of a photograph with its result; return figures against the reference.

    Args:
        job: Says which pictures are wanted, and where the reference is.
        before: The photograph, in the size of the result.
        after: The result, which is in its file already.
        data_range: The values of black and white in both.
        facts: Further lines of the page.
    """
    from ebrl.command.photographs.files import PAGE, PICTURE
    from ebrl.storage import replacing
    from ebrl.vision.files import load, save
    from ebrl.vision.grids import in_eight_bits, side_by_side
    from ebrl.vision.pages import before_after_page

    shown = in_eight_bits(before, data_range), in_eight_bits(after, data_range)
    if PICTURE in job.beside:
        save(side_by_side(shown), job.beside[PICTURE])
    if PAGE in job.beside:
        with replacing(job.beside[PAGE]) as file:
            file.write(before_after_page(*shown, job.source.name, facts).encode(errors="replace"))
    if not job.reference:
        return None
    written = load(job.out)  # with the losses of its format
    was, now = _fidelity(job.reference, [before, written], data_range)
    return was, now


def _reason(error: BaseException) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)
    return reason.replace("data_range=(black, white)", "--range=[BLACK,WHITE]")


def _complain(refusal: Refusal) -> None:
    name, reason = refusal.name, " ".join(refusal.reason.split())
    about = reason if reason.startswith(f"{name} ") else f"{name}: {reason}"
    tqdm.write(f"ebrl: {about}.", file=sys.stderr)


def _report(job: Job, outcome: Outcome) -> None:
    for note in filter(None, outcome.notes):
        tqdm.write(f"ebrl: note: {job.source}: {note}.", file=sys.stderr)
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
    """Print how many succeeded and which failed; return the exit code."""
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
