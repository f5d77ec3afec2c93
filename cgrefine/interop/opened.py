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

PLACES = (
    (".", "forcefield.json"), ("forcefield", "forcefield.json"), (".", META), ("bundle", META),
    ("train/forcefield", "forcefield.json"),
)  # fmt: skip
"""Where a force field or a bundle is looked for, in order, and the file that tells."""


def folder_of(path: Path) -> Path:
    """The folder with forcefield.json or a bundle's meta.json: the path, or one below it, see PLACES.

    A file is the zip of a bundle, and is its own folder. Raises InputError on a path that holds neither.
    """
    if path.is_file():
        return path
    for place, file in PLACES:
        if (path / place / file).is_file():
            return path / place
    raise InputError(
        f"{path}: holds neither a force field (forcefield.json) nor a bundle ({META}); give a run, its "
        "train, priors or export folder, or the folder of a force field or bundle"
    )


def opened(path: Path) -> Modelled:
    """The force field of a train or priors stage, or the bundle of an export stage, in a folder or zip.

    Raises InputError on a path that holds neither, and on files that are damaged.
    """
    folder = folder_of(path)
    if (folder / "forcefield.json").is_file():
        return forcefield.load(folder)
    return load_model(folder, prior_terms)
