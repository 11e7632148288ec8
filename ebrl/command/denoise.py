"""`ebrl denoise PHOTO…`: photographs without their noise."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from ebrl.command.arguments import Parser, decimal
from ebrl.command.errors import extra

if TYPE_CHECKING:
    from ebrl.command.photographs import Job, Refusal
    from ebrl.vision.fidelity import Fidelity

EXAMPLES = """
Takes the noise out of photographs: files, folders and patterns, grey or colour, of any size. The
result of NAME.EXT is NAME-denoised.EXT beside it or in --out, in the same format, with its EXIF and
colour profile; the photographs themselves are never written to. For a single photograph there is
also NAME-before-after.png, the middle of it before (left) and after (right). One that cannot be
denoised does not stop the others; the exit code is then 1.

The level of the noise is estimated for each photograph and printed; --sigma sets it, in units of
8-bit images (black 0, white 255) whatever the bits of the file: 5 is hardly seen, 15 is a dim room,
50 is a night without a lamp.

examples:
  ebrl denoise photo.jpg
  ebrl denoise photo.jpg --sigma 25 --strength 0.8             some grain stays
  ebrl denoise holiday/ 'scans/*.tif' --out clean/
  ebrl denoise noisy.png --reference clean.png                 with PSNR and SSIM
"""
WHITE = 255  # the units of --sigma
BAR = "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} photographs{postfix}, {remaining} left"


class Outcome(NamedTuple):
    """What is known of a photograph after it was denoised."""

    sigma: float  # in 8-bit units
    fidelity: tuple[Fidelity, Fidelity] | None  # of the noisy and of the denoised one
    note: str  # what is doubtful about it, or ''


def main(arguments: list[str]) -> int:
    """Denoise the photographs; 0 if all were, else 1."""
    given = _parse(arguments)
    with extra("vision", "PIL", "skimage"):
        from ebrl.command.photographs import Refusal, find, plan

        sources, refused = find(given.photo)
        picture = len(sources) == 1 if given.picture is None else given.picture
        jobs, conflicts = plan(sources, given.out, picture, given.reference)
        refused += conflicts
        for refusal in refused:
            _complain(refusal)
        done = []
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
                    outcome = _denoise(job, given.sigma, given.strength)
                except (OSError, ValueError) as error:
                    refused.append(Refusal(str(job.source), _reason(error)))
                    _complain(refused[-1])
                else:
                    _report(job, outcome, estimated=given.sigma is None)
                    done.append(outcome)
                bar.update()
    return _summarise(done, refused)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("denoise", EXAMPLES)
    parser.add_argument("photo", nargs="+", metavar="PHOTO", help="a file, a folder or a pattern")
    parser.add_argument(
        "--sigma",
        type=decimal(0, WHITE),
        help="deviation of the noise, 0 to 255 in 8-bit units (default: estimated)",
    )
    parser.add_argument(
        "--strength",
        type=decimal(0, math.inf),
        default=1.0,
        help="how much of the noise goes: less than 1 keeps more grain (default 1)",
    )
    parser.add_argument(
        "--out", help="a folder for the results, or a file for that of a single photograph"
    )
    parser.add_argument(
        "--reference",
        help="the clean photograph, or a folder with those of the same names: prints PSNR and SSIM",
    )
    parser.add_argument(
        "--picture",
        action=argparse.BooleanOptionalAction,
        help="whether to write NAME-before-after.png (default: for a single photograph)",
    )
    return parser.parse_intermixed_args(arguments)


def _denoise(job: Job, sigma: float | None, strength: float) -> Outcome:
    """Denoise one photograph into its files."""
    from ebrl.vision.denoising import TRAINED, denoise, noise_levels
    from ebrl.vision.fidelity import fidelity
    from ebrl.vision.files import file_format, save, side_by_side
    from ebrl.vision.images import opened, picture

    file_format(job.out)
    image = opened(job.source)
    pixels, white, _ = picture(image)
    clean = picture(opened(job.reference)).pixels if job.reference else None
    before = None if clean is None else fidelity(pixels, clean)
    level = WHITE * noise_levels(pixels, None, white).item() if sigma is None else sigma
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the note says it in the command's units
        result = denoise(image, level / WHITE * white, strength=strength)
    save(result, job.out)
    if job.picture:
        save(side_by_side([image, result]), job.picture)
    after = None if clean is None else fidelity(picture(opened(job.out)).pixels, clean)
    figures = (before, after) if before and after else None
    return Outcome(level, figures, _doubt(sigma, level * strength, WHITE * TRAINED[1]))


def _doubt(sigma: float | None, used: float, most: float) -> str:
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


def _report(job: Job, outcome: Outcome, estimated: bool) -> None:
    if outcome.note:
        tqdm.write(f"ebrl: note: {job.source}: {outcome.note}.", file=sys.stderr)
    figures = ""
    if outcome.fidelity:
        (psnr, ssim), (better, more) = outcome.fidelity
        figures = f"   PSNR {psnr:.2f} -> {better:.2f} dB"
        if ssim is not None and more is not None:
            figures += f"   SSIM {ssim:.3f} -> {more:.3f}"
    known = " (estimated)" if estimated else ""
    tqdm.write(f"{job.source}   sigma {outcome.sigma:.1f}{known}{figures}", file=sys.stdout)
    pictures = f"   {job.picture}" if job.picture else ""
    tqdm.write(f"  -> {job.out}{pictures}", file=sys.stdout)


def _summarise(done: list[Outcome], refused: list[Refusal]) -> int:
    """Print how it went; the exit code."""
    means = ""
    figures = [outcome.fidelity for outcome in done if outcome.fidelity]
    if len(figures) > 1:
        before, after = (sum(pair[i].psnr for pair in figures) / len(figures) for i in (0, 1))
        means = f", mean PSNR {before:.2f} -> {after:.2f} dB"
    if len(done) + len(refused) > 1:
        print(f"Done: {len(done)} denoised{means}, {len(refused)} not.")
        for refusal in refused:
            print(f"  not {refusal.name}")
    return 1 if refused else 0
