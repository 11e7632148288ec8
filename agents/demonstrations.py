"""Demonstrations: recorded transitions, in a file, a Minari dataset or a replay.

    demonstrations = load("episodes.npz")  # or "minari:pointmaze/umaze-v2"
    fill(agent, demonstrations)
    learn_offline(agent, 10_000)

A file holds the arrays of `Demonstrations` by their names, in NumPy's format without pickle.
Dictionary observations have one array per key: `observations.KEY`, `next_observations.KEY`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage, unwrap_vec_wrapper

from ebrl.storage import StorageError, replacing

from .observations import map_arrays
from .scaled_rewards import ScaledRewards

MINARI = "minari:"
LOG_EVERY = 1_000  # updates
RECORDED = ("observations", "actions", "rewards", "terminations", "truncations")  # of an episode
NUMBERS = "biuf"  # kinds of dtypes: bool, whole and real numbers

Observations = np.ndarray | dict[str, np.ndarray]  # rows, of a dictionary space by their keys


class Demonstrations(NamedTuple):
    """Transitions in the order of their recording, in the environment's units."""

    observations: Observations  # (n, *observation)
    actions: np.ndarray  # (n, *action)
    rewards: np.ndarray  # (n,)
    next_observations: Observations  # (n, *observation)
    terminations: np.ndarray  # (n,) bool: the episode ended in a terminal state
    truncations: np.ndarray  # (n,) bool: the episode was cut off

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every array by its name; a dictionary's are named `observations.KEY`."""
        found: dict[str, np.ndarray] = {}
        for field, value in self._asdict().items():
            if isinstance(value, dict):
                found |= {f"{field}.{key}": array for key, array in value.items()}
            else:
                found[field] = value
        return found

    def check(self, source: str, observation: spaces.Space, action: spaces.Space) -> None:
        """Check that these are transitions in the given spaces.

        Raises:
            StorageError: If numbers of rows differ or are 0, a number is not finite, or rows are
                outside the spaces.
        """
        for name in ("rewards", "terminations", "truncations"):
            shape = getattr(self, name).shape
            if len(shape) != 1:
                raise StorageError(f"{source}: expected {name} of shape (n,), got {shape}")
        for name, array in self.arrays().items():
            if array.dtype.kind not in NUMBERS:
                raise StorageError(f"{source}: expected numbers in {name}, got {array.dtype}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise StorageError(f"{source}: expected finite {name}, got NaN or infinity")
        for name, rows, space in (
            ("observations", self.observations, observation),
            ("next_observations", self.next_observations, observation),
            ("actions", self.actions, action),
        ):
            for part, array, space_of_part in _parts(source, name, rows, space):
                _check_rows(source, part, array, space_of_part)
        counts = {name: len(array) for name, array in self.arrays().items()}
        if len(set(counts.values())) > 1 or not len(self.rewards):
            raise StorageError(
                f"{source}: expected as many rows of each, at least one, got {counts}"
            )
        if isinstance(action, spaces.Box):
            actions = self.actions.astype(action.dtype)  # as the bounds are rounded
            outside = (actions < action.low) | (actions > action.high)
            if outside.any():
                raise StorageError(
                    f"{source}: expected actions in {action}, got {self.actions[outside][0]:.9g}"
                )


def _parts(
    source: str, name: str, rows: Observations, space: spaces.Space
) -> list[tuple[str, np.ndarray, spaces.Space]]:
    """Pair each array of a field with its space; StorageError where their keys differ."""
    expected = space.spaces if isinstance(space, spaces.Dict) else None
    given = rows if isinstance(rows, dict) else None
    if (None if expected is None else set(expected)) != (None if given is None else set(given)):
        raise StorageError(
            f"{source}: expected {name} with {_named(expected)}, as the environment gives them, "
            f"got {_named(given)}"
        )
    if expected is None or given is None:
        assert isinstance(rows, np.ndarray)
        return [(name, rows, space)]
    return [(f"{name}.{key}", given[key], part) for key, part in expected.items()]


def _named(keys: Iterable[str] | None) -> str:
    return "one array" if keys is None else f"the keys {', '.join(sorted(keys))}"


def _check_rows(source: str, name: str, rows: np.ndarray, space: spaces.Space) -> None:
    """Raise StorageError for rows of another shape than the space's, or whole numbers outside."""
    if not rows.ndim or rows.shape[1:] != space.shape:
        raise StorageError(
            f"{source}: expected {name} of the environment's space {space}, got rows of shape "
            f"{rows.shape[1:]}"
        )
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        first, count = _choices(space)
        inside = (rows >= first) & (rows < first + count)
        if rows.dtype.kind not in "iu" or not inside.all():
            raise StorageError(f"{source}: expected {name} in {space}, got others")


def _choices(space: spaces.Space) -> tuple[Any, Any]:
    """Return the first whole number of a space and how many there are, for each coordinate."""
    if isinstance(space, spaces.MultiBinary):
        return 0, 2
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.nvec
    assert isinstance(space, spaces.Discrete)
    return space.start, space.n


def save(path: str | Path, demonstrations: Demonstrations) -> None:
    """Write demonstrations to an .npz file, atomically."""
    arrays: dict[str, Any] = demonstrations.arrays()  # their names are none of NumPy's arguments
    with replacing(Path(path)) as file:
        np.savez_compressed(file, **arrays)


def load(source: str | Path) -> Demonstrations:
    """Read demonstrations from an .npz file, or from a local Minari dataset, "minari:ID".

    Raises:
        FileNotFoundError: If there is no such file or dataset.
        StorageError: If it holds something else.
        ImportError: Without Minari.
    """
    if str(source).startswith(MINARI):
        return _load_minari(str(source).removeprefix(MINARI))
    try:
        with np.load(source, allow_pickle=False) as file:
            known = Demonstrations._fields
            arrays = {name: file[name] for name in file.files if name.partition(".")[0] in known}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise StorageError(f"{source}: expected an .npz file of demonstrations: {error}") from error
    fields = {name: _field(str(source), name, arrays) for name in Demonstrations._fields}
    for name in ("terminations", "truncations"):
        if fields[name].dtype.kind not in NUMBERS:
            raise StorageError(f"{source}: expected true or false in {name}, got others")
        fields[name] = fields[name].astype(bool)
    return Demonstrations(**fields)


def _field(source: str, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return the array of a field, or those of its keys."""
    if name in arrays:
        return arrays[name]
    prefix = f"{name}."
    keys = {each.removeprefix(prefix): a for each, a in arrays.items() if each.startswith(prefix)}
    if not keys or "observations" not in name:
        raise StorageError(
            f"{source}: expected the arrays {', '.join(Demonstrations._fields)}, or "
            f"observations.KEY and next_observations.KEY of a dictionary, got no {name}"
        )
    return keys


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
    episodes = []
    for episode in minari.load_dataset(identifier).iterate_episodes():
        seen, actions = episode.observations, episode.actions
        arrays = list(seen.values()) if isinstance(seen, dict) else [seen]
        if not all(isinstance(each, np.ndarray) for each in [*arrays, actions]):
            raise StorageError(
                f"{identifier}: expected observations and actions that are arrays, or a dictionary "
                f"of arrays as observations, got {type(seen).__name__} and {type(actions).__name__}"
            )
        episodes.append({name: getattr(episode, name) for name in RECORDED})
    if not episodes:
        raise StorageError(f"{identifier}: expected episodes, got none")
    return transitions_of(episodes)


def fill(agent: OffPolicyAlgorithm, demonstrations: Demonstrations, source: str = "data") -> None:
    """Put demonstrations into the agent's replay, and their observations into a `VecNormalize`.

    Args:
        agent: An agent with enough room in its replay.
        demonstrations: Transitions of the agent's environment; the remainder of a division among
            `n_envs` is left out.
        source: Name of the demonstrations in errors.

    Raises:
        StorageError: As `Demonstrations.check`, or if the replay has too little room.
        ValueError: If rewards are normalised, which needs the returns of whole episodes.
    """
    replay, policy, count = agent.replay_buffer, agent.policy, agent.n_envs
    assert replay is not None
    assert isinstance(policy, BasePolicy)
    images = unwrap_vec_wrapper(agent.env, VecTransposeImage) if agent.env is not None else None
    space = agent.observation_space if images is None else images.venv.observation_space
    demonstrations.check(source, space, agent.action_space)
    steps, room = len(demonstrations.rewards) // count, replay.buffer_size - replay.size()
    if not 0 < steps <= room:
        raise StorageError(
            f"{source}: expected {count} to {room * count:,} transitions, for which the replay of "
            f"the agent has room, got {len(demonstrations.rewards):,}: raise buffer_size"
        )
    statistics = agent.get_vec_normalize_env()
    if statistics is not None:
        _take_in(statistics, demonstrations.observations)

    def seen(rows: Observations, now: np.ndarray) -> Any:
        taken = map_arrays(lambda array: array[now], rows)
        return taken if images is None else images.transpose_observations(taken)

    scales = isinstance(agent.action_space, spaces.Box)
    actions = policy.scale_action(demonstrations.actions) if scales else demonstrations.actions
    stretches = np.arange(steps * count).reshape(count, steps)  # one for each environment
    done = demonstrations.truncations | demonstrations.terminations
    done[stretches[:, -1]] = True  # what follows is of another stretch, or played by the agent
    cut = done & ~demonstrations.terminations
    for now in stretches.T:
        rewards = demonstrations.rewards[now]
        replay.add(
            seen(demonstrations.observations, now),
            seen(demonstrations.next_observations, now),
            actions[now],
            rewards,
            done[now],
            [{"TimeLimit.truncated": bool(each)} for each in cut[now]],
        )
        if isinstance(agent, ScaledRewards) and agent.returns is not None:
            agent.returns.update(rewards, done[now], agent.gamma)


def learn_offline(
    agent: OffPolicyAlgorithm,
    total_timesteps: int,
    callback: MaybeCallback = None,
    tb_log_name: str | None = None,
    progress_bar: bool = False,
    reset_num_timesteps: bool = False,
) -> None:
    """Train on the agent's replay alone: each timestep is one update, without the environment.

    Callbacks see every update as a rollout of one step. The arguments are those of
    Stable-Baselines3's `learn`; the log is by default named after the class, and
    `reset_num_timesteps` begins a new count and a new log.

    Raises:
        ValueError: If the replay is empty.
    """
    if agent.replay_buffer is None or agent.replay_buffer.size() == 0:
        raise ValueError("expected demonstrations in the replay: ebrl.agents.demonstrations.fill")
    # Positional arguments, because algorithms name them differently.
    name = tb_log_name or type(agent).__name__
    total, callback = agent._setup_learn(
        total_timesteps, callback, reset_num_timesteps, name, progress_bar
    )
    callback.on_training_start(locals(), globals())
    while agent.num_timesteps < total:
        callback.on_rollout_start()
        agent.num_timesteps += 1
        callback.update_locals(locals())
        if not callback.on_step():
            break
        callback.on_rollout_end()
        agent._update_current_progress_remaining(agent.num_timesteps, total)
        agent._on_step()  # where DQN and QR-DQN update their target network
        agent.train(gradient_steps=1, batch_size=agent.batch_size)
        if agent.num_timesteps % LOG_EVERY == 0 or agent.num_timesteps == total:
            agent.logger.dump(agent.num_timesteps)
    callback.on_training_end()


def _take_in(statistics: VecNormalize, observations: Observations) -> None:
    if statistics.norm_reward:
        raise ValueError("expected normalize=observations with demonstrations, got rewards too")
    moments = statistics.obs_rms
    if isinstance(moments, dict) and isinstance(observations, dict):
        for key, moments_of_key in moments.items():
            moments_of_key.update(observations[key])
    elif isinstance(moments, RunningMeanStd):
        moments.update(observations)


def transitions_of(episodes: Sequence[Mapping[str, Any]]) -> Demonstrations:
    """Join episodes.

    Args:
        episodes: Each has `observations: (T + 1, …)`, or a dictionary of such arrays, and
            `actions`, `rewards`, `terminations`, `truncations: (T, …)`.
    """
    joined = {
        name: np.concatenate([np.asarray(episode[name]) for episode in episodes])
        for name in RECORDED[1:]
    }
    seen = [episode["observations"] for episode in episodes]

    def rows(now: slice) -> Any:
        return map_arrays(lambda *each: np.concatenate([array[now] for array in each]), *seen)

    return Demonstrations(
        observations=rows(slice(None, -1)), next_observations=rows(slice(1, None)), **joined
    )
