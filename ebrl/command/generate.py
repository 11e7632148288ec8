"""`ebrl generate`: new images, from noise along the levels of an energy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from jsonargparse import Namespace

from ebrl.command.arguments import TRUST, Count, Levels, Parser, Seed, Strength
from ebrl.command.bars import progress_bar
from ebrl.command.destinations import check_file
from ebrl.command.devices import add_device, device_of
from ebrl.command.errors import RunError, UsageError, did_you_mean, extra
from ebrl.command.wording import counted
from ebrl.vision import PACKAGES

if TYPE_CHECKING:
    from torch import Tensor

    from ebrl.energies import Energy
    from ebrl.sampling import Sampler

HELP = """
Generates images from the energy that comes with the package, trained on Fashion-MNIST, or from
that of a run of `ebrl fit`, and writes them as one picture, a grid, to --out. They start as noise
and follow the energy down its noise levels: more levels are slower and more exact.

A corrector moves the images at each level by the energy itself. With mala, a Metropolis test
accepts or rejects each move; the share of accepted moves, which is printed, measures their quality.

--label adds the energy of a classifier: -log of the probability of the class.
--strength multiplies it: 0 ignores the label, much more than 5 makes caricatures.
Labels: {classes}.

The same seed gives the same images.

examples:
  ebrl generate --out grid.png                                 64 images
  ebrl generate --count 16 --seed 7 --out grid.png
  ebrl generate --corrector mala --levels 30 --out grid.png
  ebrl generate --label sneaker --count 36 --out sneakers.png
  ebrl generate --run runs/faces/Denoising-0 --out faces.png   your own energy of images
"""
LARGEST = 20_000  # pixels a side of the picture
TOGETHER = 100  # images drawn at once, which bounds the memory
BAR = "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} levels, {remaining} left"


class Source(NamedTuple):
    """An energy to draw from."""

    energy: Energy
    shape: tuple[int, int, int]
    title: str


def main(arguments: list[str]) -> int:
    """Generate images into one picture."""
    given = _parse(arguments)
    label = _label(given.label)
    if label is not None and given.run is not None:
        raise UsageError("--label: the classifier knows Fashion-MNIST alone, leave --run out.")
    out = Path(given.out)
    with extra("vision", *PACKAGES):
        from ebrl.vision.fashion import CLASSES
        from ebrl.vision.files import save
        from ebrl.vision.grids import grid

        _expect_writable(out, given.overwrite)
        if given.run is None:
            source = _shipped(label, given.strength)
        else:
            source = _trained(given.run, trust=given.trust)
        _check_size(source, given)
        began = time.monotonic()
        images, acceptance = _draw(source, given)
        save(grid(images, scale=given.scale), out)
    wish = "" if label is None else f" of class {CLASSES[label]}"
    print(f"{source.title}: {counted(len(images), 'image')}{wish}, {given.levels} levels, ", end="")
    print(f"seed {given.seed}, {time.monotonic() - began:.0f} s")
    if given.corrector != "none":
        print(f"  accepted  {acceptance.nanmean():.2f}, from level to level ", end="")
        print(f"{acceptance[1:].min():.2f} to {acceptance[1:].max():.2f}")
    print(f"  picture   {out}")
    return 0


def _parse(arguments: list[str]) -> Namespace:
    from ebrl.vision.fashion import CLASSES

    parser = Parser("generate", HELP.format(classes=", ".join(CLASSES)))
    parser.add_argument("--out", required=True, help="the file of the picture, such as grid.png")
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing picture")
    parser.add_argument("--count", type=Count, default=64, help="how many images")
    parser.add_argument("--seed", type=Seed, default=0, help="the seed of all random numbers")
    parser.add_argument("--levels", type=Levels, default=18, help="levels of noise")
    parser.add_argument("--moves", type=Count, default=2, help="the corrector's moves at a level")
    parser.add_argument(
        "--scale", type=Count, default=2, help="factor by which the picture is enlarged"
    )
    parser.add_argument(
        "--corrector",
        type=Literal["none", "langevin", "mala"],
        default="none",
        help="what moves the images at every level",
    )
    parser.add_argument("--label", help="the class, by its name or its number from 0")
    parser.add_argument(
        "--strength", type=Strength, default=2.0, help="weight of the label's energy"
    )
    add_device(parser)
    parser.add_argument("--run", help="the folder of a run of `ebrl fit` on images")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser.read(arguments)


def _label(text: str | None) -> int | None:
    """Return the number of a class that is given by its name or number."""
    from ebrl.vision.fashion import CLASSES

    if text is None:
        return None
    if text.lower() in CLASSES:
        return CLASSES.index(text.lower())
    if text.isdecimal() and int(text) < len(CLASSES):
        return int(text)
    raise UsageError(
        f"--label: expected a number from 0 to {len(CLASSES) - 1} or one of {', '.join(CLASSES)}, "
        f"got {text}.{did_you_mean(text.lower(), CLASSES)}"
    )


def _expect_writable(out: Path, overwrite: bool) -> None:
    """Raise UsageError, before the work, for a file that is there or cannot be a picture."""
    from ebrl.vision.files import file_format
    from ebrl.vision.photograph import ImageError

    try:
        file_format(out)
    except ImageError as error:
        raise UsageError(f"--out: {error}.") from error
    check_file("--out", out, overwrite=overwrite)


def _check_size(source: Source, given: Namespace) -> None:
    """Raise UsageError, before the work, for a picture that is too large."""
    from ebrl.vision.files import SIDES, file_format

    side = given.scale * max(source.shape[1:]) * math.ceil(given.count**0.5)
    most = min(LARGEST, SIDES.get(file_format(Path(given.out)), LARGEST))
    if side > most:
        raise UsageError(
            f"--scale: expected a picture of at most {most:,} pixels a side, got {side:,}."
        )


def _shipped(label: int | None, strength: float) -> Source:
    """Return the energy of Fashion-MNIST, guided to a class if there is one."""
    import torch

    from ebrl.vision.generation import Guided
    from ebrl.vision.shipped import pretrained

    energy = pretrained("fashion")
    if label is not None and strength > 0:
        classifier = pretrained("fashion-classifier")
        # The difference is -log p(label | x), without the classifier's own density of x.
        wish = classifier.given(torch.tensor(label)) - classifier
        energy = Guided(energy, strength * wish)
    return Source(energy, (1, 28, 28), "Fashion-MNIST")


def _trained(folder: str, *, trust: bool) -> Source:
    """Return the energy of a run; UsageError for one that cannot start from noise."""
    import torch

    from ebrl.command.configs.energy_config import build, read_fit
    from ebrl.command.runs.folder import existing
    from ebrl.command.training.energy_training import restore_average
    from ebrl.training import take_rows
    from ebrl.vision.networks import DiffusionEnergy

    run = existing(folder, of="energy")
    configuration = read_fit(run.config, trust=trust)
    setup = build(configuration)
    if not isinstance(setup.energy, DiffusionEnergy):
        raise UsageError(
            f"--run: expected the run of an ebrl.vision.DiffusionEnergy, which knows every level "
            f"of noise, got one of a {type(setup.energy).__name__}."
        )
    steps = restore_average(setup, run)
    channels, height, width = take_rows(setup.data, torch.arange(1), setup.device)[0][0].shape
    energy = setup.energy.eval().requires_grad_(False)
    return Source(energy, (channels, height, width), f"{configuration.title}, step {steps:,}")


def _draw(source: Source, given: Namespace) -> tuple[Tensor, Tensor]:
    """Return the images `(count, channels, height, width)` and the acceptance `(levels,)`."""
    import torch

    from ebrl.vision.generation import generate, generation_levels

    device = device_of(given.device)
    energy = source.energy.to(device)
    generator = torch.Generator(device).manual_seed(given.seed)
    levels = generation_levels(rungs=given.levels).to(device)
    corrector = _corrector(given)
    images, accepted = [], []
    sizes = list(_parts(given.count))
    with progress_bar(BAR, total=len(sizes) * (len(levels) - 1)) as bar:
        for size in sizes:
            made = generate(
                energy,
                size,
                source.shape,
                generator=generator,
                levels=levels,
                corrector=corrector,
                progress=lambda *_: bar.update(),
            )
            images.append(made.x.cpu())
            accepted.append(size / given.count * made.acceptance)
    whole = torch.cat(images)
    if not whole.isfinite().all():
        raise RunError("the images grew without bound: try a smaller --strength, or more --levels.")
    return whole, torch.stack(accepted).sum(0)


def _corrector(given: Namespace) -> Sampler | None:
    from ebrl.kernels import MALA, ULA
    from ebrl.sampling import Sampler

    if given.corrector == "none":
        return None
    return Sampler(MALA() if given.corrector == "mala" else ULA(), steps=given.moves)


def _parts(count: int) -> Iterator[int]:
    for first in range(0, count, TOGETHER):
        yield min(TOGETHER, count - first)
