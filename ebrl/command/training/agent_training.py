"""The training of an agent's run, from the start or from a checkpoint."""

from __future__ import annotations

import sys
import warnings
from contextlib import closing

import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from ebrl.agents import compilation
from ebrl.agents.checkpoints import Checkpoints, Restored, restore
from ebrl.agents.finite import check_finite_agent
from ebrl.command.configs.agent_config import TrainConfiguration, read
from ebrl.command.configs.trust import command
from ebrl.command.environments.building import training_environment
from ebrl.command.environments.evaluation import Evaluations
from ebrl.command.errors import RunError, UsageError
from ebrl.command.pictures.agent_pictures import draw_run
from ebrl.command.runs.folder import Run, no_checkpoint, read_evaluations, write_evaluations
from ebrl.command.runs.normalization import save_normalization
from ebrl.command.training.divergence import explained_by_divergence
from ebrl.command.training.endings import ending_well
from ebrl.command.training.offline import learn
from ebrl.command.training.progress import AgentProgress
from ebrl.command.wording import counted
from ebrl.storage import StorageError


def build(
    configuration: TrainConfiguration, device: torch.device | None = None
) -> OffPolicyAlgorithm:
    """Build the untrained agent of a run, with its environments; the same each time.

    Args:
        configuration: Configuration of the run.
        device: Where the agent computes, in place of the config's device.

    Raises:
        UsageError: If agent and environment do not fit.
    """
    torch.set_num_threads(configuration.settings.threads)
    environment = training_environment(configuration)
    arguments = {**configuration.agent_arguments, "env": environment}
    if device is not None:
        arguments["device"] = device
    try:
        agent = configuration.agent_class(**arguments, seed=configuration.settings.seed)
        _check_train_freq(agent)
        return agent
    except (AssertionError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        name = configuration.agent_class.__name__
        raise UsageError(
            f"{name} cannot be built for {configuration.environment}: {error}."
            f"{_fitting_agents(environment.action_space) if 'action spaces' in str(error) else ''}"
        ) from error


def restore_newest(agent: OffPolicyAlgorithm, run: Run) -> Restored | None:
    """Restore `agent` from the newest whole checkpoint; report on stderr what was not restored.

    Returns:
        What was restored; None when there is no checkpoint yet.

    Raises:
        RunError: If no checkpoint can be read.
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


def rebuild(
    run: Run, *, trust: bool = False, device: torch.device | None = None
) -> tuple[OffPolicyAlgorithm, TrainConfiguration]:
    """Build the agent of a run with the state of its newest checkpoint.

    Args:
        run: Its folder.
        trust: Whether its config may name code of any package.
        device: Where it computes, in place of the config's.

    Raises:
        RunError: If the run has no checkpoint yet.
        UsageError: If the config names code that is not trusted.
    """
    configuration = read(run.config, trust=trust)
    agent = build(configuration, device)
    if restore_newest(agent, run) is None:
        raise no_checkpoint(run)
    return agent, configuration


def train_to_end(
    agent: OffPolicyAlgorithm, configuration: TrainConfiguration, run: Run, resumed: Restored | None
) -> int:
    """Train until the run has all its steps; then save the agent and draw it.

    Returns:
        The exit code.

    Raises:
        RunError: If the training stopped early; its state is saved.
    """
    total = configuration.settings.total_timesteps
    evaluated = [e for e in read_evaluations(run) if e["timesteps"] <= agent.num_timesteps]
    evaluations = Evaluations(configuration, run, evaluated)
    checkpoints = Checkpoints(
        run.checkpoints, every=configuration.settings.checkpoint_every, resumed=resumed
    )

    def stop() -> None:
        checkpoints.request(stop=True)
        evaluations.abandon()
        if compilation.is_under_way():  # the newest checkpoint is as far as one can go back to
            raise KeyboardInterrupt

    def save() -> None:
        if agent.num_timesteps > 0:
            checkpoints.write_broken_off()

    progress = AgentProgress(total, evaluations)
    with ending_well(run, stop, save), closing(progress), explained_by_divergence(agent):
        write_evaluations(run, evaluated)
        agent.set_logger(configure(str(run.folder), ["tensorboard"]))
        if agent.num_timesteps < total:
            callbacks = [evaluations, checkpoints, progress]
            learn(agent, configuration, total - agent.num_timesteps, callbacks)
        check_finite_agent(agent)
        evaluations.finish(agent)
        agent.save(run.model)
        save_normalization(agent, run)
    _finish(agent, configuration, run, evaluations.done)
    return 0


def _finish(
    agent: OffPolicyAlgorithm, configuration: TrainConfiguration, run: Run, evaluated: list[dict]
) -> None:
    agent.logger.close()
    left_out = draw_run(run.picture, configuration, evaluated, agent)
    last = evaluated[-1]
    lines = [
        *left_out,
        f"Done: return {last['mean']:.2f} ± {last['std']:.2f} over "
        f"{counted(len(last['returns']), 'episode')} after {last['timesteps']:,} steps.",
        f"  agent    {run.model}",
        f"  picture  {run.picture}",
        f"  curves   tensorboard --logdir {run.folder}",
        f"  watch    {command('play', run.folder)}",
    ]
    if run.best.exists():
        lines.insert(-3, f"  best     {run.best}")
    print("\n".join(lines))


def _check_train_freq(agent: OffPolicyAlgorithm) -> None:
    """Stable-Baselines3 asks this only when the training has begun."""
    frequency = agent.train_freq
    in_episodes = isinstance(frequency, TrainFreq) and frequency.unit == TrainFrequencyUnit.EPISODE
    if in_episodes and agent.n_envs > 1:
        raise ValueError(f"train_freq in episodes needs n_envs=1, got {agent.n_envs}")


def _fitting_agents(action_space: spaces.Space) -> str:
    if isinstance(action_space, spaces.Discrete):
        return " For discrete actions: ebrl.agents.SoftQ or stable_baselines3.DQN."
    if isinstance(action_space, spaces.Box):
        return " For continuous actions: ebrl.agents.EnergyActorCritic or stable_baselines3.SAC."
    return ""
