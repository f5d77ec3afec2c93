"""Options of `cgrefine export` and `cgrefine lammps`: a run, or a bundle alone."""

from pathlib import Path

from cgrefine.errors import InputError
from cgrefine.interop.opened import folder_of


def bundle_to_check(
    config: Path | None, out: Path | None, bundle: Path | None, digest: str | None, check: bool
) -> Path | None:
    """The bundle of `export --check --bundle`; None when there is a run to export.

    Raises InputError on options that do not belong together.
    """
    if bundle is None:
        if config is None or out is None:
            raise InputError("export: give a CONFIG and --out, or --check with the --bundle to check")
        if digest is not None:
            raise InputError("export: --digest is what a given bundle must have: give --bundle")
        return None
    if config is not None or out is not None or not check:
        raise InputError("export: --bundle is only checked: give --check, and neither CONFIG nor --out")
    return folder_of(bundle)


def check_lammps_options(
    config: Path | None, bundle: Path | None, pdb: Path | None, digest: str | None
) -> None:
    """Raise InputError unless there is a configuration, or a bundle with a PDB file."""
    if (bundle is None) != (pdb is None):
        raise InputError("lammps: --bundle and --pdb are given together or not at all")
    if (config is None) == (bundle is None):
        raise InputError("lammps: nothing to run, or two things: give a CONFIG, or --bundle with --pdb")
    if bundle is None and digest is not None:
        raise InputError("lammps: --digest is what a given bundle must have: give --bundle")
