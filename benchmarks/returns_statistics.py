"""The statistics and pictures of `returns.py`, by rliable (Agarwal et al. 2021).

A score is a return over the task's reference, SAC's published return after a million steps. The
interquartile mean is over seeds and tasks together, its interval a stratified bootstrap of 95 %.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from returns_agents import AGENTS, BFLOAT16, INGREDIENTS, TASKS
from rliable import library, metrics

RESAMPLES = 2_000
FEWEST = 3  # seeds of an interquartile mean with an interval
DECIDING = ("hopper", "walker2d", "ant")  # the tasks whose interquartile mean is compared
AVERAGED = "normalised critics"  # its evaluations act by the average of its weights
NEWEST = "newest weights"  # the same training's, acting by the newest
RIVAL = "SAC tuned"  # what the others are compared with


class Runs(NamedTuple):
    """The finished runs of one agent on one task."""

    seeds: list[int]
    steps: np.ndarray  # (evaluations,)
    returns: np.ndarray  # (seeds, evaluations), means over the episodes
    cpu_seconds: np.ndarray  # (runs on a CPU, evaluations)


def load(folder: Path) -> dict[str, dict[str, Runs]]:
    """Return the runs by task and agent, both in the order of `returns_agents`."""
    found: dict[str, dict[str, Runs]] = {}
    for task in TASKS:
        records = [json.loads(path.read_text()) for path in sorted((folder / task).glob("*.json"))]
        records += [  # beside those of a training of their own
            record | {"agent": NEWEST, "returns": record["newest_returns"]}
            for record in records
            if record["agent"] == AVERAGED and record.get("newest_returns")
        ]
        for name in AGENTS:
            own = sorted((r for r in records if r["agent"] == name), key=lambda r: r["seed"])
            if own:
                found.setdefault(task, {})[name] = Runs(
                    [record["seed"] for record in own],
                    np.array(own[0]["steps"]),
                    np.array([np.mean(record["returns"], -1) for record in own]),
                    np.array([r["cpu_seconds"] for r in own if r["cpu_seconds"]]),
                )
    return found


def interquartile_mean(scores: dict[str, np.ndarray]) -> dict[str, tuple[float, float, float]]:
    """Return the mean and its interval of each agent's scores `(seeds, tasks)`."""

    def estimate(values: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_iqm(values)])

    np.random.seed(0)  # noqa: NPY002, the stream that rliable draws from
    points, intervals = library.get_interval_estimates(scores, estimate, reps=RESAMPLES)
    return {name: (points[name][0], *intervals[name][:, 0]) for name in scores}


def at_the_end(runs: Runs) -> np.ndarray:
    return runs.returns[:, -1]


def tables(found: dict[str, dict[str, Runs]], heading: str) -> str:
    """Return a table a task: median, range and CPU seconds, steps and seeds stated."""
    lines = []
    for task, agents in found.items():
        lines += [
            f"### {TASKS[task].env}, {TASKS[task].steps:,} steps{heading}",
            "",
            "| agent | runs | return at the end, median (range) | mean over training | CPU s |",
            "|---|---|---|---|---|",
            *(row(name, runs) for name, runs in agents.items()),
            "",
        ]
    return "\n".join(lines)


def row(name: str, runs: Runs) -> str:
    """Return an agent's row in the table of a task."""
    end = at_the_end(runs)
    spread = f" ({end.min():,.0f} to {end.max():,.0f})" if len(end) > 1 else ""
    timed = len(runs.cpu_seconds) > 0
    seconds = f"{np.median(runs.cpu_seconds[:, -1]):,.0f}" if timed else "–"
    return (
        f"| {name} | {len(end)} | {np.median(end):,.0f}{spread} | "
        f"{np.median(runs.returns.mean(1)):,.0f} | {seconds} |"
    )


def only(
    found: dict[str, dict[str, Runs]], names: Iterable[str], fewest: int = 1
) -> dict[str, dict[str, Runs]]:
    """Return the runs of these agents, on the tasks where `fewest` of the agents have runs."""
    chosen = {
        task: {name: runs for name, runs in agents.items() if name in names}
        for task, agents in found.items()
    }
    return {task: agents for task, agents in chosen.items() if len(agents) >= fewest}


def decided(found: dict[str, dict[str, Runs]]) -> list[str]:
    """Return the deciding tasks on which the rival has enough seeds."""
    tasks = [task for task in DECIDING if RIVAL in found.get(task, {})]
    return [task for task in tasks if len(found[task][RIVAL].seeds) >= FEWEST]


def comparison(found: dict[str, dict[str, Runs]]) -> str:
    """Return the interquartile means over the decided tasks; "" where seeds are too few."""
    tasks = decided(found)
    names = [
        name
        for name in AGENTS
        if all(name in found[task] and len(found[task][name].seeds) >= FEWEST for task in tasks)
    ]
    if not tasks:
        return ""
    lines = [
        f"### Score over {', '.join(TASKS[task].env for task in tasks)}",
        "",
        "| agent | runs a task | interquartile mean (95 % interval) | of what tuned SAC has |",
        "|---|---|---|---|",
    ]
    scores = {}
    for name in names:
        seeds = min(len(found[task][name].seeds) for task in tasks)
        columns = [at_the_end(found[task][name])[:seeds] / TASKS[task].reference for task in tasks]
        scores[name] = np.stack(columns, 1)
    means = interquartile_mean(scores)
    rival = means[RIVAL][0]
    for name, (mean, low, high) in means.items():
        lines.append(
            f"| {name} | {len(scores[name])} | {mean:.3f} ({low:.3f} to {high:.3f}) | "
            f"{mean / rival:.2f} |"
        )
    return "\n".join([*lines, ""])


def curves(found: dict[str, dict[str, Runs]], path: Path) -> None:
    """Draw median and range of the returns over steps, above, and over CPU seconds, below.

    Agents with fewer than `FEWEST` seeds are left out.
    """
    figure, axes = plt.subplots(
        2, len(found), figsize=(3.4 * len(found), 5.2), squeeze=False, layout="constrained"
    )
    for column, (task, agents) in enumerate(found.items()):
        for name, runs in agents.items():
            if len(runs.seeds) < FEWEST:
                continue
            color = f"C{list(AGENTS).index(name)}"
            low, middle, high = np.quantile(runs.returns, [0, 0.5, 1], axis=0)
            timed = len(runs.cpu_seconds) > 0
            seconds = [np.median(runs.cpu_seconds, 0)] if timed else []
            for row, x in enumerate((runs.steps / 1_000, *seconds)):
                axes[row, column].plot(x, middle, color=color, label=name)
                axes[row, column].fill_between(x, low, high, color=color, alpha=0.15, lw=0)
        axes[0, column].set(title=TASKS[task].env, xlabel="thousands of steps")
        axes[1, column].set(xlabel="CPU seconds")
    axes[0, 0].set_ylabel("return")
    axes[1, 0].set_ylabel("return")
    handles = {
        label: h for ax in axes[0] for h, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(folder: Path) -> None:
    """Write `returns.md` beside the folder of the runs, and pictures.

    `returns.png` has the tasks that are decided, `returns_further.png` the others.
    """
    found = load(folder)
    ingredients = only(found, INGREDIENTS, fewest=2)  # beside the agent without any change
    found = only(found, [name for name in AGENTS if name not in INGREDIENTS or name == BFLOAT16])
    parts = [comparison(found), tables(found, ""), tables(ingredients, ", one change at a time")]
    text = "\n".join(parts)
    print(text)
    folder.with_suffix(".md").write_text(text)
    tasks = decided(found)
    further = {task: agents for task, agents in found.items() if task not in tasks}
    for name, shown in (
        ("returns.png", {task: found[task] for task in tasks}),
        ("returns_further.png", further),
    ):
        if shown:
            curves(shown, folder.with_name(name))
