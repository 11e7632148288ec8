"""The tasks and agents of `returns.py`: each agent is a class and the arguments that it needs.

An agent runs on the tasks whose kind of action it takes.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import yaml
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.agents import EnergyActorCritic, SoftQ
from ebrl.agents.replayable import Replayable


class Task(NamedTuple):
    """An environment, how long to train in it, and what every agent is given there."""

    env: str
    steps: int
    every: int  # steps between evaluations
    episodes: int  # of an evaluation, from fixed starts
    reference: float  # SAC's published mean return after a million steps: one unit of score
    settings: dict[str, Any]
    discrete: bool = False


class Agent(NamedTuple):
    """An algorithm and the arguments that differ from its defaults."""

    algorithm: type[OffPolicyAlgorithm]
    arguments: dict[str, Any]

    @property
    def discrete(self) -> bool:
        return self.algorithm in (SoftQ, DQN)


BASELINES = Path(__file__).parents[1] / "configs" / "baselines"

MUJOCO = {"learning_starts": 5_000, "batch_size": 256}
TUNED = {"learning_rate": 1e-3}
TASKS = {
    "hopper": Task("Hopper-v5", 100_000, 5_000, 10, 2_800, MUJOCO),
    "walker2d": Task("Walker2d-v5", 100_000, 5_000, 10, 4_500, MUJOCO),
    "ant": Task("Ant-v5", 100_000, 5_000, 10, 5_700, MUJOCO),
    "half_cheetah": Task("HalfCheetah-v5", 100_000, 5_000, 10, 11_300, MUJOCO),
    "hopper_300k": Task("Hopper-v5", 300_000, 10_000, 10, 2_800, MUJOCO),
    "walker2d_300k": Task("Walker2d-v5", 300_000, 10_000, 10, 4_500, MUJOCO),
    "lunar_lander": Task("LunarLanderContinuous-v3", 100_000, 5_000, 20, 280, MUJOCO),
    "pendulum": Task(
        "Pendulum-v1",
        15_000,
        500,
        20,
        -150,
        {"learning_rate": 1e-3, "batch_size": 256, "policy_kwargs": {"net_arch": [64, 64]}},
    ),
    "cartpole": Task("CartPole-v1", 50_000, 2_500, 20, 500, {}, discrete=True),
    "acrobot": Task("Acrobot-v1", 100_000, 5_000, 20, -100, {}, discrete=True),
    "lunar_lander_discrete": Task("LunarLander-v3", 100_000, 5_000, 20, 280, {}, discrete=True),
}
NORMALISED = {"acting_candidates": 1, "moves": 0, "compile": True}
PLAIN = {"normalization": None, "target": "average", "policy_delay": 1, "adam_beta1": 0.9}
NORMALISED_Q = {
    "normalization": "batch",
    "target": "none",
    "policy_kwargs": {"optimizer_kwargs": {"betas": (0.5, 0.999)}},
}


def normalised(**changes: Any) -> Agent:
    """Return the agent with batch-normalised critics, with one ingredient changed."""
    return Agent(EnergyActorCritic, {**NORMALISED, **changes})


BFLOAT16 = "bfloat16"  # what the ingredients are compared with
INGREDIENTS: dict[str, dict[str, Any]] = {  # in bfloat16, which takes half the time
    BFLOAT16: {},
    "acting from the energy": {"acting_candidates": 4, "moves": 2},
    "2 moves": {"moves": 2},
    "target networks": {"target": "average"},
    "layer normalisation": {"normalization": "layer"},
    "no normalisation": {"normalization": None, "target": "average"},
    "normalised proposal": {"proposal_normalization": "batch"},
    "no delay": {"policy_delay": 1},
    "4 candidates": {"candidates": 4, "acting_candidates": 4},
    "4 candidates, acting plainly": {"candidates": 4},
    "16 candidates": {"candidates": 16, "acting_candidates": 16},
    "4 candidates, 4 components": {"candidates": 4, "acting_candidates": 4, "components": 4},
    "unit weights": {"unit_weights": True},
    "scaled rewards": {"scale_rewards": True},
    "unit weights, scaled rewards": {"unit_weights": True, "scale_rewards": True},
}
AGENTS = {
    "plain critics": Agent(EnergyActorCritic, {**PLAIN, "learning_rate": 3e-4}),
    "plain critics tuned": Agent(
        EnergyActorCritic, {**PLAIN, "acting_candidates": 1, "moves": 0, **TUNED}
    ),
    "normalised critics": normalised(),
    "newest weights": normalised(averaging=0),
    **{name: normalised(precision="bfloat16", **changes) for name, changes in INGREDIENTS.items()},
    "SAC": Agent(SAC, {}),
    "SAC tuned": Agent(SAC, TUNED),
    "SAC tuned, 2 updates": Agent(SAC, {**TUNED, "gradient_steps": 2}),
    "TQC": Agent(TQC, TUNED),
    "CrossQ": Agent(CrossQ, {}),  # critics 1,024 wide
    "CrossQ 256": Agent(CrossQ, {"policy_kwargs": {"net_arch": [256, 256]}}),
    "SoftQ": Agent(SoftQ, {}),
    "SoftQ, normalised critics": Agent(SoftQ, NORMALISED_Q),
    "SoftQ, scaled rewards": Agent(SoftQ, {"scale_rewards": True}),
    "SoftQ, normalised critics, scaled rewards": Agent(
        SoftQ, {**NORMALISED_Q, "scale_rewards": True}
    ),
    "DQN tuned": Agent(DQN, {}),  # by the task's file in configs/baselines
}


def tuned(name_of_task: str) -> dict[str, Any]:
    """Return the arguments that rl-baselines3-zoo found for DQN on a task."""
    config = yaml.safe_load((BASELINES / f"{name_of_task}.yaml").read_text())
    arguments = config["agent"]["init_args"]
    return {name: value for name, value in arguments.items() if name not in ("policy", "env")}


def make(name_of_task: str, name: str, seed: int, **changes: Any) -> OffPolicyAlgorithm:
    """Build the agent in an environment whose episodes can be run again after a kill.

    `changes` are arguments in place of the agent's.
    """
    task, (algorithm, arguments) = TASKS[name_of_task], AGENTS[name]
    if algorithm is DQN:
        arguments = tuned(name_of_task)
    settings = deepcopy({**task.settings, **arguments, **changes})  # SB3 writes into policy_kwargs
    # A replay of the run's length: the default of a million transitions only takes memory.
    settings.setdefault("buffer_size", task.steps)
    return algorithm(
        policy="MlpPolicy",
        env=Replayable(gym.make(task.env)),
        seed=seed,
        **settings,
    )
