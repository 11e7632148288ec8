"""Pictures of a run: its learning curve, and the energies that its policy samples from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import EngFormatter
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.agents.environments import seen_by
from ebrl.agents.soft_agent import SoftAgent
from ebrl.command.configs.agent_config import TrainConfiguration
from ebrl.command.environments.building import evaluation_environments
from ebrl.command.environments.evaluation import undisturbed_streams
from ebrl.command.pictures.action_landscapes import draw_actions, why_no_landscape
from ebrl.command.pictures.landscapes import BLUE, save_figure

MOMENTS = (0.0, 0.05, 0.5)  # of an episode, at which its landscape is drawn
LONGEST = 1_000  # steps of the episode that the observations are taken from


def draw_run(
    path: Path,
    configuration: TrainConfiguration,
    evaluations: list[dict[str, Any]],
    agent: OffPolicyAlgorithm,
) -> list[str]:
    """Draw a run to the PNG `path`, atomically.

    Returns:
        Lines that say what was left out, and why.
    """
    left_out = why_no_landscape(agent)
    figure = Figure(figsize=(10, 4.2 if left_out else 7.6), layout="constrained")
    figure.suptitle(configuration.title, fontsize=12)
    rows = figure.subfigures(1 if left_out else 2, 1, squeeze=False)
    draw_learning_curve(rows[0, 0].subplots(), evaluations, configuration.settings.total_timesteps)
    if not left_out:
        draw_landscapes(rows[1, 0], configuration, cast(SoftAgent, agent))
    save_figure(figure, path)
    return [f"The picture shows the learning curve only: {left_out}."] if left_out else []


def draw_learning_curve(
    axes: Axes, evaluations: list[dict[str, Any]], total_timesteps: int
) -> None:
    """Draw the mean return of each evaluation, its deviation, and every episode as a dot."""
    steps = np.array([entry["timesteps"] for entry in evaluations])
    mean = np.array([entry["mean"] for entry in evaluations])
    spread = np.array([entry["std"] for entry in evaluations])
    for entry in evaluations:
        episodes = entry["returns"]
        axes.plot([entry["timesteps"]] * len(episodes), episodes, ".", color=BLUE, alpha=0.25, ms=4)
    axes.fill_between(steps, mean - spread, mean + spread, color=BLUE, alpha=0.15, lw=0)
    axes.plot(steps, mean, "o-", color=BLUE, ms=4, lw=1.8)
    axes.annotate(
        f"{_number(mean[-1])} ± {_number(spread[-1])}",
        (steps[-1], mean[-1]),
        xytext=(6, 6),
        textcoords="offset points",
        color=BLUE,
        ha="right",
        weight="bold",
    )
    axes.set_xlim(0, max(total_timesteps, steps[-1]) * 1.02)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.set_title(
        f"Learning curve: mean ± sd of {len(evaluations[-1]['returns'])} greedy episodes",
        fontsize=10,
    )
    axes.grid(alpha=0.25)


def draw_landscapes(
    figure: FigureBase, configuration: TrainConfiguration, agent: SoftAgent
) -> None:
    """Draw the energy of the actions at moments of one greedy episode, with samples on it."""
    unit = energy_unit(configuration)
    moments = _moments(configuration, agent)
    columns = 3 if len(moments) == 1 else len(moments)  # a single one is centred
    grid = figure.add_gridspec(1, columns)
    first = (columns - len(moments)) // 2
    panels = [figure.add_subplot(grid[0, first + i]) for i in range(len(moments))]
    for axes, (step, observation) in zip(panels, moments.items(), strict=True):
        draw_actions(axes, agent, seen_by(agent, observation), unit)
        axes.set_title(f"step {step} of an episode", fontsize=10)
    for inner in _inner_labels(panels):
        inner.set_ylabel("")


def energy_unit(configuration: TrainConfiguration) -> str:
    """Return the unit of an agent's energies, for a label."""
    scaled = configuration.settings.normalize in ("rewards", "both")
    return "normalised reward" if scaled else "reward"


def _inner_labels(panels: list[Axes]) -> list[Axes]:
    """Axes whose label repeats a neighbour's: left ones but the first, right ones but the last."""
    left = panels[1:]
    right = [axes for axes in panels[0].figure.axes if axes.yaxis.get_label_position() == "right"]
    return left + right[:-1]


def _moments(
    configuration: TrainConfiguration, agent: OffPolicyAlgorithm
) -> dict[int, np.ndarray | dict[str, np.ndarray]]:
    """Return {step: observation} at `MOMENTS` of one greedy episode."""
    environments = evaluation_environments(configuration, 1)
    environment = environments.envs[0]
    with undisturbed_streams():
        observation, _ = environment.reset(seed=configuration.settings.evaluation_seed)
        observations, over = [observation], False
        while not over and len(observations) < LONGEST:
            action, _ = agent.predict(seen_by(agent, observation), deterministic=True)
            observation, _, terminated, truncated, _ = environment.step(action)
            over = terminated or truncated
            if not over:  # no action follows the last one
                observations.append(observation)
    environments.close()
    return {int(m * len(observations)): observations[int(m * len(observations))] for m in MOMENTS}


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
