"""The search of a sweep: Optuna proposes and records the trials."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from ebrl.command.errors import UsageError
from ebrl.command.sweeps.report import Scored, report, shown_values
from ebrl.command.sweeps.space import Grid, Plan, Range, claim, options
from ebrl.command.sweeps.trials import POLL, FailedError, folder_of, train_run
from ebrl.command.training.endings import stop_on_signals

ERROR = "error"  # of a trial that failed: what it said
RETRY_OF = "again"  # of a trial that is tried again: the number of the earlier one


def search(plan: Plan, task: str, folder: Path) -> Iterator[str]:
    """Search one task, yielding lines of output.

    A search that is called again continues: finished trials are kept; unfinished and failed ones
    resume from their checkpoints.

    Raises:
        UsageError: If another process searches in the folder, or it holds a search of other values
            or of another config.
        RunError: If no trial finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            claim(folder, plan)
            study = _open_study(plan, folder)
            yield from _run_trials(plan, task, folder, study)
            failed, tried = len(_failed(study)), len(_finished(study))
            yield from report(plan, task, folder, _scored(study), tried=tried, failed=failed)
    except Timeout as error:
        raise UsageError(f"{folder} is being searched by another process.") from error


def _open_study(plan: Plan, folder: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="sweep",
        storage=f"sqlite:///{folder.resolve() / 'study.db'}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner() if plan.prune else optuna.pruners.NopPruner(),
    )
    if not study.trials:
        for values in plan.grid:
            study.enqueue_trial({name: _choice(value) for name, value in values.items()})
    killed = study.get_trials(states=[TrialState.RUNNING])
    for trial in killed:
        study.tell(trial.number, state=TrialState.FAIL)
    for number, trial in sorted({one.number: one for one in killed + _failed(study)}.items()):
        study.enqueue_trial(trial.params, user_attrs={RETRY_OF: number})
    return study


def _run_trials(plan: Plan, task: str, folder: Path, study: optuna.Study) -> Iterator[str]:
    total = len(plan.grid) or plan.trials
    asking, stopping = threading.Lock(), threading.Event()
    begun = len(_finished(study))

    def next_trial() -> Trial | None:
        """Ask for a trial, seeded by the number of earlier ones: the same after a restart."""
        nonlocal begun
        with asking:
            if begun >= total or stopping.is_set():
                return None
            study.sampler = optuna.samplers.TPESampler(seed=plan.seed + begun)
            begun += 1
            return study.ask({name: _distribution(one) for name, one in plan.space.items()})

    def work() -> None:
        while (trial := next_trial()) is not None:
            said.put(_try(plan, task, folder, study, trial, stopping))

    said: SimpleQueue[str] = SimpleQueue()
    with stop_on_signals(stopping.set), ThreadPoolExecutor(plan.jobs) as pool:
        workers = [pool.submit(work) for _ in range(plan.jobs)]
        try:
            while not (all(worker.done() for worker in workers) and said.empty()):
                with suppress(Empty):
                    yield said.get(timeout=POLL)
        finally:
            stopping.set()
        for worker in workers:
            worker.result()


def _failed(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that failed by themselves and have not been tried again."""
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return [one for one in trials if ERROR in one.user_attrs and one.number not in repeated]


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that this search need not try, including those that failed in it."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return [*study.get_trials(deepcopy=False, states=states), *_failed(study)]


def _scored(study: optuna.Study) -> list[Scored]:
    done = study.get_trials(states=[TrialState.COMPLETE])
    return [Scored(trial.params, trial.user_attrs["scores"]) for trial in done]


def _choice(value: Any) -> Any:
    """Return a value as Optuna keeps it: lists and dictionaries as the text of an option."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _distribution(dimension: Grid | Range) -> BaseDistribution:
    if isinstance(dimension, Grid):
        return optuna.distributions.CategoricalDistribution([*map(_choice, dimension.values)])
    low, high, log = dimension.low, dimension.high, dimension.logarithmic
    if dimension.whole:
        return optuna.distributions.IntDistribution(int(low), int(high), log=log)
    return optuna.distributions.FloatDistribution(low, high, log=log)


def _try(
    plan: Plan, task: str, folder: Path, study: optuna.Study, trial: Trial, stop: threading.Event
) -> str:
    """Train the runs of a trial and report the result to the study; return a line about it."""
    where = folder / folder_of(trial.params)
    reported: set[int] = set()

    def seen(steps: int, mean: float) -> None:
        if plan.prune and steps not in reported:
            reported.add(steps)
            trial.report(mean, steps)
            if trial.should_prune():
                raise optuna.TrialPruned

    name = f"trial {trial.number}: {shown_values(trial.params)}"
    try:
        scores = [
            train_run(
                where / f"seed-{seed}",
                plan.config,
                [*options(trial.params), f"--agent.env={task}", f"--seed={seed}"],
                seen,
                stop,
            )
            for seed in range(plan.seeds)
        ]
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        return f"{name}   pruned"
    except FailedError as error:
        trial.set_user_attr(ERROR, str(error))
        study.tell(trial, state=TrialState.FAIL)
        return f"{name}   failed: {error}"
    trial.set_user_attr("scores", scores)
    study.tell(trial, float(np.mean(scores)))
    return f"{name}   {np.mean(scores):.2f}"
