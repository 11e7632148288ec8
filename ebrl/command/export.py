"""`ebrl export RUN --onnx FILE`: the greedy policy as a file that runs without Python."""

from __future__ import annotations

from ebrl.command.arguments import Parser

HELP = """
Writes the greedy policy of the run's newest checkpoint to an ONNX file, for batches of any size.
Its input is `observation`, or one input for each key of a dictionary; images have their channels
first. Its output is `action`, in the environment's units. The file includes the normalisation of
observations by `normalize:`. It is kept only if its actions for random observations agree with the
agent's to 1e-5.

examples:
  ebrl export runs/pendulum/EnergyActorCritic-0 --onnx pendulum.onnx
  ebrl export runs/pendulum/SAC-0 --onnx sac.onnx
"""


def main(arguments: list[str]) -> int:
    """Export the agent of the run in `arguments[0]`."""
    parser = Parser("export", HELP)
    parser.add_run()
    parser.add_argument("--onnx", metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing file")
    given = parser.read(arguments)
    from pathlib import Path

    from ebrl.command.destinations import check_file
    from ebrl.command.errors import RunError, extra
    from ebrl.command.runs.folder import existing

    path, run = Path(given.onnx), existing(given.run)
    check_file("--onnx", path, overwrite=given.overwrite)
    from importlib.metadata import version

    from ebrl.agents.exporting import check_packages, save_onnx
    from ebrl.command.training.agent_training import rebuild

    with extra("export", "onnx", "onnxruntime", "onnxscript"):
        check_packages()

    agent, configuration = rebuild(run, trust=given.trust)
    facts = {
        "agent": type(agent).__name__,
        "environment": configuration.environment,
        "timesteps": str(agent.num_timesteps),
        "ebrl": version("ebrl"),
    }
    try:
        difference = save_onnx(agent, path, facts)
    except RuntimeError as error:
        raise RunError(str(error)) from error
    print(
        f"{configuration.title}, after {agent.num_timesteps:,} steps: its actions differ from the "
        f"agent's by {difference:.1e} at most\n  onnx {path}"
    )
    return 0
