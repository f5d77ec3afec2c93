"""What `cgrefine train` does with its options before the stage begins."""

import os
import sys

from cgrefine import distributed
from cgrefine.errors import InputError


def resumes(asked: str) -> bool:
    """Whether checkpoints are taken up. Raises InputError on anything but auto and never."""
    if asked not in ("auto", "never"):
        raise InputError(f"--resume {asked}: choose from auto, never")
    return asked == "auto"


def joined(asked: str | None, processes: int | None, index: int | None) -> bool:
    """Join the processes that train together, and report who came; whether this is the first of them.

    Raises InputError when they do not all come, or options are given that have no use.
    """
    if asked is None:
        if processes is not None or index is not None:
            raise InputError("--processes and --process go with --distributed HOST:PORT")
        return True
    found = distributed.start(distributed.place(asked, processes, index, os.environ))
    if found is not None and distributed.is_first():
        sys.stderr.write(f"cgrefine: {found.text()}\n")
    return distributed.is_first()
