"""A run's config: its schema is the agent's own signature and the dataclass `TrainSettings`.

agent:
  class_path: ebrl.agents.EnergyActorCritic
  init_args: {policy: MlpPolicy, env: Pendulum-v1, learning_rate: 1.0e-3}
total_timesteps: 10000
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jsonargparse import ActionConfigFile, ArgumentParser
from jsonargparse.typing import PositiveInt, register_type
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from ebrl.agents.demonstrations import MINARI
from ebrl.command.arguments import Environments, PlainHelp, Seed, Threads
from ebrl.command.configs.parsing import parse_config
from ebrl.command.configs.schema import Schema, instantiate, locate
from ebrl.command.configs.trust import check_objects
from ebrl.command.errors import UsageError

# The run sets its seed and its TensorBoard folder; the last argument is internal to SB3.
OWNED_BY_THE_RUN = frozenset({"seed", "tensorboard_log", "_init_setup_model"})

# Arguments of a policy that are classes; YAML can only name them.
CLASSES_IN_POLICY_KWARGS: dict[str, type] = {
    "activation_fn": torch.nn.Module,
    "features_extractor_class": BaseFeaturesExtractor,
    "optimizer_class": torch.optim.Optimizer,
}

# Ranges of numbers that Stable-Baselines3's algorithms do not check. Our own agents check the rest.
RANGES: dict[str, tuple[float, float]] = {
    "gamma": (0.0, 1.0),
    "tau": (0.0, 1.0),
    "learning_rate": (0.0, 1e6),
    "batch_size": (1, 2**24),
    "buffer_size": (1, 2**40),
    "learning_starts": (0, 2**40),
    "gradient_steps": (-1, 2**24),
    "train_freq": (1, 2**24),
    "target_update_interval": (1, 2**40),
    "policy_delay": (1, 2**24),
    "n_steps": (1, 2**24),
    "exploration_fraction": (0.0, 1.0),
    "exploration_initial_eps": (0.0, 1.0),
    "exploration_final_eps": (0.0, 1.0),
}

# Action noise takes arrays; a config writes them as lists.
register_type(np.ndarray, serializer=np.ndarray.tolist, deserializer=np.array)


@dataclass(frozen=True)
class TrainSettings:
    """How a run trains, evaluates and saves its agent.

    Args:
        total_timesteps: Environment steps of the whole run, over all environments.
        name: Name of the task in folders and titles; the config file's name if not given.
        run: Folder of the run; `runs/NAME/AGENT-SEED` if not given.
        seed: Seeds the agent, its environments and its replay.
        offline: Demonstrations to train on alone: an .npz file that `ebrl collect` wrote, or
            `minari:ID`. Each timestep is an update, and the environment is for evaluations.
        prefill: Demonstrations that the replay starts with, before the first step.
        n_envs: Environments that step in parallel.
        vec: Where they are stepped: one after another here (`dummy`), in a process each
            (`subproc`), in actors of Ray (`ray`, for slow simulators), or as `gymnasium.make_vec`
            makes them (`vector`), whose episodes a resumed run cannot go on with.
        wrappers: Wrappers around each environment, the innermost first: the class_path and
            init_args of each.
        training_wrappers: Further wrappers around those, in training alone, such as clipped rewards
            or lives that end an episode.
        env_kwargs: Arguments for `gymnasium.make`.
        normalize: What VecNormalize divides by its running standard deviation.
        evaluate_every: Environment steps between two evaluations; one more comes at the end.
        evaluation_episodes: Episodes of an evaluation, each with its own fixed start.
        evaluation_steps: Steps after which an evaluated episode is truncated.
        evaluation_seed: Seed of the first start; the others follow it.
        best: Keep the agent of the best evaluation, too, as `best_model.zip`.
        checkpoint_every: Environment steps between two checkpoints; one more comes at the end.
        threads: Threads of PyTorch on the CPU. Small networks gain nothing from more than one.
    """

    total_timesteps: PositiveInt
    name: str | None = None
    run: str | None = None
    seed: Seed = 0
    offline: str | None = None
    prefill: str | None = None
    n_envs: Environments = 1
    vec: Literal["dummy", "subproc", "ray", "vector"] = "dummy"
    wrappers: list[dict[str, Any]] | None = None
    training_wrappers: list[dict[str, Any]] | None = None
    env_kwargs: dict[str, Any] | None = None
    normalize: Literal["observations", "rewards", "both"] | None = None
    evaluate_every: PositiveInt = 5_000
    evaluation_episodes: PositiveInt = 10
    evaluation_steps: PositiveInt = 10_000
    evaluation_seed: Seed = 10_000
    best: bool = False
    checkpoint_every: PositiveInt = 10_000
    threads: Threads = 1


class TrainConfiguration(NamedTuple):
    """A config that was checked: every key known, every value of its type."""

    agent_class: type[OffPolicyAlgorithm]
    agent_arguments: dict[str, Any]  # as the constructor wants them, with `env` still a name
    settings: TrainSettings
    text: str  # YAML with every default written out; `read` gives this configuration back

    @property
    def environment(self) -> str:
        return self.agent_arguments["env"]

    @property
    def run(self) -> str:
        """The folder of the run."""
        return str(self.settings.run)

    @property
    def title(self) -> str:
        return (
            f"{self.environment} · {self.agent_class.__name__} · "
            f"{self.settings.name}, seed {self.settings.seed}"
        )


def schema() -> Schema:
    """Return the schema of a config of `ebrl train`; every key is an option, too."""
    parser = ArgumentParser(
        prog="ebrl train CONFIG",
        formatter_class=PlainHelp,
        exit_on_error=False,
        allow_abbrev=False,
        print_config="--print_config",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="The config; comes first.")
    parser.add_class_arguments(TrainSettings)
    parser.add_subclass_arguments(
        OffPolicyAlgorithm,
        "agent",
        skip=set(OWNED_BY_THE_RUN),
        required=True,
        help="The algorithm: class_path and init_args.",
    )
    family: dict[str, type] = {"agent": OffPolicyAlgorithm}
    parts: dict[str, type | None] = {**family}
    return Schema("train", parser, TrainSettings, parts, ("agent",), family, OWNED_BY_THE_RUN)


def read(path: Path, options: Sequence[str] = (), *, trust: bool = False) -> TrainConfiguration:
    """Check a config file, changed by options such as `--agent.learning_rate 1e-3`.

    Args:
        path: The file.
        options: From the command line.
        trust: Whether the config may name code of any package, as it may for `ebrl train`.

    Raises:
        UsageError: If the file is missing or no config, a key is unknown, a value is of the wrong
            type or makes no sense, or the config names code that is not trusted.
    """
    known = schema()
    parsed = parse_config(known, path, options, trust)
    arguments = parsed.agent.init_args
    agent_class = locate(parsed.agent.class_path)
    for name in ("offline", "prefill"):  # so that the run can be resumed from anywhere
        if parsed[name] is not None and not parsed[name].startswith(MINARI):
            parsed[name] = str(Path(parsed[name]).resolve())
    if parsed.run is None:
        parsed.run = f"runs/{parsed.name}/{agent_class.__name__}-{parsed.seed}"
    if not isinstance(arguments.env, str):
        raise UsageError(
            f"agent.env in {path}: expected the id of a registered environment "
            "(`Pendulum-v1`, or `module:Name-v0`), because a run builds it several times."
        )
    _check_ranges(path, vars(arguments))
    check_objects("agent.policy_kwargs", arguments.get("policy_kwargs"))
    try:
        agent_arguments = _build_arguments(vars(arguments))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"{path}: an argument of the agent cannot be built: {error}.") from error
    return TrainConfiguration(
        agent_class=agent_class,  # type: ignore[arg-type]
        agent_arguments=agent_arguments,
        settings=TrainSettings(
            **{field.name: parsed[field.name] for field in fields(TrainSettings)}
        ),
        text=known.parser.dump(parsed),
    )


def _check_ranges(path: Path, arguments: dict[str, Any]) -> None:
    """Raise UsageError for a number out of its range."""
    for name, (lowest, highest) in RANGES.items():
        value = arguments.get(name)
        number = value[0] if isinstance(value, tuple | list) and value else value  # train_freq
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        if not lowest <= number <= highest or math.isnan(number):
            raise UsageError(
                f"{path}: agent.{name}: expected a number from {lowest:g} to {highest:g}, "
                f"got {number!r}."
            )


def _build_arguments(parsed: dict[str, Any]) -> dict[str, Any]:
    """Turn what YAML can write (class_path, dotted names) into schedules, noise and classes."""
    arguments = {key: instantiate(value) for key, value in parsed.items()}
    policy_kwargs = arguments.get("policy_kwargs") or {}
    for name in CLASSES_IN_POLICY_KWARGS.keys() & policy_kwargs.keys():
        policy_kwargs[name] = _class_in_policy(name, policy_kwargs[name])
    if "." in str(arguments["policy"]):  # not an alias such as MlpPolicy
        arguments["policy"] = locate(arguments["policy"])
    return arguments


def _class_in_policy(name: str, value: Any) -> Any:
    """Return the class that a policy's argument names, or the argument if it names none."""
    if not isinstance(value, str):
        return value
    found, base = locate(value), CLASSES_IN_POLICY_KWARGS[name]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UsageError(
            f"agent.policy_kwargs.{name}: expected a subclass of {base.__module__}.{base.__name__},"
            f" got {value}."
        )
    return found
