"""`ebrl resume RUN`: go on with an interrupted run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebrl.command.arguments import parse

if TYPE_CHECKING:
    from ebrl.command.runs import Run

EXAMPLES = """
A run that was stopped, killed, or ended by a full disk goes on from its newest whole checkpoint,
to the same result, bit for bit, as if it had never been interrupted (same machine, same versions).

examples:
  ebrl resume runs/pendulum/EnergyActorCritic-0
  ebrl resume runs/two_moons/persistent-0
"""


def main(arguments: list[str]) -> int:
    """Go on with the run in `arguments[0]`."""
    given = parse("resume", EXAMPLES, {}, arguments)
    from ebrl.command.runs import existing, sole_writer, trains_energy

    run = existing(given.run, of=None)
    with sole_writer(run):
        return _resume_energy(run) if trains_energy(run) else _resume_agent(run)


def _resume_energy(run: Run) -> int:
    from ebrl.command.energy_config import build, read_fit
    from ebrl.command.energy_training import train_to_end

    configuration = read_fit(run.config)
    return train_to_end(configuration, build(configuration), run)


def _resume_agent(run: Run) -> int:
    from ebrl.command.agent_config import read
    from ebrl.command.agent_training import build, restore_newest, train_to_end

    configuration = read(run.config)
    agent = build(configuration)
    resumed = restore_newest(agent, run)
    steps, total = agent.num_timesteps, configuration.settings.total_timesteps
    if steps < total:
        print(f"{run.folder}: going on from step {steps:,} of {total:,}.")
    else:
        print(f"{run.folder} has all its {steps:,} steps.")
    return train_to_end(agent, configuration, run, resumed)
