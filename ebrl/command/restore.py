"""`ebrl restore PHOTO…`: photographs that are blurred, too small or have holes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt
from tqdm import tqdm

from ebrl.command.arguments import Factor, Parser, Seed
from ebrl.command.devices import device_of
from ebrl.command.errors import UsageError, extra
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
    from ebrl.energies import Energy
    from ebrl.vision.observations import Observation
    from ebrl.vision.photograph import Photograph
    from ebrl.vision.tiles import Window

HELP = """
Restores photographs whose damage is known: files, folders and patterns, grey or colour, of any
size. Give exactly one of

  --blur KERNEL   they are blurred: gaussian:1.6 or box:5 (in pixels), or a kernel's file, a picture
                  or .npy with odd sides that shows how a point of light looks in the photograph
  --scale N       they are too small, each pixel the mean of NxN: the result has N times their sides
  --mask FILE     parts are missing: white in this picture of the same size, the rest black

The result of NAME.EXT is NAME-restored.EXT beside it or in --out, in the same format and bits, with
its EXIF, colour profile and resolution. For a single photograph there is also
NAME-before-after.png, the middle of it before (left) and after (right), and with --page a page with
a slider between the two. Nothing is overwritten without --overwrite. A photograph that cannot be
restored does not stop the others; the exit code is then 1.

--sigma is the noise in the photograph, in units of 8-bit images (black 0, white 255). Without it
--blur estimates the noise, and --scale and --mask assume none; with --blur and --scale a JPEG has
at least the noise of its compression. Without noise the pixels outside of a --mask stay as they
are. --samples N draws N images that the photograph leaves possible, and writes their standard
deviation at each pixel to NAME-deviation.png: white where the result is least sure. For missing
pixels this deviation is at most about a fifth of white, and too low where contrast is high.

examples:
  ebrl restore photo.jpg --blur gaussian:1.6
  ebrl restore scans/ --blur kernel.npy --sigma 5 --out sharp/
  ebrl restore small.png --scale 2 --reference large.png       with PSNR and SSIM
  ebrl restore photo.png --mask scratches.png --samples 8
"""
MARGIN = 8  # unknown pixels around a photograph, in which its opposite borders join smoothly
MOST = 16  # times that a side may be enlarged


class Damage(NamedTuple):
    """The damage of the photographs: one of these."""

    kernel: Tensor | None
    scale: int | None
    known: Tensor | None  # (height, width), false where pixels are missing


def main(arguments: list[str]) -> int:
    """Restore the photographs; return 0 if all succeeded, else 1."""
    parser = Parser("restore", HELP)
    add_photographs(parser)
    damages = parser.add_mutually_exclusive_group(required=True)
    damages.add_argument("--blur", metavar="KERNEL", help="gaussian:1.6, box:5, or a kernel's file")
    damages.add_argument("--scale", type=Factor, metavar="N", help=f"2 to {MOST} times the sides")
    damages.add_argument("--mask", metavar="FILE", help="a picture, white where pixels are missing")
    parser.types["--scale"] = Factor
    parser.add_argument(
        "--samples",
        type=NonNegativeInt,
        default=0,
        help="how many possible images to draw for NAME-deviation.png: 2 or more, which takes long",
    )
    parser.add_argument("--seed", type=Seed, default=0, help="the seed of --samples")
    given = parser.read(arguments)
    if given.samples == 1:
        raise UsageError("--samples: expected at least 2, to see how they differ, got 1.")
    with extra("vision", *PACKAGES):
        from ebrl.command.photographs.files import DEVIATION

        damage, device = _damage(given), device_of(given.device)

        def work(job: Job, bar: tqdm) -> Outcome:
            return _restore(job, bar, damage, given, device)

        return work_through(given, "restored", work, (DEVIATION,) if given.samples else ())


def _damage(given: Namespace) -> Damage:
    """Read the options of the damage; UsageError for impossible ones."""
    from ebrl.vision.damages import kernel, known

    option = "--blur" if given.blur is not None else "--mask"
    try:
        blur = None if given.blur is None else kernel(given.blur)
        whole = None if given.mask is None else known(given.mask)
    except (OSError, ValueError) as error:
        raise UsageError(f"{option}: {error}.") from error
    return Damage(blur, given.scale, whole)


def _restore(
    job: Job, bar: tqdm, damage: Damage, given: Namespace, device: torch.device
) -> Outcome:
    """Restore one photograph into its files."""
    import numpy as np
    import torch

    from ebrl.command.photographs.files import DEVIATION
    from ebrl.command.photographs.progress import WithProgress
    from ebrl.training.precision import fastest_precision
    from ebrl.vision.damages import enlarged
    from ebrl.vision.denoising import check_range
    from ebrl.vision.files import check_holds, load, save
    from ebrl.vision.images import picture
    from ebrl.vision.noise import doubts
    from ebrl.vision.observations import EXACT
    from ebrl.vision.restoration import LEVELS, PATH_LEVELS, restore
    from ebrl.vision.shipped import prior_of
    from ebrl.vision.tiles import Tiled, evaluations

    photograph = load(job.source)
    pixels, white, *_ = picture(photograph, given.range)
    data_range = given.range or (0.0, white)
    before = photograph if damage.scale is None else enlarged(photograph, damage.scale)
    check_holds(before, job.out)
    back = picture(before, data_range).back
    check_reference(job, before, data_range)
    level, facts = _level(photograph, pixels, damage, given)
    check_range(pixels, torch.as_tensor(level / WHITE))
    prior = prior_of(pixels.to(device), given.prior)
    observation, inside = _observed(pixels.to(device), damage, max(level / WHITE, EXACT))
    once = evaluations(observation.start())
    bar.reset(once * 2 * LEVELS)
    fast = prior.in_bfloat16() if fastest_precision(device) == "bfloat16" else prior
    watched = Tiled(WithProgress(fast, bar))
    result = back(inside.of(restore(observation, watched)).cpu())
    if damage.known is not None and observation.deviation <= EXACT:  # `back` cuts at white
        whole = np.where(damage.known.numpy()[..., None], photograph.pixels, result.pixels)
        result = result._replace(pixels=whole)
    save(result, job.out)
    if DEVIATION in job.beside:
        bar.reset(once * (2 * LEVELS + PATH_LEVELS * given.samples))
        facts += _save_deviation(job, inside, observation, watched, given)
    figures = show(job, before, result, data_range, facts)
    notes = doubts(given.sigma, level / WHITE, prior.levels[1], WHITE)
    return Outcome(facts, figures, (photograph.about.note, *notes))


def _level(
    photograph: Photograph, pixels: Tensor, damage: Damage, given: Namespace
) -> tuple[float, str]:
    """Return the noise in units of white 255, and its source."""
    from ebrl.vision.noise import noise_levels

    if given.sigma is not None:
        return given.sigma, f"sigma {given.sigma:.1f}"
    estimated = 0.0
    if damage.kernel is not None:
        estimated = WHITE * noise_levels(pixels, None).mean().item()
    rounding = WHITE * photograph.about.rounding if damage.known is None else 0.0
    if rounding > estimated:
        return rounding, f"sigma {rounding:.1f} (of the JPEG)"
    return estimated, f"sigma {estimated:.1f}{' (estimated)' if damage.kernel is not None else ''}"


def _observed(pixels: Tensor, damage: Damage, deviation: float) -> tuple[Observation, Window]:
    """Return the observation, and the place of the photograph in its restoration."""
    from ebrl.vision.observations import Blurred, Cropped, Downsampled, Masked, padded
    from ebrl.vision.tiles import Window

    height, width = pixels.shape[-2:]
    if damage.known is not None:
        whole = Window(slice(0, height), slice(0, width))
        return Masked(pixels, damage.known.to(pixels.device), deviation), whole
    observation: Observation
    if damage.scale is not None:
        margin, factor = _fitting_margin(height, width, MARGIN), damage.scale
        observation = Downsampled(padded(pixels, margin), factor, deviation=deviation)
    else:
        assert damage.kernel is not None
        kernel = damage.kernel.to(pixels)
        margin, factor = _fitting_margin(height, width, MARGIN + max(kernel.shape)), 1
        observation = Blurred(padded(pixels, margin), kernel, deviation)
    rows, columns = (slice(factor * margin, factor * (margin + side)) for side in (height, width))
    return Cropped(observation, margin), Window(rows, columns)


def _fitting_margin(height: int, width: int, least: int) -> int:
    """Return a margin that gives both sides small prime factors, for fast transforms."""

    def is_smooth(number: int) -> bool:
        for factor in (2, 3, 5, 7):
            while number % factor == 0:
                number //= factor
        return number == 1

    for margin in range(least, least + 64):
        if is_smooth(height + 2 * margin) and is_smooth(width + 2 * margin):
            return margin
    return least


def _save_deviation(
    job: Job, inside: Window, observation: Observation, prior: Energy, given: Namespace
) -> str:
    """Write the deviation of possible images as a picture, and return its largest value.

    Of a stack it is the first page's.
    """
    import torch

    from ebrl.command.photographs.files import DEVIATION
    from ebrl.vision.files import save
    from ebrl.vision.photograph import Photograph
    from ebrl.vision.restoration import posterior

    generator = torch.Generator(observation.y.device).manual_seed(given.seed)
    found = posterior(observation, prior, generator=generator, samples=given.samples)
    over_colours = found.deviation.square().mean(-3, keepdim=True).sqrt()
    shown = inside.of(over_colours)
    pages = shown.reshape(-1, 1, *shown.shape[-2:])
    deviation = pages[0]
    picture = (255 * deviation / deviation.max()).round().byte().movedim(0, -1)
    save(Photograph(picture.cpu().numpy()), job.beside[DEVIATION])
    of_first = " (page 1)" if len(pages) > 1 else ""
    return f"   deviation up to {WHITE * deviation.max():.1f}{of_first}"
