"""The energy of the actions at one observation, with actions sampled from the policy on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from matplotlib.axes import Axes
from stable_baselines3.common.base_class import BaseAlgorithm

from ebrl.agents.soft_agent import SoftAgent
from ebrl.command.environments.evaluation import undisturbed_streams
from ebrl.command.pictures.landscapes import BLUE, ORANGE, draw_plane

Redraw = Callable[[Any], None]  # shows the energies at another observation

SAMPLES = 2_048
GRID = 101  # points a dimension
BINS = 32  # of the sampled actions


def why_no_landscape(agent: BaseAlgorithm) -> str:
    """Return the reason why an agent's energies cannot be drawn, '' where they can."""
    space = agent.action_space
    if not isinstance(agent, SoftAgent):
        return f"{type(agent).__name__} has no energy to draw"
    if isinstance(space, spaces.Discrete):
        return ""
    if isinstance(space, spaces.Box) and space.shape in ((1,), (2,)):
        return ""
    return f"{space} has more than two dimensions"


def draw_actions(axes: Axes, agent: SoftAgent, observation: Any, unit: str) -> Redraw | None:
    """Draw the energies of all actions, and a sample of the policy, at one observation.

    Args:
        axes: Where to draw.
        agent: An agent with discrete actions, or with one or two action dimensions.
        observation: As the agent sees it, normalised where it was trained on such.
        unit: Unit of the energies, which is that of the reward.

    Returns:
        What shows another observation in the same picture; None for two action dimensions, which
        are drawn anew.
    """
    if isinstance(agent.action_space, spaces.Discrete):
        return _draw_discrete(axes, agent, observation, unit)
    if agent.action_space.shape == (1,):
        return _draw_line(axes, agent, observation, unit)
    _draw_box(axes, agent, observation, unit)
    return None


def _acted(agent: SoftAgent, observation: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a sample of the policy and its greedy action."""
    with undisturbed_streams():
        sampled = np.asarray(agent.sample_actions(observation, SAMPLES))
        greedy, _ = agent.predict(observation, deterministic=True)
    return sampled, np.asarray(greedy)


def _draw_line(axes: Axes, agent: Any, observation: Any, unit: str) -> Redraw:
    low, high = float(agent.action_space.low[0]), float(agent.action_space.high[0])
    grid = np.linspace(low, high, GRID, dtype=agent.action_space.dtype)
    (line,) = axes.plot(grid, np.zeros(GRID), color=BLUE, lw=1.8, zorder=3)
    best = axes.axvline(low, color="black", ls="--", lw=1, label="greedy action")
    axes.set_xlabel("action")
    axes.set_ylabel(f"energy ({unit})", color=BLUE)
    density = axes.twinx()
    edges = np.linspace(low, high, BINS + 1)
    bars = density.bar(
        edges[:-1], np.zeros(BINS), np.diff(edges), align="edge", color=ORANGE, alpha=0.45
    )
    density.set_ylabel("density of sampled actions", color=ORANGE)
    axes.set_zorder(density.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set_xlim(low, high)
    axes.legend(fontsize=8, loc="upper center")
    axes.margins(y=0.15)

    def redraw(observation: Any) -> None:
        sampled, greedy = _acted(agent, observation)
        line.set_ydata(energies(agent, observation, grid[:, None]))
        best.set_xdata([float(greedy[0])] * 2)
        for bar, height in zip(bars, np.histogram(sampled, edges, density=True)[0], strict=True):
            bar.set_height(height)
        _rescale(axes)
        _rescale(density)

    redraw(observation)
    return redraw


def _rescale(axes: Axes) -> None:
    """Fit the vertical axis to its artists as they are now."""
    axes.relim()
    axes.autoscale_view(scalex=False)


def _draw_box(axes: Axes, agent: Any, observation: Any, unit: str) -> None:
    sampled, greedy = _acted(agent, observation)
    low, high = agent.action_space.low, agent.action_space.high
    grid = [np.linspace(low[i], high[i], GRID) for i in (0, 1)]
    actions = np.stack(np.meshgrid(*grid), axis=-1)  # (GRID, GRID, 2)
    flat = actions.reshape(-1, 2).astype(agent.action_space.dtype)
    heights = energies(agent, observation, flat).reshape(GRID, GRID)
    draw_plane(axes, grid, heights, sampled, f"energy ({unit})")
    axes.plot(*greedy, "*", color="white", mec="black", ms=12, label="greedy action")
    axes.set(xlabel="action[0]", ylabel="action[1]")
    axes.legend(fontsize=8, loc="upper right")


def _draw_discrete(axes: Axes, agent: Any, observation: Any, unit: str) -> Redraw:
    actions = np.arange(agent.action_space.n) + agent.action_space.start
    (marks,) = axes.plot(actions, np.zeros(len(actions)), "_", color=BLUE, ms=28, mew=3)
    axes.set_xticks(actions)
    axes.set_xlim(actions[0] - 0.6, actions[-1] + 0.6)
    axes.set_xlabel("action")
    axes.set_ylabel(f"energy ({unit})", color=BLUE)
    share = axes.twinx()
    bars = share.bar(actions, np.zeros(len(actions)), color=ORANGE, alpha=0.45)
    share.set_ylim(0, 1)
    share.set_ylabel(f"share of {SAMPLES} sampled actions", color=ORANGE)
    axes.set_zorder(share.get_zorder() + 1)
    axes.patch.set_visible(False)

    def redraw(observation: Any) -> None:
        sampled, _ = _acted(agent, observation)
        marks.set_ydata(energies(agent, observation, actions))
        for bar, action in zip(bars, actions, strict=True):
            bar.set_height((sampled == action).mean())
        _rescale(axes)

    redraw(observation)
    return redraw


def energies(agent: Any, observation: Any, actions: np.ndarray) -> np.ndarray:
    """Return `agent.energy` `(n,)` of actions `(n, action_dim)`, or `(n,)` if discrete."""
    return torch.as_tensor(agent.energy(observation, actions)).detach().cpu().numpy().reshape(-1)
