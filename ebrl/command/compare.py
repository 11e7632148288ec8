"""`ebrl compare RUN…`: learning curves and scores of many runs, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ebrl.command.arguments import Count, Parser, Seed
from ebrl.command.destinations import check_file, make_folder
from ebrl.command.errors import extra

HELP = """
Compares methods over seeds and tasks. A RUN is the folder of a run of `ebrl train`, a folder with
SB3's evaluations.npz, such a file, or a file of SB3's Monitor (*.monitor.csv). Runs of one method
on one task count as its seeds. Runs of ebrl know their method and task. For other files write both
before the name, METHOD@TASK=FILE. METHOD=FILE is enough for a single task. Without METHOD, the
method is the name of the file's folder up to its last dash or underscore.

Writes into --out, where it overwrites existing files only with --overwrite,

  comparison.png    learning curves over steps and over CPU seconds, interquartile means of the
                    last evaluations, performance profiles
  comparison.md     the table of scores, and the probability that one method improves on another
  comparison.csv    the curves: task, method, steps, interquartile mean, its interval

Intervals are 95 % intervals of the stratified bootstrap over seeds (Agarwal et al. 2021, by
rliable). Over several tasks, returns are scaled to the lowest and highest mean that any run has on
a task.

examples:
  ebrl compare runs/pendulum/*
  ebrl compare runs/*/EnergyActorCritic-* runs/*/SAC-* --out figures/
  ebrl compare runs/hopper/SAC-0 ppo@Hopper-v5=logs/ppo_1/evaluations.npz
"""
FILES = ("comparison.png", "comparison.md", "comparison.csv")
REPETITIONS = 2_000


def main(arguments: list[str]) -> int:
    """Compare the runs that are named."""
    parser = Parser("compare", HELP)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders and files of runs")
    parser.add_argument("--out", default=".", help="the folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing results")
    parser.add_argument(
        "--repetitions", type=Count, default=REPETITIONS, help="resamples of the bootstrap"
    )
    parser.add_argument("--seed", type=Seed, default=0, help="the seed of the bootstrap")
    given = parser.read(arguments)
    report, paths = write_comparison(
        given.runs, Path(given.out), given.overwrite, given.repetitions, given.seed
    )
    print(report)
    for path in paths:
        print(f"  -> {path}")
    return 0


def write_comparison(
    runs: Sequence[str], out: Path, overwrite: bool, repetitions: int = REPETITIONS, seed: int = 0
) -> tuple[str, list[Path]]:
    """Compare runs, write the results into a folder; return the report and the files."""
    with extra("compare", "rliable", "arch"):
        import rliable  # noqa: F401, fails before the work and not after it

    from ebrl.command.pictures.comparison_pictures import draw
    from ebrl.command.runs.comparison import Bootstrap, compare, write_table
    from ebrl.command.runs.curves import read_curves
    from ebrl.command.runs.folder import write

    curves = read_curves(runs)
    make_folder("--out", out)
    paths = [out / name for name in FILES]
    for path in paths:
        check_file("--out", path, overwrite=overwrite)
    comparison = compare(curves, Bootstrap(repetitions, seed))
    report = comparison.markdown()
    picture, page, table = paths
    write(page, report)
    write_table(table, comparison)
    draw(picture, comparison)
    return report, paths
