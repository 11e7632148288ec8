"""`ebrl sample RUN`: draw from the energy of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jsonargparse import Namespace

from ebrl.command.arguments import Count, Parser, Seed
from ebrl.command.destinations import check_file
from ebrl.command.devices import add_device, device_of
from ebrl.command.errors import RunError
from ebrl.command.wording import counted

HELP = """
Draws from the energy that a run of `ebrl fit` trained, with the sampler of its config, from
starting points drawn from the reference distribution of the sampler's space. Writes the samples,
one per row, to --out, as an array (.npy) or a table (.csv). An existing file is overwritten only
with --overwrite. On a line or in the plane, a .png of the same name shows the energy with the
samples. Without --out, RUN/samples.npy and its picture are replaced.

examples:
  ebrl sample runs/two_moons/persistent-0
  ebrl sample runs/two_moons/persistent-0 --n 10000 --out moons.csv --seed 7
"""


def main(arguments: list[str]) -> int:
    """Sample from the run in `arguments[0]`."""
    parser = Parser("sample", HELP)
    parser.add_run()
    parser.add_argument("--n", type=Count, default=1_000, help="how many samples")
    parser.add_argument("--seed", type=Seed, default=0, help="the seed of all random numbers")
    parser.add_argument(
        "--out", help="the file of the samples, .npy or .csv (default: RUN/samples.npy)"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing files")
    add_device(parser)
    return _sample(parser.read(arguments))


def _sample(given: Namespace) -> int:
    from ebrl.command.runs.folder import existing

    run = existing(given.run, of="energy")
    out = run.folder / "samples.npy" if given.out is None else Path(given.out)
    overwrite = given.overwrite or given.out is None
    check_file("--out", out, (".npy", ".csv"), overwrite=overwrite)

    import torch

    from ebrl.command.configs.energy_config import build, read_fit
    from ebrl.command.pictures.energy_pictures import draw, picture, shown, why_no_picture
    from ebrl.command.training.energy_training import restore_average

    configuration = read_fit(run.config, trust=given.trust)
    device = device_of(given.device)
    setup = build(configuration, device)
    steps = restore_average(setup, run)
    if setup.energy.takes_condition:
        raise RunError(
            "the energy is conditional: sample it from Python, sampler.sample(energy.given(c), ...)"
        )
    if setup.sampler is None:
        raise RunError(f"{run.config} names no sampler: add one, as `ebrl fit --help` shows it.")
    data, beside = shown(setup.data), out.with_suffix(".png")
    has_picture = not why_no_picture(setup.energy, data)
    if has_picture:
        check_file("--out", beside, overwrite=overwrite)
    generator = torch.Generator(device).manual_seed(given.seed)
    x = draw(setup.energy, setup.sampler, given.n, generator).cpu()
    _write(out, x.numpy())
    print(f"{configuration.title}, after {steps:,} steps: {counted(given.n, 'sample')}")
    print(f"  samples  {out}")
    if has_picture:
        picture(beside, configuration.title, setup.energy.cpu(), data, x)
        print(f"  picture  {beside}")
    return 0


def _write(path: Path, samples: np.ndarray) -> None:
    """Write a file atomically."""
    from ebrl.storage import replacing

    with replacing(path) as file:
        if path.suffix == ".npy":
            np.save(file, samples)
        else:
            np.savetxt(file, samples.reshape(len(samples), -1), delimiter=",")
