"""A run's config: its schema is the agent's own signature and the dataclass `Settings`.

agent:
  class_path: ebrl.agents.EnergyActorCritic
  init_args: {policy: MlpPolicy, env: Pendulum-v1, learning_rate: 1.0e-3}
total_timesteps: 10000
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt, register_type
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.command.config_files import parse_config
from ebrl.command.errors import UsageError

# The run sets these: its seed, its TensorBoard folder; the last one is SB3's own affair.
OWNED_BY_THE_RUN = {"seed", "tensorboard_log", "_init_setup_model"}

# Arguments of a policy that are classes; YAML can only name them.
CLASSES_IN_POLICY_KWARGS = {"activation_fn", "features_extractor_class", "optimizer_class"}

# Action noise takes arrays; a config writes them as lists.
register_type(np.ndarray, serializer=np.ndarray.tolist, deserializer=np.array)


@dataclass(frozen=True)
class Settings:
    """How a run trains, measures and keeps its agent.

    Args:
        total_timesteps: Environment steps of the whole run, over all environments.
        name: Name of the task in folders and titles; the config file's name if not given.
        run: Folder of the run; `runs/NAME/AGENT-SEED` if not given.
        seed: Seeds the agent, its environments and its replay.
        n_envs: Environments that are stepped side by side.
        env_kwargs: Arguments for `gymnasium.make`.
        normalize: What VecNormalize divides by its running standard deviation.
        evaluate_every: Environment steps between two evaluations; one more comes at the end.
        evaluation_episodes: Episodes of an evaluation, each with its own fixed start.
        evaluation_seed: Seed of the first start; the others follow it.
        checkpoint_every: Environment steps between two checkpoints; one more comes at the end.
        threads: Threads of PyTorch on the CPU. Small networks gain nothing from a second one.
    """

    total_timesteps: PositiveInt
    name: str | None = None
    run: str | None = None
    seed: NonNegativeInt = 0
    n_envs: PositiveInt = 1
    env_kwargs: dict[str, Any] | None = None
    normalize: Literal["observations", "rewards", "both"] | None = None
    evaluate_every: PositiveInt = 5_000
    evaluation_episodes: PositiveInt = 10
    evaluation_seed: NonNegativeInt = 10_000
    checkpoint_every: PositiveInt = 10_000
    threads: PositiveInt = 1


class Configuration(NamedTuple):
    """A config that was checked: every key known, every value of its type."""

    agent_class: type[OffPolicyAlgorithm]
    agent_arguments: dict[str, Any]  # as the constructor wants them, with `env` still a name
    settings: Settings
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


def parser() -> ArgumentParser:
    """The parser of `ebrl train`: everything that a config may say, also as an option."""
    schema = ArgumentParser(
        prog="ebrl train CONFIG.yaml",
        exit_on_error=False,
        allow_abbrev=False,
        print_config="--print_config",
    )
    schema.add_argument("--config", action=ActionConfigFile, help="The config; comes first.")
    schema.add_class_arguments(Settings)
    schema.add_subclass_arguments(
        OffPolicyAlgorithm,
        "agent",
        skip=OWNED_BY_THE_RUN,
        required=True,
        help="The algorithm: class_path and init_args.",
    )
    return schema


def read(config: str | Path, options: Sequence[str] = ()) -> Configuration:
    """Check the file `config`, changed by `options` such as `--agent.learning_rate 1e-3`.

    Raises UsageError for a missing file, bad YAML, an unknown key or a value of the wrong type.
    """
    schema = parser()
    top_level = {field.name for field in fields(Settings)} | {"agent"}
    parsed = parse_config(schema, config, options, top_level)
    agent_class = _class_at(parsed.agent.class_path)
    if parsed.run is None:
        parsed.run = f"runs/{parsed.name}/{agent_class.__name__}-{parsed.seed}"
    if not isinstance(parsed.agent.init_args.env, str):
        raise UsageError(
            f"agent.env in {config}: expected the id of a registered environment "
            "(`Pendulum-v1`, or `module:Name-v0`), because a run builds it several times."
        )
    return Configuration(
        agent_class=agent_class,
        agent_arguments=_instantiate(agent_class, parsed.agent.init_args),
        settings=Settings(**{f.name: parsed[f.name] for f in fields(Settings)}),
        text=schema.dump(parsed),
    )


def _instantiate(agent_class: type[OffPolicyAlgorithm], init_args: Namespace) -> dict[str, Any]:
    """Turn what YAML can write (class_path, dotted names) into schedules, noise and classes."""
    schema = ArgumentParser(exit_on_error=False)
    schema.add_class_arguments(agent_class, skip=OWNED_BY_THE_RUN, instantiate=False)
    arguments = schema.instantiate(init_args).as_dict()
    policy_kwargs = arguments.get("policy_kwargs") or {}
    for name in CLASSES_IN_POLICY_KWARGS & policy_kwargs.keys():
        if isinstance(policy_kwargs[name], str):
            policy_kwargs[name] = _class_at(policy_kwargs[name])
    if "." in str(arguments["policy"]):  # not an alias such as MlpPolicy
        arguments["policy"] = _class_at(arguments["policy"])
    return arguments


def _class_at(dotted: str) -> type:
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"cannot import `{dotted}`: {error}.") from error
