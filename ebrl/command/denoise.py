"""`ebrl denoise PHOTO…`: photographs without their noise."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ebrl.command.arguments import EightBit, Parser, Strength
from ebrl.command.batch import WHITE, Outcome, add_photographs, doubt, work_through
from ebrl.command.errors import extra

if TYPE_CHECKING:
    from ebrl.command.photographs import Job

HELP = """
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


def main(arguments: list[str]) -> int:
    """Denoise the photographs; 0 if all were, else 1."""
    parser = Parser("denoise", HELP)
    add_photographs(parser)
    parser.add_argument(
        "--sigma",
        type=EightBit,
        help="deviation of the noise, 0 to 255 in 8-bit units (default: estimated)",
    )
    parser.add_argument(
        "--strength",
        type=Strength,
        default=1.0,
        help="how much of the noise goes: less than 1 keeps more grain",
    )
    given = parser.read(arguments)
    with extra("vision", "PIL", "skimage"):
        return work_through(
            given, "denoised", lambda job: _denoise(job, given.sigma, given.strength)
        )


def _denoise(job: Job, sigma: float | None, strength: float) -> Outcome:
    """Denoise one photograph into its files."""
    from ebrl.command.photographs import PICTURE
    from ebrl.vision.denoising import denoise
    from ebrl.vision.fidelity import fidelity
    from ebrl.vision.files import check_holds, load, save
    from ebrl.vision.grids import side_by_side
    from ebrl.vision.images import picture
    from ebrl.vision.noise import noise_levels
    from ebrl.vision.shipped import prior_of

    image = load(job.source)
    check_holds(image, job.out)
    pixels, white, _ = picture(image)
    clean = picture(load(job.reference)).pixels if job.reference else None
    before = None if clean is None else fidelity(pixels, clean)
    level = WHITE * noise_levels(pixels, None, white).item() if sigma is None else sigma
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the note says it in the command's units
        result = denoise(image, level / WHITE * white, strength=strength)
    save(result, job.out)
    if PICTURE in job.beside:
        save(side_by_side([image, result]), job.beside[PICTURE])
    after = None if clean is None else fidelity(picture(load(job.out)).pixels, clean)
    figures = (before, after) if before and after else None
    known = " (estimated)" if sigma is None else ""
    note = doubt(sigma, level * strength, WHITE * prior_of(pixels).levels[1])
    return Outcome(f"sigma {level:.1f}{known}", figures, note)
