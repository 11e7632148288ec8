"""`ebrl pull NAME`: get a run that was published on the Hugging Face Hub."""

from __future__ import annotations

from ebrl.command.arguments import Parser

HELP = """
Downloads a run that `ebrl push` published, into runs/hub/NAME or --run FOLDER. Only the files of a
run are taken, and reading them runs no code. `ebrl evaluate` and the other verbs refuse a config
that names code of other packages, unless you add --trust.

examples:
  ebrl pull me/pendulum
  ebrl pull me/pendulum --revision 3f2a9c1 --run runs/old
  ebrl play runs/hub/pendulum                                  watch what was pulled
"""


def main(arguments: list[str]) -> int:
    """Get the run of the repository in `arguments[0]`."""
    parser = Parser("pull", HELP)
    parser.add_argument("name", metavar="NAME", help="the repository, NAMESPACE/NAME")
    parser.add_argument("--run", help="the folder for the run (default: runs/hub/NAME)")
    parser.add_argument("--revision", help="a commit, branch or tag")
    parser.add_argument("--endpoint", help="address of a Hub other than the public one")
    given = parser.read(arguments)
    from tempfile import TemporaryDirectory

    from ebrl.command.runs.hub import PULLED, asking, unpack

    target = given.run or f"runs/hub/{given.name.rpartition('/')[2]}"
    with TemporaryDirectory() as folder:
        fresh = f"{folder}/run"  # the client returns a folder that exists, whatever it holds
        with asking(given.endpoint) as hub:
            hub.snapshot_download(
                given.name, revision=given.revision, local_dir=fresh, allow_patterns=list(PULLED)
            )
        run = unpack(fresh, given.name, target)
    print(f"{given.name}\n  run  {run.folder}")
    return 0
