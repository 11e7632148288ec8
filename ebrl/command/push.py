"""`ebrl push RUN --hub NAME`: publish a run on the Hugging Face Hub."""

from __future__ import annotations

from ebrl.command.arguments import Parser

HELP = """
Publishes a run as a model repository: its config, its weights and newest checkpoint (safetensors),
its evaluations and picture, and a model card with its figures, the command that made it, the
versions that it ran under, and its licence. None of it is a pickle. `ebrl pull NAME` downloads it
as a run folder, which `ebrl evaluate`, `ebrl play` and `ebrl resume` take.

Log in first: `hf auth login`, or the environment variable HF_TOKEN.

examples:
  ebrl push runs/pendulum/EnergyActorCritic-0 --hub me/pendulum
  ebrl push runs/two_moons/persistent-0 --hub me/two-moons --private --license cc-by-4.0
"""


def main(arguments: list[str]) -> int:
    """Publish the run in `arguments[0]`."""
    parser = Parser("push", HELP)
    parser.add_argument("run", metavar="RUN", help="the folder of the run")
    parser.add_argument("--hub", required=True, help="the repository, NAMESPACE/NAME")
    parser.add_argument(
        "--license", default="mit", help="the licence of the weights, as the Hub names it"
    )
    parser.add_argument("--private", action="store_true", help="a repository that only you can see")
    parser.add_argument("--endpoint", help="address of a Hub other than the public one")
    given = parser.read(arguments)
    from tempfile import TemporaryDirectory

    from ebrl.command.runs.folder import existing
    from ebrl.command.runs.hub import asking, stage

    run = existing(given.run, of=None)
    with TemporaryDirectory() as folder, asking(given.endpoint) as hub:
        names = stage(run, folder, given.hub, given.license)
        hub.create_repo(given.hub, private=given.private, exist_ok=True)
        hub.upload_folder(
            repo_id=given.hub, folder_path=folder, commit_message=f"ebrl push: {len(names)} files"
        )
        print(f"{run.folder}: {', '.join(names)}\n  published  {hub.endpoint}/{given.hub}")
    return 0
