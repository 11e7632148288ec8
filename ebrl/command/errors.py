"""Failures with a message for the user; any other error is a bug and keeps its traceback."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Errors of the operating system for a full disk, a quota, a file size limit.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UsageError(Exception):
    """The command line or the config asks for something that cannot be done. Exit code 2."""

    exit_code = 2


class RunError(Exception):
    """Work that was asked for correctly failed. Exit code 1."""

    exit_code = 1


class EnvironmentFailure(RunError):
    """An environment raised an error, or gave numbers that are not finite."""

    traceback = ""  # of the environment's own error, if there is one


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean `x`?' for the nearest of the `known` names, '' when none is near."""
    nearest = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return f" Did you mean `{nearest[0]}`?" if nearest else ""


@contextmanager
def extra(name: str, *packages: str) -> Iterator[None]:
    """Say which extra to install where one of its packages is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in packages:
            raise
        raise RunError(f"this needs {missing}: pip install 'ebrl[{name}]'") from error
