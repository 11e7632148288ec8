"""Saving and loading an agent: its constructor arguments, spaces, weights and counters.

    class SoftQ(Saving, OffPolicyAlgorithm): ...

    model.save("cartpole")  # cartpole.zip: a file of safetensors with the facts as metadata
    model = SoftQ.load("cartpole")

Stable-Baselines3 pickles an agent, and loading a pickle may run any code in it. Here a file holds
only data: classes of torch and Stable-Baselines3 by name, and no other code. Arguments that refer
to other code are passed to `load` again.
"""

from __future__ import annotations

import difflib
import os
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info
from stable_baselines3.her import HerReplayBuffer

from ebrl import schema, storage
from ebrl.storage import Source, StorageError

from . import schemas
from .arguments import NOT_STORED, decode, from_space, names_of, split_arguments, to_space
from .bounded import Bounded
from .environments import learnt_statistics, seen_by, with_statistics
from .state import (
    counters,
    generators,
    learnt,
    optimizer_options,
    put_counters,
    put_generators,
    put_learnt,
    put_optimizer_options,
)

Self = TypeVar("Self", bound="Saving")

KIND = "agent"
STATE = schema.record(
    {
        "arguments": schema.named(schema.anything),
        "left_out": schema.named(schema.of_type(str)),
        "observation_space": schema.named(schema.anything),
        "action_space": schema.named(schema.anything),
        "n_envs": schema.integer(1, 100_000),
        "learnt": schema.named(schema.named(schema.anything)),
        "counters": schema.named(schema.of_type(int, float)),
        "generators": schema.named(schema.anything),
        "statistics": schema.optional(schema.named(schema.anything)),
    }
)


class Saving(OffPolicyAlgorithm):
    """`save` and `load` without pickle, for an off-policy algorithm of Stable-Baselines3.

    Every constructor argument `x` should be an attribute `x` or `_x`; `_get_torch_save_params`
    names everything that is learnt; `generators` holds the algorithm's own random streams.
    """

    generators: dict[str, torch.Generator]
    statistics: dict[str, Any] | None = None  # of the VecNormalize of the agent in the file

    def save(  # type: ignore[override]
        self,
        path: Source,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Write the agent to a file, atomically, or to an open binary stream.

        The file has no replay buffer; `ebrl.agents.checkpoints` keeps whole training runs. It has
        the running statistics of a `VecNormalize` around the environments.

        Args:
            path: ".zip" is added to a name without a suffix.
            exclude: Constructor arguments to leave out; `load` then takes their defaults.
            include: Names to keep although they are in `exclude`.

        Raises:
            OSError: When the file cannot be written.
            ValueError: For an unknown name in `include`.
        """
        arguments, left_out = split_arguments(self)
        excluded = set(exclude or ()) - set(include or ())
        state: dict[str, Any] = {
            "arguments": {k: v for k, v in arguments.items() if k not in excluded},
            "left_out": {k: v for k, v in left_out.items() if k not in excluded},
            "observation_space": from_space(self.observation_space),
            "action_space": from_space(self.action_space),
            "n_envs": int(self.n_envs),
            "learnt": learnt(self),
            "counters": counters(self),
            "generators": generators(self),
            "statistics": learnt_statistics(self),
        }
        _check_included(include, state)
        if missing := sorted(state["left_out"]):
            warnings.warn(
                f"{type(self).__name__}.save: a file cannot hold {', '.join(missing)}; give "
                f"{'it' if len(missing) == 1 else 'them'} to load again",
                stacklevel=2,
            )
        tensors, facts = storage.flatten(state)
        head = {
            "kind": KIND,
            "algorithm": type(self).__name__,
            "system": get_system_info(print_info=False)[0],
            "state": facts,
        }
        if isinstance(path, str | os.PathLike):
            path = with_suffix(path)
            path.parent.mkdir(parents=True, exist_ok=True)
        storage.save(path, tensors, head)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[Self],
        path: Source,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **arguments: Any,
    ) -> Self:
        """Build the agent that `save` wrote. Without `env` it can predict.

        Args:
            path: Where the file is, or an open binary stream.
            env: Environments to continue with. Plain ones are normalised as those of the training
                were; a `VecNormalize` of the caller stays as it is.
            device: Device of the networks.
            custom_objects: Replacements for stored arguments and spaces, as in Stable-Baselines3;
                unknown names are ignored.
            print_system_info: Print the versions that the agent was saved with, and those here.
            force_reset: As in Stable-Baselines3. The file has no last observation, so that training
                always starts with a reset.
            arguments: Constructor arguments that replace stored ones, or that a file cannot hold;
                an error names those that are missing.

        Raises:
            StorageError: For a file that is not such an agent, or does not fit these arguments.
            ValueError: For an environment with other spaces.
            TypeError: For unknown arguments.
        """
        shown = path if isinstance(path, str | os.PathLike) else "the stream"
        state, system = read_agent(cls.__name__, path)
        if print_system_info:
            print(f"== CURRENT SYSTEM INFO ==\n{get_system_info(print_info=False)[1]}")
            lines = (f"- {name}: {value}" for name, value in system.items())
            print("== SAVED MODEL SYSTEM INFO ==", *lines, "", sep="\n")
        try:
            model = cls._from_state(state, env, device, custom_objects or {}, arguments)
        except StorageError as error:
            raise StorageError(f"{shown}: {error}") from error
        return model

    @classmethod
    def _from_state(
        cls: type[Self],
        state: dict[str, Any],
        env: GymEnv | None,
        device: torch.device | str,
        custom_objects: dict[str, Any],
        arguments: dict[str, Any],
    ) -> Self:
        """Return the agent of a state that `read_agent` read."""
        observation_space, action_space = (
            custom_objects.get(name) or to_space(state[name])
            for name in ("observation_space", "action_space")
        )
        allowed = _allowed(cls)
        arguments = {**{k: v for k, v in custom_objects.items() if k in allowed}, **arguments}
        given = _complete(cls, state, arguments)
        if env is not None:
            env = with_statistics(cls._wrap_env(env, given.get("verbose", 0)), state["statistics"])
            check_for_correct_spaces(env, observation_space, action_space)
        try:
            with Bounded(storage.flatten(state)[0].values()):
                n_envs = state["n_envs"]
                model = _build(cls, given, observation_space, action_space, n_envs, env, device)
        # constructors may raise anything for the numbers in a file
        except Exception as error:
            raise StorageError(
                f"{cls.__name__} cannot be built from the stored arguments: {error!r}"
            ) from error
        model.statistics = state["statistics"]
        options = optimizer_options(model)
        model._put_learnt(state["learnt"])
        put_optimizer_options(model, options)  # those that the caller replaced
        schemas.counters(model)(state["counters"], "counters")
        put_counters(model, state["counters"])
        if "seed" not in arguments:  # a new seed starts new streams
            schemas.generators(model)(state["generators"], "generators")
            put_generators(model, state["generators"])
        return model

    def set_parameters(
        self,
        load_path_or_dict: Source | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """As Stable-Baselines3: put parameters in place, from a dict or a file that `save` wrote.

        A file also restores the learned temperature.

        Raises:
            StorageError: For a file that is not such an agent, or whose networks differ.
        """
        if isinstance(load_path_or_dict, dict):
            parameters = self._parameters_of(load_path_or_dict)
            return super().set_parameters(parameters, exact_match, device)
        state, _ = read_agent(type(self).__name__, load_path_or_dict)
        if exact_match:
            return self._put_learnt(state["learnt"])
        parameters = self._parameters_of(state["learnt"]["parameters"])
        return super().set_parameters(parameters, False, device)

    def _put_learnt(self, state: dict[str, Any]) -> None:
        state = {name: self._parameters_of(part) for name, part in state.items()}
        schemas.learnt(self)(state, "learnt")
        put_learnt(self, state)

    def _parameters_of(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return another agent's parameters, or its learnt variables, in the form of this one's."""
        return parameters

    def normalize_observation(self, observation: Any) -> Any:
        """Return an observation of the environment as the agent was trained to see it.

        It is normalised by the statistics of the agent's `VecNormalize`, or of the file that it was
        loaded from, and unchanged where there are none.
        """
        return seen_by(self, observation)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environments as Stable-Baselines3 does, normalised as those of the training were.

        A `VecNormalize` of the caller stays as it is.

        Raises:
            ValueError: For an agent with HerReplayBuffer, which needs its environment at `load`.
        """
        if self.replay_buffer is None:
            raise ValueError(
                "expected a replay buffer, got none: HerReplayBuffer asks the environment for "
                "rewards, so give it when loading: load(path, env=env)"
            )
        env = with_statistics(self._wrap_env(env, self.verbose), learnt_statistics(self))
        super().set_env(env, force_reset)


# ---- writing --------------------------------------------------------------------------------


def with_suffix(path: str | os.PathLike) -> Path:
    """Return the path of an agent's file: ".zip" is added to a name without a suffix."""
    path = Path(path)
    return path if path.suffix else path.with_name(f"{path.name}.zip")


def _check_included(include: Iterable[str] | None, state: dict[str, Any]) -> None:
    inside = {*state["arguments"], *state["left_out"], *state["counters"], *state}
    for name in include or ():
        if name not in inside:
            raise ValueError(
                f"expected names in include of {sorted(inside)}, got {name!r}, which no file holds"
            )


# ---- loading --------------------------------------------------------------------------------


def read_agent(algorithm: str, source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state in an agent's file and the versions that it was written with.

    Raises:
        FileNotFoundError: When there is no file.
        StorageError: When it holds no agent of this algorithm.
    """
    if isinstance(source, str | os.PathLike):
        source = with_suffix(source)
    shown = source if isinstance(source, Path) else "the stream"
    try:
        tensors, facts = storage.load(source)
    except StorageError as error:
        if _holds_pickles(source):
            raise StorageError(
                f"{shown}: expected an agent saved by ebrl, got a pickle of Stable-Baselines3, "
                "which may run code when it is read; load it with Stable-Baselines3's own class"
            ) from error
        raise
    if facts.get("kind") != KIND:
        raise StorageError(
            f"{shown}: expected a saved agent, got a {facts.get('kind', 'file without kind')}; "
            "a training checkpoint goes to ebrl.agents.checkpoints.restore"
        )
    if facts.get("algorithm") != algorithm:
        saved = facts.get("algorithm")
        raise StorageError(f"{shown}: expected {algorithm}, got {saved}; use {saved}.load")
    state = storage.unflatten(tensors, facts.get("state"))
    STATE(state, f"{shown}: state")
    system = facts.get("system")
    return state, system if isinstance(system, dict) else {}


def _holds_pickles(source: Source) -> bool:
    """Return whether Stable-Baselines3 wrote the file."""
    try:
        with zipfile.ZipFile(source) as archive:
            return "_stable_baselines3_version" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError):
        return False  # it is damaged, or no zip


def _allowed(cls: type[Saving]) -> set[str]:
    """Return the constructor arguments that `load` takes."""
    return set(names_of(cls)) - set(NOT_STORED) | {"policy", "tensorboard_log"}


def _complete(
    cls: type[Saving], state: dict[str, Any], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Return all constructor arguments: the stored ones, replaced and completed by the caller's."""
    allowed = _allowed(cls)
    for name in arguments:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{cls.__name__}.load got an unknown argument {name!r}{hint}")
    missing = {k: v for k, v in state["left_out"].items() if k not in arguments}
    if missing:
        shown = ", ".join(f"{name}={value}" for name, value in missing.items())
        again = ", ".join(f"{name}=..." for name in missing)
        raise StorageError(
            f"a file cannot hold {shown}; give it again: {cls.__name__}.load(..., {again})"
        )
    stored = {key: value for key, value in state["arguments"].items() if key in allowed}
    policy = stored.get("policy")
    known = isinstance(policy, str) and policy in cls.policy_aliases
    if "policy" not in arguments and not known:
        raise StorageError(
            f"expected a policy of {list(cls.policy_aliases)}, got {str(policy)[:60]}; give it: "
            f'{cls.__name__}.load(..., policy="MlpPolicy")'
        )
    return {**decode(stored), **arguments}


def _build(
    cls: type[Self],
    given: dict[str, Any],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    n_envs: int,
    env: GymEnv | None,
    device: torch.device | str,
) -> Self:
    """Return a new agent with these spaces and arguments; its weights are still random."""
    buffer_class = given.get("replay_buffer_class")
    # only HerReplayBuffer cannot be built without an environment; prediction needs no buffer
    bare = env is None and buffer_class is not None and issubclass(buffer_class, HerReplayBuffer)
    build = {**given, "env": env, "device": device, "_init_setup_model": False}
    if bare:
        build |= {"replay_buffer_class": None, "replay_buffer_kwargs": None}
    model = cls(**build)
    model.observation_space = observation_space  # equal to that of env, in the order of the weights
    if env is None:
        model.action_space, model.n_envs = action_space, n_envs
    model._setup_model()
    if bare:
        model.replay_buffer = None
        model.replay_buffer_class = buffer_class
        model.replay_buffer_kwargs = given["replay_buffer_kwargs"] or {}
    if model.use_sde:
        model.policy.reset_noise()  # type: ignore[operator]
    return model
