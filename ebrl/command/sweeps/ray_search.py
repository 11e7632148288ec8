"""The search of a sweep on a cluster: Ray Tune runs the trials, ASHA stops poor ones early.

Every trial trains as on one machine, in run folders inside the sweep's, which all machines must
share. A trial whose worker died resumes there from its checkpoints; a restarted driver continues by
`Tuner.restore`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler

from ebrl.command.environments.ray_clusters import joining
from ebrl.command.sweeps.report import Scored, report
from ebrl.command.sweeps.space import Grid, Plan, Range, claim, options
from ebrl.command.sweeps.trials import folder_of, train_run

NAME = "ray"  # Tune's own folder, inside the sweep's
FAILURES = 3  # times that a trial is restarted after its worker died


def search(plan: Plan, task: str, folder: Path, address: str) -> Iterator[str]:
    """Search one task on a cluster, yielding lines of output.

    Args:
        plan: What is searched.
        task: The environment.
        folder: Folder of the search; all machines see it.
        address: Address of the cluster; "local" starts one on this machine.

    Raises:
        RunError: If no cluster answers at the address, or no trial finished.
        UsageError: If the folder holds a search of other values or of another config.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, plan)
    _connect(address, plan.jobs)

    def trainable(parameters: dict[str, Any]) -> None:
        train_trial(plan, task, folder, parameters)

    trainable = tune.with_resources(trainable, {"cpu": 1})
    kept = folder / NAME
    if tune.Tuner.can_restore(str(kept)):
        tuner = tune.Tuner.restore(
            str(kept), trainable, resume_unfinished=True, resume_errored=True
        )
    else:
        tuner = _new_tuner(plan, folder, trainable)
    try:
        results = tuner.fit()
    finally:
        ray.shutdown()
    failed, tried = results.num_errors, len(results)
    yield from report(plan, task, folder, _scored(results), tried=tried, failed=failed)


def _new_tuner(plan: Plan, folder: Path, trainable: Any) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        param_space={name: _domain(one) for name, one in plan.space.items()},
        tune_config=tune.TuneConfig(
            metric="mean",
            mode="max",
            num_samples=1 if plan.grid else plan.trials,
            scheduler=_stopping(plan),
        ),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=FAILURES),
            verbose=0,
        ),
    )


def train_trial(plan: Plan, task: str, folder: Path, parameters: dict[str, Any]) -> None:
    """Train the runs of a trial on a worker; report the evaluations of the first to Tune."""
    where = folder / folder_of(parameters)
    scores: list[float] = []
    last = 0

    def seen(steps: int, mean: float) -> None:
        nonlocal last
        if not scores and steps > last:
            last = steps
            tune.report({"mean": mean, "timesteps": steps, "scores": []})

    for seed in range(plan.seeds):
        named = [*options(parameters), f"--agent.env={task}", f"--seed={seed}"]
        scores.append(train_run(where / f"seed-{seed}", plan.config, named, seen, Event()))
    mean = sum(scores) / len(scores)
    tune.report({"mean": mean, "timesteps": last, "scores": scores})


def _scored(results: tune.ResultGrid) -> list[Scored]:
    """Return the trials whose seeds all finished, without those that ASHA stopped."""
    each = [results[i] for i in range(len(results))]
    ends = [(result.config, (result.metrics or {}).get("scores")) for result in each]
    return [Scored(config, list(scores)) for config, scores in ends if config and scores]


def _domain(dimension: Grid | Range) -> Any:
    if isinstance(dimension, Grid):
        return tune.grid_search(list(dimension.values))
    low, high, log = dimension.low, dimension.high, dimension.logarithmic
    if dimension.whole:
        return (tune.lograndint if log else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if log else tune.uniform)(low, high)


def _connect(address: str, jobs: int) -> None:
    """Join a cluster, or start one here; RunError if none answers."""
    with joining(address):
        if address == "local":
            ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False)
        else:
            ray.init(address, log_to_driver=False)


def _stopping(plan: Plan) -> AsyncHyperBandScheduler | None:
    """Return ASHA over environment steps, if trials are to be stopped early."""
    if not plan.prune:
        return None
    return AsyncHyperBandScheduler(time_attr="timesteps", max_t=plan.timesteps, grace_period=1)
