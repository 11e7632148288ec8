"""`ebrl collect RUN`: play episodes and record every transition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebrl.command.arguments import Count, Parser, Seed
from ebrl.command.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonargparse import Namespace

    from ebrl.command.environments.collection import Episode

HELP = """
Plays episodes with the agent of the run's newest checkpoint and writes every transition to an .npz
file or, with --minari, to a Minari dataset on this machine. `ebrl train CONFIG --offline DATA`
trains on them, `--prefill DATA` starts a replay with them.

The file holds the arrays observations, actions, rewards, next_observations, terminations and
truncations, one row per step. Dictionary observations have one array per key, observations.KEY. An
existing file is overwritten only with --overwrite. Actions are sampled from the policy; --greedy
takes the most likely. After Ctrl-C or an error of the environment, the whole episodes are kept.

examples:
  ebrl collect runs/pendulum/EnergyActorCritic-0 --episodes 100
  ebrl collect runs/pendulum/EnergyActorCritic-0 --out swings.npz --greedy
  ebrl collect runs/pendulum/EnergyActorCritic-0 --minari pendulum/swings-v0
  ebrl train pendulum --agent ebrl.agents.ImplicitCloning --offline swings.npz
"""


def main(arguments: list[str]) -> int:
    """Collect episodes of the run in `arguments[0]`."""
    parser = Parser("collect", HELP)
    parser.add_run()
    parser.add_argument("--episodes", type=Count, default=100, help="how many to play")
    parser.add_argument("--seed", type=Seed, default=40_000, help="seed of the first episode")
    parser.add_argument("--greedy", action="store_true", help="take the most likely action")
    parser.add_argument("--out", help="the file (default: RUN/episodes.npz)")
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing file")
    parser.add_argument("--minari", help="write a Minari dataset of this name, NAMESPACE/NAME-v0")
    return _collect(parser.read(arguments))


def _collect(given: Namespace) -> int:
    from pathlib import Path

    from ebrl.agents.demonstrations import save, transitions_of
    from ebrl.command.destinations import check_file
    from ebrl.command.environments.collection import check_name, play_episodes, write_minari
    from ebrl.command.runs.folder import existing
    from ebrl.command.training.agent_training import rebuild

    run = existing(given.run)
    path = Path(given.out) if given.out is not None else run.folder / "episodes.npz"
    if given.minari is not None:
        check_name(given.minari)
    else:
        check_file("--out", path, (".npz",), overwrite=given.overwrite)
    agent, configuration = rebuild(run, trust=given.trust)
    episodes, stopped = _played(
        play_episodes(agent, configuration, given.seed, given.episodes, greedy=given.greedy)
    )
    if stopped and not episodes:
        raise stopped
    if given.minari is not None:
        where = write_minari(given.minari, configuration, episodes, agent)
    else:
        save(path, transitions_of(episodes))
        where = str(path)
    returns = [float(episode["rewards"].sum()) for episode in episodes]
    steps = sum(len(episode["rewards"]) for episode in episodes)
    print(
        f"{configuration.title}: {counted(steps, 'step')} of "
        f"{counted(len(episodes), 'episode')}, "
        f"mean return {sum(returns) / len(returns):.2f}\n  data  {where}"
    )
    if stopped:
        raise stopped
    return 0


def _played(playing: Iterator[Episode]) -> tuple[list[Episode], BaseException | None]:
    """Return the whole episodes, and what stopped them before the last."""
    from ebrl.command.errors import EnvironmentFailure

    episodes: list[Episode] = []
    try:
        for episode in playing:
            episodes.append(episode)  # noqa: PERF402, those before an error are kept
    except (KeyboardInterrupt, EnvironmentFailure) as error:
        return episodes, error
    return episodes, None
