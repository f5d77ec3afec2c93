"""A force field from its folder, whatever stage wrote it."""

from pathlib import Path

from cgrefine.errors import InputError
from cgrefine.export.bundle import META
from cgrefine.export.loaded import Loaded, load_model
from cgrefine.fm import forcefield
from cgrefine.fm.forcefield import ForceField
from cgrefine.fm.priors.terms import prior_terms

Modelled = ForceField | Loaded
"""What has a model and its params."""


def folder_of(path: Path) -> Path:
    """The folder with forcefield.json or a bundle's meta.json: the path, or forcefield/ or bundle/ in it.

    Raises InputError on a path that holds neither.
    """
    for folder, file in ((path, "forcefield.json"), (path / "forcefield", "forcefield.json"), (path, META)):
        if (folder / file).is_file():
            return folder
    if (path / "bundle" / META).is_file():
        return path / "bundle"
    raise InputError(
        f"{path}: holds neither a force field (forcefield.json) nor a bundle ({META}); give the train, "
        "priors or export folder of a run"
    )


def opened(path: Path) -> Modelled:
    """The force field of a train or priors stage, or the bundle of an export stage, in a folder.

    Raises InputError on a path that holds neither, and on files that are damaged.
    """
    folder = folder_of(path)
    if (folder / "forcefield.json").is_file():
        return forcefield.load(folder)
    return load_model(folder, prior_terms)
