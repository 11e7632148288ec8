"""`ebrl evaluate RUN`: mean ± sd of the return over fresh episodes."""

from __future__ import annotations

from ebrl.command.arguments import Count, Parser, Seed
from ebrl.command.devices import add_device, device_of
from ebrl.command.wording import counted

HELP = """
Plays greedy episodes with the agent of the run's newest checkpoint, from starts that the
evaluations during training did not use. Prints the mean and the standard deviation of their
returns, and writes every return to RUN/evaluation-STEPS.json, where STEPS counts the agent's
training steps. To watch episodes: `ebrl play RUN`.

examples:
  ebrl evaluate runs/pendulum/EnergyActorCritic-0
  ebrl evaluate runs/pendulum/SAC-0 --episodes 20 --seed 7
"""


def main(arguments: list[str]) -> int:
    """Evaluate the run in `arguments[0]`."""
    parser = Parser("evaluate", HELP)
    parser.add_run()
    parser.add_argument("--episodes", type=Count, default=100, help="how many to play")
    parser.add_argument(
        "--seed",
        type=Seed,
        default=20_000,
        help="seed of the first episode; each further episode adds 1",
    )
    parser.add_argument(
        "--render", action="store_true", help="watch one in a window, as `ebrl play --greedy` does"
    )
    add_device(parser)
    given = parser.read(arguments)
    if given.render:
        from ebrl.command.play import main as watch

        more = ["--trust"] if given.trust else []
        return watch([given.run, "--greedy", "--seed", str(given.seed), *more])
    import sys

    from ebrl.command.environments.building import evaluation_environments
    from ebrl.command.environments.evaluation import SIDE_BY_SIDE, play, why_cut
    from ebrl.command.runs.folder import existing, write_json
    from ebrl.command.training.agent_training import rebuild

    run = existing(given.run)
    agent, configuration = rebuild(run, trust=given.trust, device=device_of(given.device))
    environments = evaluation_environments(configuration, SIDE_BY_SIDE)
    longest = configuration.settings.evaluation_steps
    episodes = play(agent, environments, given.seed, given.episodes, longest=longest)
    environments.close()
    entry = {"timesteps": agent.num_timesteps, **episodes.summary()}
    path = run.folder / f"evaluation-{agent.num_timesteps}.json"
    write_json(path, entry)
    if note := why_cut(episodes, longest):
        print(note, file=sys.stderr)
    print(
        f"{configuration.title}, after {agent.num_timesteps:,} steps: "
        f"return {entry['mean']:.2f} ± {entry['std']:.2f} "
        f"(mean ± sd of {counted(given.episodes, 'episode')})"
        f"\n  episodes {path}"
    )
    return 0
