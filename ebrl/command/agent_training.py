"""The training of a run, from its first step or from a checkpoint to its end."""

from __future__ import annotations

import signal
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from ebrl.agents.checkpoints import Checkpoints, Restored, restore
from ebrl.command.agent_config import Configuration, read
from ebrl.command.agent_pictures import draw_run
from ebrl.command.environments import NonFiniteError, training_environment
from ebrl.command.errors import NO_ROOM, RunError, UsageError
from ebrl.command.evaluation import Evaluations
from ebrl.command.progress import Progress
from ebrl.command.runs import Run, read_evaluations, write_json
from ebrl.command.signals import stop_on_signals
from ebrl.storage import StorageError


def build(configuration: Configuration) -> OffPolicyAlgorithm:
    """The untrained agent of a run, with its environments. The same config gives the same agent.

    Raises UsageError when agent and environment do not fit.
    """
    torch.set_num_threads(configuration.settings.threads)
    environment = training_environment(configuration)
    arguments = {**configuration.agent_arguments, "env": environment}
    try:
        agent = configuration.agent_class(**arguments, seed=configuration.settings.seed)
        _check_train_freq(agent)
        return agent
    except (AssertionError, ValueError, TypeError, RuntimeError) as error:
        name = configuration.agent_class.__name__
        raise UsageError(
            f"{name} cannot be built for {configuration.environment}: {error}."
            f"{_fitting_agents(environment.action_space) if 'action spaces' in str(error) else ''}"
        ) from error


def restore_newest(agent: OffPolicyAlgorithm, run: Run) -> Restored | None:
    """Put the newest whole checkpoint of the run into `agent`; None when there is none yet.

    What could not be restored is said on stderr. Raises RunError when no checkpoint can be read.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            restored = restore(agent, run.checkpoints)
        except FileNotFoundError:
            return None
        except StorageError as error:
            raise RunError(f"no checkpoint in {run.checkpoints} can be read: {error}") from error
    for warning in caught:
        print(f"ebrl: note: {warning.message}", file=sys.stderr)
    return restored


def rebuild(run: Run) -> tuple[OffPolicyAlgorithm, Configuration]:
    """The agent of a run as its newest checkpoint has it, to look at and to play with.

    Raises RunError when the run has no checkpoint yet.
    """
    configuration = read(run.config)
    agent = build(configuration)
    if restore_newest(agent, run) is None:
        raise RunError(f"{run.folder} has no checkpoint yet. Train it: ebrl resume {run.folder}")
    return agent, configuration


def train_to_end(
    agent: OffPolicyAlgorithm, configuration: Configuration, run: Run, resumed: Restored | None
) -> int:
    """Train until the run has all its steps; then save the agent and draw it. The exit code.

    Ctrl-C and SIGTERM write a checkpoint first. Raises RunError when the run cannot go on.
    """
    total = configuration.settings.total_timesteps
    evaluated = [e for e in read_evaluations(run) if e["timesteps"] <= agent.num_timesteps]
    write_json(run.evaluations, evaluated)
    agent.set_logger(configure(str(run.folder), ["tensorboard"]))
    evaluations = Evaluations(configuration, run, evaluated)
    checkpoints = Checkpoints(
        run.checkpoints, every=configuration.settings.checkpoint_every, resumed=resumed
    )
    progress = Progress(total, evaluations)
    with stop_on_signals(partial(checkpoints.request, stop=True)) as received:
        try:
            if agent.num_timesteps < total:
                agent.learn(
                    total - agent.num_timesteps,
                    callback=[evaluations, checkpoints, progress],
                    reset_num_timesteps=False,
                )
            agent.save(run.model)
        except KeyboardInterrupt:
            progress.close()
            print(f"ebrl: stopped. {_how_to_resume(run)}", file=sys.stderr)
            return 128 + (received[0] if received else signal.SIGINT)
        except NonFiniteError as error:
            progress.close()
            raise RunError(
                f"stopped after step {agent.num_timesteps:,} of the run, before it could enter "
                f"the replay: {error} {_how_to_resume(run)}"
            ) from error
        except OSError as error:
            progress.close()
            if error.errno not in NO_ROOM:
                raise
            raise RunError(
                f"no room left on the disk for {run.folder} ({error.strerror}). "
                f"Free some; nothing that was written before is lost. {_how_to_resume(run)}"
            ) from error
    _finish(agent, configuration, run, evaluations.done)
    return 0


def _finish(
    agent: OffPolicyAlgorithm, configuration: Configuration, run: Run, evaluated: list[dict]
) -> None:
    agent.logger.close()
    for line in draw_run(run.picture, configuration, evaluated, agent):
        print(line)
    last = evaluated[-1]
    print(
        f"Done: return {last['mean']:.2f} ± {last['std']:.2f} over {len(last['returns'])} "
        f"episodes after {last['timesteps']:,} steps.\n"
        f"  agent    {run.model}\n"
        f"  picture  {run.picture}\n"
        f"  curves   tensorboard --logdir {run.folder}"
    )


def _how_to_resume(run: Run) -> str:
    steps = [_steps(path) for path in run.checkpoints.glob("checkpoint-*.zip")]
    where = f"from step {max(steps):,}" if steps else "from the start: no checkpoint was due yet"
    return f"Go on ({where}): ebrl resume {run.folder}"


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.stem.rpartition("-")[2])


def _check_train_freq(agent: OffPolicyAlgorithm) -> None:
    """Stable-Baselines3 asks this only when the training has begun."""
    frequency = agent.train_freq
    in_episodes = isinstance(frequency, TrainFreq) and frequency.unit == TrainFrequencyUnit.EPISODE
    if in_episodes and agent.n_envs > 1:
        raise ValueError(f"train_freq in episodes wants n_envs 1, got {agent.n_envs}")


def _fitting_agents(action_space: spaces.Space) -> str:
    if isinstance(action_space, spaces.Discrete):
        return " For discrete actions: ebrl.agents.SoftQ or stable_baselines3.DQN."
    if isinstance(action_space, spaces.Box):
        return " For continuous actions: ebrl.agents.EnergyActorCritic or stable_baselines3.SAC."
    return ""
