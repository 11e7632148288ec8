"""`ebrl evaluate RUN`: mean ± sd of the return over fresh episodes."""

from __future__ import annotations

from ebrl.command.arguments import parse

EXAMPLES = """
Plays greedy episodes with the agent of the run's newest checkpoint, from starts that the
evaluations during training did not use, and writes RUN/evaluation-STEPS.json.

examples:
  ebrl evaluate runs/pendulum/EnergyActorCritic-0
  ebrl evaluate runs/pendulum/SAC-0 --episodes 20 --seed 7
"""
OPTIONS = {
    "episodes": (100, 1, "how many episodes to play"),
    "seed": (20_000, 0, "seed of the first episode's start; the others follow it"),
}


def main(arguments: list[str]) -> int:
    """Evaluate the run in `arguments[0]`."""
    given = parse("evaluate", EXAMPLES, OPTIONS, arguments)
    from ebrl.command.agent_training import rebuild
    from ebrl.command.environments import evaluation_environments
    from ebrl.command.evaluation import SIDE_BY_SIDE, play
    from ebrl.command.runs import existing, write_json

    run = existing(given.run)
    agent, configuration = rebuild(run)
    environments = evaluation_environments(configuration, SIDE_BY_SIDE)
    episodes = play(agent, environments, given.seed, given.episodes)
    environments.close()
    entry = {"timesteps": agent.num_timesteps, **episodes.summary()}
    path = run.folder / f"evaluation-{agent.num_timesteps}.json"
    write_json(path, entry)
    print(
        f"{configuration.title}, after {agent.num_timesteps:,} steps: "
        f"return {entry['mean']:.2f} ± {entry['std']:.2f} (mean ± sd of {given.episodes} episodes)"
        f"\n  episodes {path}"
    )
    return 0
