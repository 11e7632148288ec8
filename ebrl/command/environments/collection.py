"""Episodes with every transition, as arrays and as a Minari dataset."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.agents.environments import seen_by
from ebrl.agents.observations import map_arrays
from ebrl.command.configs.agent_config import TrainConfiguration
from ebrl.command.environments.building import make
from ebrl.command.environments.evaluation import undisturbed_streams
from ebrl.command.environments.watched import Watched
from ebrl.command.errors import RunError, UsageError, extra

# Observations (T + 1, ...), of a dictionary by its keys; actions, rewards and flags (T, ...).
Episode = dict[str, Any]


def play_episodes(
    agent: OffPolicyAlgorithm,
    configuration: TrainConfiguration,
    first_seed: int,
    count: int,
    *,
    greedy: bool,
) -> Iterator[Episode]:
    """Play episodes of at most `evaluation_steps` steps, each started from the next seed."""
    name, settings = configuration.environment, configuration.settings
    environment = Watched(make(name, settings.env_kwargs, settings.wrappers), name)
    with undisturbed_streams(), closing(environment):
        for seed in range(first_seed, first_seed + count):
            yield _play(agent, environment, seed, settings.evaluation_steps, greedy=greedy)


def _play(
    agent: OffPolicyAlgorithm, environment: gym.Env, seed: int, longest: int, *, greedy: bool
) -> Episode:
    observation, _ = environment.reset(seed=seed)
    seen, actions = [observation], []
    steps: list[Any] = []
    over = False
    while not over:
        action, _ = agent.predict(seen_by(agent, observation), deterministic=greedy)
        observation, reward, terminated, truncated, _ = environment.step(action)
        truncated = truncated or len(steps) + 1 >= longest
        over = terminated or truncated
        seen.append(observation)
        actions.append(action)
        steps.append((float(reward), terminated, truncated))
    rewards, terminations, truncations = map(np.array, zip(*steps, strict=True))
    return {
        "observations": map_arrays(lambda *each: np.stack(each), *seen),
        "actions": np.stack(actions),
        "rewards": rewards,
        "terminations": terminations,
        "truncations": truncations,
    }


def check_name(identifier: str) -> None:
    """Raise UsageError for a name that Minari refuses or has already, before anything is played.

    Raises:
        RunError: If Minari is not installed.
    """
    with extra("offline", "minari"):
        import minari
        from minari.dataset.minari_dataset import parse_dataset_id
    try:
        parse_dataset_id(identifier)
    except (ValueError, TypeError) as error:  # a TypeError for a name without a version
        raise UsageError(f"--minari: expected NAMESPACE/NAME-v0, got {identifier}.") from error
    if identifier in minari.list_local_datasets():
        raise UsageError(f"--minari: there is a dataset {identifier} already; take another name.")


def write_minari(
    identifier: str, configuration: TrainConfiguration, episodes: list[Episode], agent: Any
) -> str:
    """Write a Minari dataset to this machine; return its name for `--offline`."""
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            id=i,
            observations=episode["observations"],
            actions=episode["actions"],
            rewards=episode["rewards"].tolist(),
            terminations=episode["terminations"].tolist(),
            truncations=episode["truncations"].tolist(),
            infos={},
        )
        for i, episode in enumerate(episodes)
    ]
    settings = configuration.settings
    environment = make(configuration.environment, settings.env_kwargs, settings.wrappers)
    environment.close()
    specification = environment.unwrapped.spec
    assert specification is not None  # `make` made it by its name
    if not isinstance(specification.entry_point, str):
        specification = None  # a class, which a file cannot name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of environments that a file cannot name
            minari.create_dataset_from_buffers(
                identifier,
                buffers,
                env=specification,
                eval_env=specification,
                algorithm_name=type(agent).__name__,
                author="ebrl",
                author_email="unknown",
                code_permalink="unknown",
                description=configuration.title,
                action_space=environment.action_space,
                observation_space=environment.observation_space,
                jpeg_encoding=False,  # it would change images, and refuses some
            )
    except (ValueError, OSError) as error:
        raise RunError(f"Minari cannot write {identifier}: {error}.") from error
    return f"minari:{identifier}"
