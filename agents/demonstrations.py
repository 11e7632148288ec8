"""Demonstrations: recorded transitions, in a file, a Minari dataset or a replay.

    demonstrations = load("episodes.npz")  # or "minari:pointmaze/umaze-v2"
    fill(agent, demonstrations)
    learn_offline(agent, 10_000)

A file holds the arrays of `Demonstrations` by their names, in NumPy's format without pickle.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecNormalize

from ebrl.storage import StorageError

from .scaled_rewards import ScaledRewards

MINARI = "minari:"
LOG_EVERY = 1_000  # updates


class Demonstrations(NamedTuple):
    """Transitions in the order of their recording, in the environment's units."""

    observations: np.ndarray  # (n, *observation)
    actions: np.ndarray  # (n, *action)
    rewards: np.ndarray  # (n,)
    next_observations: np.ndarray  # (n, *observation)
    terminations: np.ndarray  # (n,) bool: the episode ended in a terminal state
    truncations: np.ndarray  # (n,) bool: it was cut off

    def check(self, source: str, observation: spaces.Space, action: spaces.Space) -> None:
        """Check that these are transitions in the given spaces.

        Raises:
            StorageError: If numbers of rows differ or are 0, a number is not finite, or rows are
                outside the spaces.
        """
        rows = {name: len(array) for name, array in self._asdict().items()}
        if len(set(rows.values())) > 1 or not len(self.rewards):
            raise StorageError(f"{source}: expected as many rows of each, at least one, got {rows}")
        for name, array, space in (
            ("observations", self.observations, observation),
            ("next_observations", self.next_observations, observation),
            ("actions", self.actions, action),
        ):
            if array.shape[1:] != space.shape:
                raise StorageError(
                    f"{source}: expected {name} of the environment's space {space}, got rows of "
                    f"shape {array.shape[1:]}"
                )
            if isinstance(space, spaces.Discrete):
                inside = (array >= space.start) & (array < space.start + space.n)
                if array.dtype.kind not in "iu" or not inside.all():
                    raise StorageError(f"{source}: expected {name} in {space}, got others")
            elif not np.isfinite(array).all():
                raise StorageError(f"{source}: expected finite {name}, got NaN or infinity")
        if not np.isfinite(self.rewards).all():
            raise StorageError(f"{source}: expected finite rewards, got NaN or infinity")
        if isinstance(action, spaces.Box):
            outside = (self.actions < action.low) | (self.actions > action.high)
            if outside.any():
                raise StorageError(
                    f"{source}: expected actions in {action}, got {self.actions[outside][0]:.4g}"
                )


def save(path: str | Path, demonstrations: Demonstrations) -> None:
    """Write demonstrations to an .npz file."""
    np.savez_compressed(path, **demonstrations._asdict())


def load(source: str | Path) -> Demonstrations:
    """Read demonstrations from an .npz file, or from a local Minari dataset, "minari:ID".

    Raises:
        FileNotFoundError: There is no such file or dataset.
        StorageError: It holds something else.
        ImportError: Minari is not installed.
    """
    if str(source).startswith(MINARI):
        return _load_minari(str(source).removeprefix(MINARI))
    try:
        with np.load(source, allow_pickle=False) as file:
            arrays = {name: file[name] for name in Demonstrations._fields}
    except FileNotFoundError:
        raise
    except KeyError as error:
        raise StorageError(
            f"{source}: expected the arrays {', '.join(Demonstrations._fields)}: {error.args[0]}"
        ) from error
    except (ValueError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise StorageError(f"{source}: expected an .npz file of demonstrations: {error}") from error
    flags = ("terminations", "truncations")
    return Demonstrations(
        **{name: array.astype(bool) if name in flags else array for name, array in arrays.items()}
    )


def _load_minari(identifier: str) -> Demonstrations:
    """Read a dataset that is on this machine; none is downloaded."""
    try:
        import minari
    except ImportError as error:
        raise ImportError('Minari is not installed: pip install "ebrl[offline]"') from error
    known = sorted(minari.list_local_datasets())
    if identifier not in known:
        raise FileNotFoundError(
            f"no Minari dataset {identifier!r} on this machine, which has: "
            f"{', '.join(known) or 'none'}. Get one: minari download {identifier}"
        )
    parts: list[list[np.ndarray]] = []
    for episode in minari.load_dataset(identifier).iterate_episodes():
        seen, actions = episode.observations, episode.actions
        if not isinstance(seen, np.ndarray) or not isinstance(actions, np.ndarray):
            raise StorageError(
                f"{identifier}: expected observations and actions that are arrays, got "
                f"{type(seen).__name__} and {type(actions).__name__}"
            )
        flags = episode.terminations.astype(bool), episode.truncations.astype(bool)
        parts.append([seen[:-1], actions, episode.rewards, seen[1:], *flags])
    if not parts:
        raise StorageError(f"{identifier}: expected episodes, got none")
    return Demonstrations(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def fill(agent: OffPolicyAlgorithm, demonstrations: Demonstrations, source: str = "data") -> None:
    """Put demonstrations into the agent's replay, and their observations into a `VecNormalize`.

    Args:
        agent: With enough room in its replay.
        demonstrations: Of its environment.
        source: Their name in errors.

    Raises:
        StorageError: As `Demonstrations.check`, or the replay has too little room.
        ValueError: Rewards are normalised, which needs the returns of whole episodes.
    """
    replay, policy, count = agent.replay_buffer, agent.policy, agent.n_envs
    assert replay is not None
    assert isinstance(policy, BasePolicy)
    demonstrations.check(source, agent.observation_space, agent.action_space)
    steps = len(demonstrations.rewards) // count
    if steps == 0 or steps > replay.buffer_size:
        raise StorageError(
            f"{source}: expected {count} to {replay.buffer_size * count:,} transitions, the "
            f"buffer_size of the agent, got {len(demonstrations.rewards):,}"
        )
    statistics = agent.get_vec_normalize_env()
    if statistics is not None:
        _take_in(statistics, demonstrations.observations)
    scales = isinstance(agent.action_space, spaces.Box)
    actions = policy.scale_action(demonstrations.actions) if scales else demonstrations.actions
    cut = demonstrations.truncations & ~demonstrations.terminations
    done = demonstrations.truncations | demonstrations.terminations
    rows = demonstrations._replace(actions=actions)
    for start in range(0, steps * count, count):
        now = slice(start, start + count)
        replay.add(
            rows.observations[now],
            rows.next_observations[now],
            rows.actions[now],
            rows.rewards[now],
            done[now],
            [{"TimeLimit.truncated": bool(each)} for each in cut[now]],
        )
        if isinstance(agent, ScaledRewards) and agent.returns is not None:
            agent.returns.update(rows.rewards[now], done[now], agent.gamma)


def learn_offline(
    agent: OffPolicyAlgorithm, total_timesteps: int, callback: MaybeCallback = None
) -> None:
    """Train on the agent's replay alone: each timestep is one update, without the environment.

    Callbacks see every update as a rollout of one step. `num_timesteps` continues its count.

    Raises:
        ValueError: The replay is empty.
    """
    if agent.replay_buffer is None or agent.replay_buffer.size() == 0:
        raise ValueError("expected demonstrations in the replay: ebrl.agents.demonstrations.fill")
    name = type(agent).__name__  # positional arguments, because algorithms name them differently
    total, callback = agent._setup_learn(total_timesteps, callback, False, name, False)
    callback.on_training_start(locals(), globals())
    while agent.num_timesteps < total:
        callback.on_rollout_start()
        agent.num_timesteps += 1
        callback.update_locals(locals())
        if not callback.on_step():
            break
        callback.on_rollout_end()
        agent._update_current_progress_remaining(agent.num_timesteps, total)
        agent.train(gradient_steps=1, batch_size=agent.batch_size)
        if agent.num_timesteps % LOG_EVERY == 0:
            agent.logger.dump(agent.num_timesteps)
    callback.on_training_end()


def _take_in(statistics: VecNormalize, observations: np.ndarray) -> None:
    if statistics.norm_reward:
        raise ValueError("expected normalize=observations with demonstrations, got rewards too")
    statistics.obs_rms.update(observations)


def transitions_of(episodes: list[dict[str, Any]]) -> Demonstrations:
    """Join episodes, each with `observations: (T + 1, …)` and `actions`, `rewards`, … `(T, …)`."""
    joined = {
        name: np.concatenate([np.asarray(episode[name]) for episode in episodes])
        for name in ("actions", "rewards", "terminations", "truncations")
    }
    seen = [np.asarray(episode["observations"]) for episode in episodes]
    return Demonstrations(
        observations=np.concatenate([each[:-1] for each in seen]),
        next_observations=np.concatenate([each[1:] for each in seen]),
        **joined,
    )
