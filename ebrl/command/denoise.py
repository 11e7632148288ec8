"""`ebrl denoise PHOTO…`: photographs without their noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace
from tqdm import tqdm

from ebrl.command.arguments import Parser, Strength
from ebrl.command.devices import device_of
from ebrl.command.errors import extra
from ebrl.command.photographs.batch import (
    WHITE,
    Outcome,
    add_photographs,
    check_reference,
    show,
    work_through,
)
from ebrl.vision import PACKAGES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ebrl.command.photographs.files import Job

HELP = """
Takes the noise out of photographs: files, folders and patterns, grey or colour, of any size. The
result of NAME.EXT is NAME-denoised.EXT beside it or in --out, in the same format and bits, with its
EXIF, colour profile and resolution. For a single photograph there is also NAME-before-after.png,
the middle of it before (left) and after (right), and with --page a page with a slider between the
two. Nothing is overwritten without --overwrite. A photograph that cannot be denoised does not stop
the others; the exit code is then 1.

The level of the noise is estimated for each photograph and printed; --sigma sets it, in units of
8-bit images (black 0, white 255) whatever the file's depth: 5 is hardly visible, 15 is a dim room,
50 is a night without a lamp. Where the part to be removed does not look like noise, the photograph
stays nearly unchanged.

examples:
  ebrl denoise photo.jpg
  ebrl denoise photo.jpg --sigma 25 --strength 0.8             some grain stays
  ebrl denoise photo.jpg --page                                compare in a browser
  ebrl denoise holiday/ 'scans/*.tif' --out clean/
  ebrl denoise cells.tif --range [0,4095]                      12 bits in 16
  ebrl denoise noisy.png --reference clean.png                 with PSNR and SSIM
"""


def main(arguments: list[str]) -> int:
    """Denoise the photographs; return 0 if all succeeded, else 1."""
    parser = Parser("denoise", HELP)
    add_photographs(parser)
    parser.add_argument(
        "--strength",
        type=Strength,
        default=1.0,
        help="factor on the noise that is removed: less than 1 keeps more grain",
    )
    parser.add_argument(
        "--symmetries",
        type=Literal[1, 2, 4, 8],
        default=1,
        help="average over this many turned and mirrored copies: 8 take eight times as long and "
        "gain .05 to .3 dB",
    )
    given = parser.read(arguments)
    with extra("vision", *PACKAGES):
        device = device_of(given.device)
        return work_through(given, "denoised", lambda job, bar: _denoise(job, bar, given, device))


def _denoise(job: Job, bar: tqdm, given: Namespace, device: torch.device) -> Outcome:
    """Denoise one photograph into its files."""
    from ebrl.command.photographs.progress import WithProgress
    from ebrl.vision.denoising import check_range, guarded, mistrust
    from ebrl.vision.files import check_holds, load, save
    from ebrl.vision.images import picture
    from ebrl.vision.noise import doubts
    from ebrl.vision.shipped import prior_of
    from ebrl.vision.symmetry import Symmetric
    from ebrl.vision.tiles import Tiled, evaluations

    photograph = load(job.source)
    check_holds(photograph, job.out)
    pixels, white, back, _ = picture(photograph, given.range)
    pixels = pixels.to(device)
    data_range = given.range or (0.0, white)
    check_reference(job, photograph, data_range)
    levels, notes = _levels(pixels, given)
    check_range(pixels, levels)
    used, prior = given.strength * levels, prior_of(pixels, given.prior)
    told = levels.max().item() if given.sigma is None else given.sigma / WHITE
    notes += doubts(given.sigma, given.strength * told, prior.levels[1], WHITE)
    bar.reset(given.symmetries * evaluations(pixels))
    tiled = Tiled(Symmetric(WithProgress(prior, bar), given.symmetries))
    clean, trust = guarded(tiled, pixels, used)
    notes += mistrust(trust, used)
    result = back(clean.cpu())
    save(result, job.out)
    shown = (WHITE * levels).flatten().tolist() if given.sigma is None else [given.sigma]
    sigma = " ".join(f"{level:.1f}" for level in shown)
    facts = f"sigma {sigma}{'' if given.sigma is not None else ' (estimated)'}"
    figures = show(job, photograph, result, data_range, facts)
    return Outcome(facts, figures, (photograph.about.note, *notes))


def _levels(pixels: Tensor, given: Namespace) -> tuple[Tensor, list[str]]:
    """Return the noise of each page, where white is 1, and warnings about the estimate."""
    from ebrl.vision.noise import clipped
    from ebrl.vision.noise_estimate import estimate

    if given.sigma is not None:
        return clipped(pixels.new_full(pixels.shape[:-3], given.sigma / WHITE), pixels), []
    found = [estimate(page) for page in pixels.reshape(-1, *pixels.shape[-3:])]
    white = given.prior == "white"
    sigmas = [one.sigma if white else one.deviation for one in found]
    levels = pixels.new_tensor(sigmas).view(pixels.shape[:-3])
    if white and any(one.is_coarse for one in found):
        worst = max(found, key=lambda one: one.coarse)
        note = (
            f"its noise is coarser than a pixel, as cameras leave it ({WHITE * worst.fine:.1f} in "
            f"the finest details, {WHITE * worst.coarse:.1f} in the next): compare --prior camera"
        )
        return levels, [note]
    return levels, []
