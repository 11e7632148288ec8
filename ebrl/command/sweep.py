"""`ebrl sweep CONFIG KEY=VALUES…`: search for a config's best values, over seeds and tasks."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ebrl.command.arguments import Count, Parser, Seed
from ebrl.command.errors import RunError, UsageError, extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jsonargparse import Namespace

    from ebrl.command.sweeps.space import Grid, Plan, Range

    Search = Callable[[Plan, str, Path], Iterator[str]]

HELP = """
Trains many runs of one config and finds the best values of its keys. Each KEY=VALUES is

  agent.batch_size=64,256            a grid: every combination of the grids is tried
  agent.learning_rate=1e-4:1e-2:log  a range, on a logarithmic scale; without :log a plain one
  agent.moves=0:8:int                a range of whole numbers; with :logint a logarithmic one
  agent=ebrl.agents.EnergyActorCritic,stable_baselines3.SAC    a choice of classes

Without a range, each combination is a trial; with one, Optuna's TPE chooses the values of --trials
trials. A trial trains --seeds runs, with the seeds 0, 1, ...; its score is the mean return of their
last evaluations. Each task of --env is searched separately.

Writes, into --out (sweeps/NAME),

  TASK/study.db                     every trial, as Optuna keeps them in SQLite
  TASK/trial-ID/seed-N/             each run, as `ebrl train` writes it
  TASK/best.yaml                    the best config, with its figures: `ebrl train` takes it
  TASK/comparison.*                 what `ebrl compare` writes, if only the agent varies

--ray searches on a cluster, by Ray Tune: it draws the ranges at random and gives each trial one
CPU. Without an address it starts Ray here, with --jobs CPUs; all machines must see --out.

The same command goes on after a kill: finished trials are kept; the others, and those that failed,
resume from their checkpoints. With --jobs 1 the result is that of an undisturbed sweep. A task in
which every trial fails does not stop the others; the exit code is then 1.

examples:
  ebrl sweep pendulum agent.learning_rate=1e-4:1e-2:log --trials 16 --seeds 3
  ebrl sweep pendulum agent=ebrl.agents.EnergyActorCritic,stable_baselines3.SAC --seeds 5
  ebrl sweep hopper agent.moves=0,2 --env Hopper-v5,Walker2d-v5 --seeds 5 --jobs 8
  ebrl sweep hopper agent.learning_rate=1e-4:1e-2:log --trials 100 --prune --ray auto
"""


def main(arguments: list[str]) -> int:
    """Search over the values in the arguments after the config."""
    parser = Parser("sweep", HELP)
    parser.add_argument("config", metavar="CONFIG", help="a file, or the name of a shipped config")
    parser.add_argument(
        "values", nargs="*", metavar="KEY=VALUES", help="a key and the values to try"
    )
    parser.add_argument(
        "--env", help="the tasks, with commas between (default: that of the config)"
    )
    parser.add_argument("--seeds", type=Count, default=1, help="runs of each trial")
    parser.add_argument(
        "--trials", type=Count, default=20, help="how many trials, if there is a range"
    )
    parser.add_argument(
        "--jobs", type=Count, default=1, help="how many runs train at once, each on one thread"
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="search by Ray Tune, on a cluster",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="stop poor trials early: those below the median, with --ray by ASHA",
    )
    parser.add_argument("--seed", type=Seed, default=0, help="the seed of the search")
    parser.add_argument("--out", help="the folder of the sweep (default: sweeps/NAME)")
    return _sweep(parser.read(arguments))


def _sweep(given: Namespace) -> int:
    from ebrl.command.configs.agent_config import read
    from ebrl.command.configs.files import find
    from ebrl.command.destinations import make_folder
    from ebrl.command.environments.building import make
    from ebrl.command.sweeps.space import Plan, dimensions, options

    config = find(given.config, "train")
    space = dimensions(given["values"])
    first = options({name: one.first for name, one in space.items()})
    configuration = read(config, first, trust=True)  # errors come before the work
    _check_ranges(config, space)
    tasks = given.env.split(",") if given.env else [configuration.environment]
    for task in tasks:
        make(task, configuration.settings.env_kwargs, configuration.settings.wrappers).close()
    search = _searcher(given.ray)
    out = make_folder("--out", Path(given.out or f"sweeps/{configuration.settings.name}"))
    plan = Plan(  # of plain numbers, valid on every machine
        config=config.resolve(),
        space=space,
        seeds=int(given.seeds),
        trials=int(given.trials),
        jobs=int(given.jobs),
        prune=given.prune,
        seed=int(given.seed),
        timesteps=configuration.settings.total_timesteps,
        text=configuration.text,
    )
    return _search_each(tasks, search, plan, out)


def _check_ranges(config: Path, space: dict[str, Grid | Range]) -> None:
    """Raise UsageError, before any trial, where a range has numbers that its key does not take."""
    from ebrl.command.configs.agent_config import read
    from ebrl.command.sweeps.space import Range, options

    ranges = {name: one.middle for name, one in space.items() if isinstance(one, Range)}
    try:
        read(config, options(ranges), trust=True)
    except UsageError as error:
        raise UsageError(f"{error} A range of whole numbers is low:high:int.") from error


def _search_each(tasks: list[str], search: Search, plan: Plan, out: Path) -> int:
    """Search every task, whatever became of those before it; return the exit code."""
    failed = []
    for task in tasks:
        try:
            for line in search(plan, task, out / task.replace("/", "_").replace(":", "_")):
                print(line)
        except (RunError, UsageError) as error:  # noqa: PERF203, few tasks
            if len(tasks) == 1:
                raise
            print(f"ebrl: {error}", file=sys.stderr)
            failed.append(task)
    if len(tasks) > 1:
        print(f"Done: {len(tasks) - len(failed)} tasks searched, {len(failed)} not.")
        for task in failed:
            print(f"  not {task}")
    return 1 if failed else 0


def _searcher(address: str | None) -> Search:
    """Return what searches one task, here or on a cluster, and yields lines of output."""
    if address is None:
        with extra("sweep", "optuna"):
            from ebrl.command.sweeps.search import search

        return search
    with extra("ray", "ray"):
        from ebrl.command.sweeps import ray_search

    return partial(ray_search.search, address=address)
