"""The energy of the actions at one observation, with actions sampled from the policy on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from matplotlib.axes import Axes
from stable_baselines3.common.base_class import BaseAlgorithm

from ebrl.agents.soft_agent import SoftAgent
from ebrl.command.environments.evaluation import undisturbed_streams
from ebrl.command.pictures.landscapes import BLUE, ORANGE, draw_plane

SAMPLES = 2_048
GRID = 101  # points a dimension


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


def draw_actions(axes: Axes, agent: SoftAgent, observation: Any, unit: str) -> None:
    """Draw the energies of all actions, and a sample of the policy, at one observation.

    Args:
        axes: Where to draw.
        agent: Of discrete actions, or of one or two action dimensions.
        observation: As the agent sees it, normalised where it was trained on such.
        unit: Of the energies, which is that of the reward.
    """
    with undisturbed_streams():
        sampled = np.asarray(agent.sample_actions(observation, SAMPLES))
        greedy, _ = agent.predict(observation, deterministic=True)
    if isinstance(agent.action_space, spaces.Discrete):
        _draw_discrete(axes, agent, observation, sampled.reshape(-1), unit)
    elif agent.action_space.shape == (1,):
        _draw_line(axes, agent, observation, sampled, greedy, unit)
    else:
        _draw_box(axes, agent, observation, sampled, greedy, unit)


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


def _draw_box(
    axes: Axes, agent: Any, observation: Any, sampled: np.ndarray, greedy: np.ndarray, unit: str
) -> None:
    low, high = agent.action_space.low, agent.action_space.high
    grid = [np.linspace(low[i], high[i], GRID) for i in (0, 1)]
    actions = np.stack(np.meshgrid(*grid), axis=-1)  # (GRID, GRID, 2)
    flat = actions.reshape(-1, 2).astype(agent.action_space.dtype)
    heights = energies(agent, observation, flat).reshape(GRID, GRID)
    draw_plane(axes, grid, heights, sampled, f"energy ({unit})")
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


def energies(agent: Any, observation: Any, actions: np.ndarray) -> np.ndarray:
    """Return `agent.energy` `(n,)` of actions `(n, action_dim)`, or `(n,)` if discrete."""
    return torch.as_tensor(agent.energy(observation, actions)).detach().cpu().numpy().reshape(-1)
