"""Pictures of a run: its learning curve, and the energies that its policy samples from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import EngFormatter
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.command.agent_config import Configuration
from ebrl.command.environments import evaluation_environments
from ebrl.command.evaluation import undisturbed_streams
from ebrl.storage import replacing

SAMPLES = 2_048
GRID = 101  # points a dimension
MOMENTS = (0.0, 0.05, 0.5)  # of an episode, at which its landscape is drawn
LONGEST = 1_000  # steps of the episode that the observations are taken from
BLUE, ORANGE = "#2b5c8a", "#e07b39"


def draw_run(
    path: Path,
    configuration: Configuration,
    evaluations: list[dict[str, Any]],
    agent: OffPolicyAlgorithm,
) -> list[str]:
    """Draw a run to the PNG `path`, whole or not at all. What was left out, and why, as lines."""
    left_out = _why_no_landscape(agent)
    figure = Figure(figsize=(10, 4.2 if left_out else 7.6), layout="constrained")
    figure.suptitle(configuration.title, fontsize=12)
    rows = figure.subfigures(1 if left_out else 2, 1, squeeze=False)
    draw_learning_curve(rows[0, 0].subplots(), evaluations, configuration.settings.total_timesteps)
    if not left_out:
        draw_landscapes(rows[1, 0], configuration, agent)
    with replacing(path) as file:
        figure.savefig(file, dpi=150, format="png")
    return left_out


def draw_learning_curve(
    axes: Axes, evaluations: list[dict[str, Any]], total_timesteps: int
) -> None:
    """Mean return of each evaluation, its standard deviation, and every episode as a dot."""
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


def draw_landscapes(figure: FigureBase, configuration: Configuration, agent: Any) -> None:
    """The energy of the actions at moments of one greedy episode, with sampled actions on it.

    `agent` is an algorithm with `energy` and `sample_actions`, as those of `ebrl.agents` are.
    """
    normalization = agent.get_vec_normalize_env()
    scaled = configuration.settings.normalize in ("rewards", "both")
    unit = "normalised reward" if scaled else "reward"
    moments = _moments(configuration, agent)
    columns = 3 if len(moments) == 1 else len(moments)  # a single one stands in the middle
    grid = figure.add_gridspec(1, columns)
    first = (columns - len(moments)) // 2
    panels = [figure.add_subplot(grid[0, first + i]) for i in range(len(moments))]
    for axes, (step, observation) in zip(panels, moments.items(), strict=True):
        if normalization is not None:
            observation = normalization.normalize_obs(observation)
        with undisturbed_streams():
            sampled = np.asarray(agent.sample_actions(observation, SAMPLES))
            greedy, _ = agent.predict(observation, deterministic=True)
        if isinstance(agent.action_space, spaces.Discrete):
            _draw_discrete(axes, agent, observation, sampled.reshape(-1), unit)
        elif agent.action_space.shape == (1,):
            _draw_line(axes, agent, observation, sampled, greedy, unit)
        else:
            _draw_plane(axes, agent, observation, sampled, greedy, unit)
        axes.set_title(f"step {step} of an episode", fontsize=10)
    for inner in _inner_labels(panels):
        inner.set_ylabel("")


def _draw_line(
    axes: Axes, agent: Any, observation: Any, sampled: np.ndarray, greedy: np.ndarray, unit: str
) -> None:
    low, high = float(agent.action_space.low[0]), float(agent.action_space.high[0])
    grid = np.linspace(low, high, GRID, dtype=agent.action_space.dtype)
    axes.plot(grid, energies(agent, observation, grid[:, None]), color=BLUE, lw=1.8, zorder=3)
    axes.axvline(float(greedy[0]), color="black", ls="--", lw=1, label="greedy action")
    axes.set_xlabel("action")
    axes.set_ylabel(f"energy ({unit})", color=BLUE)
    density = axes.twinx()
    density.hist(
        sampled[:, 0],
        bins=32,
        range=(low, high),
        density=True,
        color=ORANGE,
        alpha=0.45,
    )
    density.set_ylabel("density of sampled actions", color=ORANGE)
    axes.set_zorder(density.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set_xlim(low, high)
    axes.legend(fontsize=8, loc="upper center")
    axes.margins(y=0.15)


def _draw_plane(
    axes: Axes, agent: Any, observation: Any, sampled: np.ndarray, greedy: np.ndarray, unit: str
) -> None:
    low, high = agent.action_space.low, agent.action_space.high
    first, second = (np.linspace(low[i], high[i], GRID) for i in (0, 1))
    grid = np.stack(np.meshgrid(first, second), axis=-1)  # (GRID, GRID, 2)
    flat = grid.reshape(-1, 2).astype(agent.action_space.dtype)
    heights = energies(agent, observation, flat).reshape(GRID, GRID)
    # Levels lie closer where energies are low: there the policy lives.
    levels = heights.min() + np.linspace(0, 1, 24) ** 2 * max(np.ptp(heights), 1e-6)
    filled = axes.contourf(first, second, heights, levels=levels, cmap="viridis")
    axes.set_box_aspect(1)
    axes.figure.colorbar(filled, ax=axes, label=f"energy ({unit})", shrink=0.8, format="%.3g")
    axes.plot(*sampled.T, ".", color=ORANGE, ms=3, alpha=0.7, label=f"{len(sampled)} samples")
    axes.plot(*greedy, "*", color="white", mec="black", ms=12, label="greedy action")
    axes.set(xlabel="action[0]", ylabel="action[1]")
    axes.legend(fontsize=8, loc="upper right")


def _draw_discrete(
    axes: Axes, agent: Any, observation: Any, sampled: np.ndarray, unit: str
) -> None:
    actions = np.arange(agent.action_space.n) + agent.action_space.start
    heights = energies(agent, observation, actions)
    axes.plot(actions, heights, "_", color=BLUE, ms=28, mew=3)
    axes.set_xticks(actions)
    axes.set_xlim(actions[0] - 0.6, actions[-1] + 0.6)
    axes.set_xlabel("action")
    axes.set_ylabel(f"energy ({unit})", color=BLUE)
    share = axes.twinx()
    share.bar(actions, [(sampled == a).mean() for a in actions], color=ORANGE, alpha=0.45)
    share.set_ylim(0, 1)
    share.set_ylabel(f"share of {len(sampled)} sampled actions", color=ORANGE)
    axes.set_zorder(share.get_zorder() + 1)
    axes.patch.set_visible(False)


def _inner_labels(panels: list[Axes]) -> list[Axes]:
    """Axes whose label repeats a neighbour's: left ones but the first, right ones but the last."""
    left = panels[1:]
    right = [axes for axes in panels[0].figure.axes if axes.yaxis.get_label_position() == "right"]
    return left + right[:-1]


def energies(agent: Any, observation: Any, actions: np.ndarray) -> np.ndarray:
    """`agent.energy` as an array (n,), for actions (n, action_dim) or (n,) if discrete."""
    return torch.as_tensor(agent.energy(observation, actions)).detach().cpu().numpy().reshape(-1)


def _moments(
    configuration: Configuration, agent: OffPolicyAlgorithm
) -> dict[int, np.ndarray | dict[str, np.ndarray]]:
    """{step: observation} at `MOMENTS` of one greedy episode from the first evaluation start."""
    environments = evaluation_environments(configuration, 1)
    environment = environments.envs[0]
    normalization = agent.get_vec_normalize_env()
    with undisturbed_streams():
        observation, _ = environment.reset(seed=configuration.settings.evaluation_seed)
        observations, over = [observation], False
        while not over and len(observations) < LONGEST:
            seen = normalization.normalize_obs(observation) if normalization else observation
            action, _ = agent.predict(seen, deterministic=True)
            observation, _, terminated, truncated, _ = environment.step(action)
            over = terminated or truncated
            if not over:  # nobody acts on the last one
                observations.append(observation)
    environments.close()
    return {int(m * len(observations)): observations[int(m * len(observations))] for m in MOMENTS}


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _why_no_landscape(agent: OffPolicyAlgorithm) -> list[str]:
    name, space = type(agent).__name__, agent.action_space
    if not (hasattr(agent, "energy") and hasattr(agent, "sample_actions")):
        return [f"The picture shows the learning curve only: {name} has no energy to draw."]
    if isinstance(space, spaces.Discrete):
        return []
    if isinstance(space, spaces.Box) and space.shape in ((1,), (2,)):
        return []
    return [f"The picture shows the learning curve only: {space} has more than two dimensions."]
