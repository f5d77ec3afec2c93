"""A force field from its folder, whatever stage wrote it."""

from pathlib import Path

from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.forcefield import ForceField


def opened(path: Path) -> ForceField:
    """The force field in a folder: that of a train or priors stage, or forcefield/ in it.

    Raises InputError on a path that holds none.
    """
    for folder in (path, path / "forcefield"):
        if (folder / "forcefield.json").is_file():
            return forcefield.load(folder)
    raise InputError(
        f"{path}: holds no force field (forcefield.json); give the train or priors folder of a run"
    )
