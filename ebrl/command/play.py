"""`ebrl play RUN`: watch the agent, with the energies of its actions beside the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebrl.command.arguments import Count, Parser, Seed, Strength
from ebrl.command.wording import counted

if TYPE_CHECKING:
    from jsonargparse import Namespace

HELP = """
Plays episodes with the agent of the run's newest checkpoint, in a window or, with --video, into a
file (.mp4, .gif). For an energy agent with discrete actions or one or two action dimensions, the
energies of the actions are drawn beside the picture, with actions sampled from the policy on them.

Actions are sampled from the policy; --greedy takes the most likely, as evaluations do.
--temperature samples at another temperature than the trained one.

examples:
  ebrl play runs/pendulum/EnergyActorCritic-0
  ebrl play runs/pendulum/EnergyActorCritic-0 --video swing.mp4 --greedy
  ebrl play runs/pendulum/EnergyActorCritic-0 --env_kwargs '{g: 5.0}' --temperature 0.5
"""


def main(arguments: list[str]) -> int:
    """Play with the run in `arguments[0]`."""
    parser = Parser("play", HELP)
    parser.add_run()
    parser.add_argument("--episodes", type=Count, default=1, help="how many to play")
    parser.add_argument(
        "--seed",
        type=Seed,
        default=30_000,
        help="seed of the first episode; each further episode adds 1",
    )
    parser.add_argument("--video", help="write a file, .mp4 or .gif, in place of a window")
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing video")
    parser.add_argument("--greedy", action="store_true", help="take the most likely action")
    parser.add_argument(
        "--temperature", type=Strength, help="sample the policy at this temperature"
    )
    parser.add_argument(
        "--env_kwargs", type=dict, help="arguments for `gymnasium.make`, in place of the run's"
    )
    return _play(parser.read(arguments))


def _play(given: Namespace) -> int:
    from pathlib import Path

    from ebrl.command.destinations import check_file
    from ebrl.command.pictures.agent_pictures import energy_unit
    from ebrl.command.pictures.films import Film, opened
    from ebrl.command.runs.folder import existing
    from ebrl.command.training.agent_training import rebuild

    run = existing(given.run)
    if given.video is not None:
        check_file("--video", Path(given.video), (".mp4", ".gif"), overwrite=given.overwrite)
    agent, configuration = rebuild(run, trust=given.trust)
    _set_temperature(agent, given.temperature)
    film = Film(agent, configuration, given.env_kwargs or {}, energy_unit(configuration))
    print(configuration.title)
    with film, opened(given.video, film.frames_per_second) as show:
        for episode in range(given.episodes):
            total, steps = film.play(given.seed + episode, show, greedy=given.greedy)
            print(f"  start {given.seed + episode}: return {total:.2f} in {counted(steps, 'step')}")
    if given.video is not None:
        print(f"  video  {given.video}")
    return 0


def _set_temperature(agent: object, temperature: float | None) -> None:
    """Set the sampling temperature; UsageError for an agent without one."""
    from ebrl.agents.soft_agent import SoftAgent
    from ebrl.command.errors import UsageError

    if temperature is None:
        return
    if not isinstance(agent, SoftAgent) or temperature == 0:
        raise UsageError(
            "--temperature: expected a number above 0 and an agent of ebrl.agents, got "
            f"{temperature:g} and {type(agent).__name__}; --greedy is temperature 0."
        )
    agent.policy.temperature.fill_(temperature)
