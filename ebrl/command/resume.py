"""`ebrl resume RUN`: continue an interrupted run, or extend a finished one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ebrl.command.arguments import Count, Parser

if TYPE_CHECKING:
    from ebrl.command.runs.folder import Run

HELP = """
Continues a run that was stopped, killed, or ended by a full disk, in its own folder and from its
newest whole checkpoint. The result is that of an uninterrupted run, bit for bit, on the same
machine with the same versions. A finished run continues if you make it longer; its config then
holds the new length.

examples:
  ebrl resume runs/pendulum/EnergyActorCritic-0
  ebrl resume runs/pendulum/EnergyActorCritic-0 --total_timesteps 50000
  ebrl resume runs/two_moons/persistent-0 --steps 5000
  ebrl resume runs/two_moons/persistent-0 --devices 2          if its `shares` are 2, 4, ...
"""


def main(arguments: list[str]) -> int:
    """Continue the run in `arguments[0]`."""
    parser = Parser("resume", HELP)
    parser.add_run()
    parser.add_argument(
        "--total_timesteps",
        type=Count,
        help="environment steps of an agent's run in all, to make it longer",
    )
    parser.add_argument(
        "--steps", type=Count, help="updates of an energy's run in all, to make it longer"
    )
    parser.add_argument(
        "--devices",
        type=Count,
        default=1,
        help="processes that train an energy; they divide the shares of its batch",
    )
    given = parser.read(arguments)
    from ebrl.command.errors import UsageError
    from ebrl.command.runs.folder import existing, sole_writer, trains_energy

    run = existing(given.run, of=None)
    fits = trains_energy(run)
    foreign = "total_timesteps" if fits else "steps"
    if given[foreign] is not None:
        own = "steps" if fits else "total_timesteps"
        raise UsageError(f"--{foreign}: the length of {run.folder} is --{own}.")
    if given.devices > 1:
        from ebrl.command.training.processes import take_devices, train_in

        if not fits:
            raise UsageError("--devices: an agent is trained by one process.")
        return train_in(int(given.devices), ["resume", *take_devices(arguments)[1]])
    if fits:
        return _resume_energy(run, given.steps, trust=given.trust)
    with sole_writer(run):
        return _resume_agent(run, given.total_timesteps, trust=given.trust)


def _resume_energy(run: Run, steps: int | None, *, trust: bool) -> int:
    from ebrl.command.configs.energy_config import build, read_fit
    from ebrl.command.runs.folder import sole_writer, write
    from ebrl.command.training.energy_training import train_to_end
    from ebrl.command.training.processes import joined
    from ebrl.rolling import checkpoints_in

    options = [] if steps is None else ["--steps", str(steps)]
    with joined() as rank, sole_writer(run) if rank == 0 else nullcontext():
        configuration = read_fit(run.config, options, trust=trust)
        _expect_no_shorter(configuration.parsed.steps, checkpoints_in(run.checkpoints), steps)
        setup = build(configuration)

        def lengthen() -> None:
            if steps is not None and rank == 0:
                write(run.config, configuration.text)

        return train_to_end(configuration, setup, run, lengthen)


def _resume_agent(run: Run, total_timesteps: int | None, *, trust: bool) -> int:
    from ebrl.command.configs.agent_config import read
    from ebrl.command.configs.trust import command
    from ebrl.command.runs.folder import write
    from ebrl.command.training.agent_training import build, restore_newest, train_to_end
    from ebrl.command.training.offline import fill_replay
    from ebrl.rolling import checkpoints_in

    options = [] if total_timesteps is None else ["--total_timesteps", str(total_timesteps)]
    configuration = read(run.config, options, trust=trust)
    total = configuration.settings.total_timesteps
    _expect_no_shorter(total, checkpoints_in(run.checkpoints), total_timesteps)
    agent = build(configuration)
    resumed = restore_newest(agent, run)
    if resumed is None:
        fill_replay(agent, configuration)
    if total_timesteps is not None:
        write(run.config, configuration.text)
    if agent.num_timesteps < total:
        print(f"{run.folder}: going on from step {agent.num_timesteps:,} of {total:,}.")
    else:
        print(
            f"{run.folder} has all its {agent.num_timesteps:,} steps. "
            f"More: {command('resume', run.folder)} --total_timesteps {2 * agent.num_timesteps}"
        )
    return train_to_end(agent, configuration, run, resumed)


def _expect_no_shorter(total: int, checkpoints: list[Path], asked: int | None) -> None:
    """Raise UsageError for a length that the run has already reached."""
    from ebrl.command.errors import UsageError
    from ebrl.rolling import step_of

    reached = max(map(step_of, checkpoints), default=0)
    if asked is not None and total < reached:
        raise UsageError(f"the run has {reached:,} steps already: expected more, got {total:,}.")
