"""`ebrl restore PHOTO…`: photographs that are blurred, too small or have holes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt

from ebrl.command.arguments import EightBit, Factor, Parser, Seed
from ebrl.command.batch import WHITE, Outcome, add_photographs, doubt, work_through
from ebrl.command.errors import UsageError, extra

if TYPE_CHECKING:
    from torch import Tensor

    from ebrl.command.photographs import Job
    from ebrl.energies import Energy
    from ebrl.vision.observations import Observation
    from ebrl.vision.tiles import Window

HELP = """
Restores photographs of which it is known what happened to them: files, folders and patterns, grey
or colour, of any size. Exactly one of

  --blur KERNEL   they are blurred: gaussian:1.6 or box:5 (in pixels), or the file of a kernel with
                  odd sides, a picture or a .npy, as a point of light looks in the photograph
  --scale N       they are too small, each pixel the mean of NxN: the result has N times their sides
  --mask FILE     parts are missing: white in this picture of the same size, the rest black

The result of NAME.EXT is NAME-restored.EXT beside it or in --out, in the same format, with its EXIF
and colour profile; the photographs themselves are never written to. For a single photograph there
is also NAME-before-after.png, the middle of it before (left) and after (right). One that cannot be
restored does not stop the others; the exit code is then 1.

--sigma is the noise in the photograph, in units of 8-bit images (black 0, white 255). For --blur it
is estimated where it is not given, and elsewhere taken to be none. With --samples there is also
NAME-deviation.png, of how unsure each pixel is: the deviation of so many possible images, the
largest white.

examples:
  ebrl restore photo.jpg --blur gaussian:1.6
  ebrl restore scans/ --blur kernel.npy --sigma 5 --out sharp/
  ebrl restore small.png --scale 2 --reference large.png       with PSNR and SSIM
  ebrl restore photo.png --mask scratches.png --samples 8
"""
MARGIN = 8  # unknown pixels around a photograph, in which its borders come to join
EXACT = 1e-3  # the deviation of what was measured without noise, of 1
MOST = 16  # times that a side may be enlarged


class Damage(NamedTuple):
    """What happened to the photographs: one of these."""

    kernel: Tensor | None
    scale: int | None
    known: Tensor | None  # (height, width), false where pixels are missing


def main(arguments: list[str]) -> int:
    """Restore the photographs; 0 if all were, else 1."""
    parser = Parser("restore", HELP)
    add_photographs(parser)
    damages = parser.add_mutually_exclusive_group(required=True)
    damages.add_argument("--blur", metavar="KERNEL", help="gaussian:1.6, box:5, or a kernel's file")
    damages.add_argument("--scale", type=Factor, metavar="N", help=f"2 to {MOST} times the sides")
    damages.add_argument("--mask", metavar="FILE", help="a picture, white where pixels are missing")
    parser.types["--scale"] = Factor
    parser.add_argument(
        "--sigma",
        type=EightBit,
        help="deviation of the noise, 0 to 255 in 8-bit units (default: 0; for --blur estimated)",
    )
    parser.add_argument(
        "--samples",
        type=NonNegativeInt,
        default=0,
        help="possible images to draw for NAME-deviation.png, which takes long",
    )
    parser.add_argument("--seed", type=Seed, default=0, help="of these")
    given = parser.read(arguments)
    if given.samples == 1:
        raise UsageError("--samples: expected at least 2, to see how they differ, got 1.")
    with extra("vision", "PIL", "skimage"):
        from ebrl.command.photographs import DEVIATION

        damage = _damage(given)
        beside = (DEVIATION,) if given.samples else ()
        return work_through(given, "restored", lambda job: _restore(job, damage, given), beside)


def _damage(given: Namespace) -> Damage:
    """Read what was given as the damage; raise UsageError where it cannot be that."""
    from ebrl.vision.damages import kernel, known

    option = "--blur" if given.blur is not None else "--mask"
    try:
        blur = None if given.blur is None else kernel(given.blur)
        whole = None if given.mask is None else known(given.mask)
    except (OSError, ValueError) as error:
        raise UsageError(f"{option}: {error}.") from error
    return Damage(blur, given.scale, whole)


def _restore(job: Job, damage: Damage, given: Namespace) -> Outcome:
    """Restore one photograph into its files."""
    from ebrl.command.photographs import DEVIATION, PICTURE
    from ebrl.vision.damages import enlarged
    from ebrl.vision.fidelity import fidelity
    from ebrl.vision.files import check_holds, load, save
    from ebrl.vision.grids import side_by_side
    from ebrl.vision.images import picture
    from ebrl.vision.noise import noise_levels
    from ebrl.vision.photograph import Photograph
    from ebrl.vision.restoration import restore
    from ebrl.vision.shipped import prior_of
    from ebrl.vision.tiles import Tiled

    image = load(job.source)
    check_holds(image, job.out)
    pixels, white, _ = picture(image)
    before = image if damage.scale is None else enlarged(image, damage.scale)
    shown, _, back = picture(before)
    clean = picture(load(job.reference)).pixels if job.reference else None
    was = None if clean is None else fidelity(shown, clean)
    estimates = given.sigma is None and damage.kernel is not None
    level = WHITE * noise_levels(pixels, None, white).item() if estimates else given.sigma or 0.0
    shipped = prior_of(pixels)
    prior = Tiled(shipped)
    observation, inside = _observed(pixels, damage, max(level / WHITE, EXACT))
    result = back(inside.of(restore(observation, prior)))
    save(result, job.out)
    facts = f"sigma {level:.1f}{' (estimated)' if estimates else ''}"
    if PICTURE in job.beside:
        save(side_by_side([before, result]), job.beside[PICTURE])
    if DEVIATION in job.beside:
        deviation = inside.of(_deviation(observation, prior, given))
        shown = (255 * deviation / deviation.max()).round().byte().movedim(0, -1)
        save(Photograph(shown.numpy()), job.beside[DEVIATION])
        facts += f"   deviation up to {WHITE * deviation.max():.1f}"
    now = None if clean is None else fidelity(picture(load(job.out)).pixels, clean)
    note = doubt(given.sigma, level, WHITE * shipped.levels[1])
    return Outcome(facts, (was, now) if was and now else None, note)


def _observed(pixels: Tensor, damage: Damage, deviation: float) -> tuple[Observation, Window]:
    """Return what was measured, and where the photograph lies in what is restored of it."""
    from ebrl.vision.observations import Blurred, Cropped, Downsampled, Masked, padded
    from ebrl.vision.tiles import Window

    height, width = pixels.shape[-2:]
    if damage.known is not None:
        whole = Window(slice(0, height), slice(0, width))
        return Masked(pixels, damage.known, deviation), whole
    observation: Observation
    if damage.scale is not None:
        margin, factor = MARGIN, damage.scale
        observation = Downsampled(padded(pixels, margin), factor, deviation=deviation)
    else:
        assert damage.kernel is not None
        margin, factor = MARGIN + max(damage.kernel.shape), 1
        observation = Blurred(padded(pixels, margin), damage.kernel, deviation)
    rows, columns = (slice(factor * margin, factor * (margin + side)) for side in (height, width))
    return Cropped(observation, margin), Window(rows, columns)


def _deviation(observation: Observation, prior: Energy, given: Namespace) -> Tensor:
    """Return how far possible images differ, `(1, height, width)`: over colours, in one."""
    import torch

    from ebrl.vision.restoration import posterior

    generator = torch.Generator().manual_seed(given.seed)
    found = posterior(observation, prior, generator=generator, samples=given.samples)
    return found.deviation.square().mean(-3, keepdim=True).sqrt()
