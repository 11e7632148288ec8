"""`ebrl plot RUN`: the learning curve, and the energy landscape that the policy samples from."""

from __future__ import annotations

from ebrl.command.arguments import Parser

HELP = """
Draws RUN/plot.png from the evaluations so far and the newest checkpoint: the learning curve and,
for an energy agent with one or two action dimensions or discrete actions, the energy of the
actions in three states of an episode, with actions sampled from the policy on it.

examples:
  ebrl plot runs/pendulum/EnergyActorCritic-0
  ebrl plot runs/pendulum/SAC-0                                the learning curve alone
"""


def main(arguments: list[str]) -> int:
    """Draw the run in `arguments[0]`."""
    parser = Parser("plot", HELP)
    parser.add_run()
    given = parser.read(arguments)
    from ebrl.command.configs.trust import command
    from ebrl.command.errors import RunError
    from ebrl.command.pictures.agent_pictures import draw_run
    from ebrl.command.runs.folder import existing, read_evaluations
    from ebrl.command.training.agent_training import rebuild

    run = existing(given.run)
    evaluations = read_evaluations(run)
    if not evaluations:
        raise RunError(
            f"{run.folder} has not been evaluated yet: there is nothing to draw. "
            f"Train it: {command('resume', run.folder)}"
        )
    agent, configuration = rebuild(run, trust=given.trust)
    for line in draw_run(run.picture, configuration, evaluations, agent):
        print(line)
    print(f"picture  {run.picture}")
    return 0
