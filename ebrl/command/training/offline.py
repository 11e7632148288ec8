"""The demonstrations of a run: read and checked before the start, then put into the replay."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from ebrl.agents import ImplicitCloning
from ebrl.agents.demonstrations import fill, learn_offline, load
from ebrl.command.configs.agent_config import TrainConfiguration
from ebrl.command.errors import RunError, UsageError


def fill_replay(agent: OffPolicyAlgorithm, configuration: TrainConfiguration) -> None:
    """Put the run's demonstrations, if it has any, into the replay of an untrained agent.

    Raises:
        UsageError: If they cannot be read, are of another task, or there are none for an agent that
            needs them.
        RunError: If Minari is not installed.
    """
    settings = configuration.settings
    if settings.offline is not None and settings.prefill is not None:
        raise UsageError("offline and prefill: expected one of them, got both.")
    if settings.offline is None and isinstance(agent, ImplicitCloning):
        raise UsageError("ImplicitCloning clones demonstrations: --offline DATA (ebrl collect).")
    source = settings.offline or settings.prefill
    if source is None:
        return
    try:
        fill(agent, load(source), source)
    except FileNotFoundError as error:
        raise UsageError(f"{source}: {error.strerror or error}.") from error
    except ImportError as error:
        raise RunError(f"{error}.") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{error}.") from error


def learn(
    agent: OffPolicyAlgorithm,
    configuration: TrainConfiguration,
    timesteps: int,
    callbacks: list[BaseCallback],
) -> None:
    """Train in the environment, or on the demonstrations alone."""
    if configuration.settings.offline is not None:
        learn_offline(agent, timesteps, callbacks)
    else:
        agent.learn(timesteps, callback=callbacks, reset_num_timesteps=False)
