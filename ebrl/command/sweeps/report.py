"""The result of a sweep: its best trials, and the config of the best one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ebrl.command.compare import write_comparison
from ebrl.command.errors import RunError, UsageError
from ebrl.command.runs.folder import Run, write
from ebrl.command.sweeps.space import Plan
from ebrl.command.sweeps.trials import folder_of
from ebrl.command.wording import counted

SHOWN = 5  # best trials in the table
RETRY_HINT = "The same command tries those that failed again."


class Scored(NamedTuple):
    """A finished trial."""

    parameters: dict[str, Any]
    scores: list[float]  # the last mean return of each seed

    @property
    def value(self) -> float:
        return float(np.mean(self.scores))


def report(
    plan: Plan, task: str, folder: Path, done: list[Scored], *, tried: int, failed: int
) -> Iterator[str]:
    """Write the best config and yield the table of the best trials.

    Args:
        plan: What was searched.
        task: The environment.
        folder: Folder of the search.
        done: The finished trials.
        tried: The number of all trials.
        failed: The number of those that failed.

    Raises:
        RunError: If no trial finished.
    """
    if not done:
        raise RunError(
            f"{task}: no trial came to its end; what they said: {folder}/*/*.log. {RETRY_HINT}"
        )
    ranked = sorted(done, key=lambda trial: -trial.value)
    trials, seeds = counted(tried, "trial"), counted(plan.seeds, "seed")
    yield f"{task}: the best of {trials}, {seeds}{' each' if tried > 1 else ''}"
    for trial in ranked[:SHOWN]:
        name = folder_of(trial.parameters)
        yield f"  {trial.value:10.2f}   {shown_values(trial.parameters)}   ({name})"
    _write_best(plan, folder, ranked[0], len(done))
    if failed:
        logs = f"what they said: {folder}/*/*.log. {RETRY_HINT}"
        yield f"  failed   {counted(failed, 'trial')}; {logs}"
    yield f"  best     {folder / 'best.yaml'}"
    if plan.varied == ["agent"]:  # trials are then methods
        yield from _compared(plan, folder, done)


def _compared(plan: Plan, folder: Path, done: list[Scored]) -> Iterator[str]:
    """Compare the trials as methods, into the folder of the search, where rliable is there."""
    trials = [folder / folder_of(trial.parameters) for trial in done]
    runs = [str(trial / f"seed-{seed}") for trial in trials for seed in range(plan.seeds)]
    try:
        _, paths = write_comparison(runs, folder, overwrite=True)
    except (RunError, UsageError) as error:  # such as without rliable
        yield f"  not compared: {error}"
        return
    yield f"  compared {paths[0]}"


def shown_values(parameters: dict[str, Any]) -> str:
    """Return the values of a trial as text."""
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in parameters.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items()) or "the config as it is"


def _write_best(plan: Plan, folder: Path, best: Scored, trials: int) -> None:
    """Write the config of the best trial for `ebrl train`, with its scores."""
    run = Run(folder / folder_of(best.parameters) / "seed-0")
    config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    del config["run"], config["seed"]
    scores = ", ".join(f"{score:.2f}" for score in best.scores)
    head = (
        f"# The best of {counted(trials, 'trial')}: return {best.value:.2f}, the mean over "
        f"{counted(plan.seeds, 'seed')} ({scores}).\n"
    )
    write(folder / "best.yaml", head + yaml.safe_dump(config, sort_keys=False))
