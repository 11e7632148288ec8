"""The `ebrl` command: one module a verb, imported only when it is called."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from collections.abc import Sequence

from ebrl.command.errors import NO_ROOM, RunError, UsageError, did_you_mean
from ebrl.command.output import abandon_output, open_output

VERBS = {
    "train": "train an agent from a config, into a new run folder",
    "fit": "train an energy on data from a config, into a new run folder",
    "sample": "draw from the energy of a run",
    "denoise": "remove the noise from photographs",
    "restore": "sharpen, enlarge or complete photographs",
    "generate": "generate images",
    "serve": "denoise photographs on a page in the browser",
    "score": "show how unlikely sentences are, token by token",
    "rank": "order sentences by their energy",
    "repair": "correct a sentence by a few edits",
    "resume": "continue an interrupted run, with the result of an uninterrupted one",
    "evaluate": "measure the return of a run's agent: mean ± sd over episodes",
    "plot": "draw the learning curve and the energy landscape of a run",
    "collect": "play episodes and keep every transition, to train on",
    "push": "publish a run on the Hugging Face Hub",
    "pull": "get a run that was published there",
    "play": "watch the agent of a run, with the energies of its actions",
    "sweep": "search for the best values of a config, over seeds and tasks",
    "export": "write the greedy policy of a run as ONNX",
    "compare": "compare methods over seeds and tasks, with intervals",
}

HELP = """usage: ebrl VERB ...

Energy-based models and reinforcement learning from the command line.

verbs:
{verbs}

examples:
  ebrl train                                                   list the configs
  ebrl train pendulum                                          train an agent in minutes
  ebrl train pendulum --seed 1 --agent.learning_rate 3e-4
  ebrl train baselines/pendulum                                SB3's SAC on the same task
  ebrl resume runs/pendulum/EnergyActorCritic-0                continue after Ctrl-C or a crash
  ebrl fit fit/two_moons                                       an energy of points in the plane
  ebrl sample runs/two_moons/persistent-0 --n 1000             draw from it
  ebrl denoise photo.jpg                                       photo-denoised.jpg beside it
  ebrl restore photo.jpg --blur gaussian:1.6                   photo-restored.jpg beside it
  ebrl generate --out grid.png                                 64 images of clothes
  ebrl serve                                                   a page to denoise photographs on
  ebrl score "The cat sat on the mat."                         its energy, token by token
  ebrl rank candidates.txt                                     the most likely first
  ebrl repair "This is one of best films of the year."         correct it by a few edits
  ebrl evaluate runs/pendulum/EnergyActorCritic-0 --episodes 100
  ebrl plot runs/pendulum/EnergyActorCritic-0
  ebrl collect runs/pendulum/EnergyActorCritic-0 --out swings.npz
  ebrl play runs/pendulum/EnergyActorCritic-0 --video swing.mp4
  ebrl export runs/pendulum/EnergyActorCritic-0 --onnx pendulum.onnx
  ebrl push runs/pendulum/EnergyActorCritic-0 --hub me/pendulum
  ebrl pull me/pendulum
  ebrl sweep pendulum agent.learning_rate=1e-4:1e-2:log --seeds 3
  ebrl compare runs/pendulum/*                                 curves, scores and intervals

`ebrl VERB --help` describes a verb. Documentation: https://ebrl-dev.github.io/ebrl/"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code.

    0 done, 1 the work failed, or a part of it (a sentence, a photograph, a task) could not be done,
    2 the command or its config is wrong, 128 + n stopped by signal n.
    """
    open_output()
    if arguments is None:
        atexit.register(gc.freeze)  # collecting all of torch's objects would take most of a second
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = _run(verb, rest)
        sys.stdout.flush()
        return code
    except (UsageError, RunError) as error:
        print(f"ebrl: {' '.join(str(error).split())}", file=sys.stderr)  # one line
        return error.exit_code
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        abandon_output()
        return 141
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        room = "no room left on the disk: " if error.errno in NO_ROOM else ""
        what = error.strerror or str(error) or type(error).__name__
        print(f"ebrl: {room}{what}{where}.", file=sys.stderr)
        abandon_output()
        return RunError.exit_code
    except KeyboardInterrupt:
        print("ebrl: interrupted.", file=sys.stderr)
        return 130


def _run(verb: str, rest: list[str]) -> int:
    if verb in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(HELP.format(verbs="\n".join(f"  {v:<{width}}  {t}" for v, t in VERBS.items())))
        return 0
    if verb == "--version":
        from importlib.metadata import version

        print(f"ebrl {version('ebrl')}")
        return 0
    if verb not in VERBS:
        raise UsageError(
            f"unknown verb `{verb}`.{did_you_mean(verb, VERBS)} Known: {', '.join(VERBS)}."
        )
    return importlib.import_module(f"ebrl.command.{verb}").main(rest)
