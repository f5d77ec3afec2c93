"""The trained force field at the temperature that a stage works at."""

from pathlib import Path

from cgrefine.cli.console import Console
from cgrefine.config.schema import Config
from cgrefine.errors import InputError
from cgrefine.fm import forcefield
from cgrefine.fm.forcefield import ForceField


def trained_at(train: Path, temperature_K: float, console: Console) -> ForceField:
    """The force field of a train stage, fixed at a temperature where its network is conditioned on it.

    Warns of a temperature outside those that the network was trained at.
    """
    return _fixed(forcefield.load(train / "forcefield"), temperature_K, console)


def _fixed(force_field: ForceField, temperature_K: float, console: Console) -> ForceField:
    trained = forcefield.conditioned_range(force_field)
    if trained is not None and not trained[0] <= temperature_K <= trained[1]:
        console.result(
            f"warning: {temperature_K:g} K is outside the {trained[0]:g} to {trained[1]:g} K of the frames "
            "that the network was trained on: its energy is extrapolated"
        )
    return forcefield.at_temperature(force_field, temperature_K)


def force_field_folder(name: str) -> Path:
    """The folder with forcefield.json of a run, of its train or priors folder, or itself; else InputError."""
    places = [Path(name), Path(name) / "forcefield", Path(name) / "train" / "forcefield"]
    folder = next((place for place in places if (place / "forcefield.json").is_file()), None)
    if folder is None:
        raise InputError(
            f"{name}: holds no force field (forcefield.json); give a run folder, its train or priors "
            "folder, or the folder of a force field"
        )
    return folder


def opened(name: str, temperature_K: float, console: Console) -> ForceField:
    """The force field of a run, a train or priors folder, or a folder of its own, at one temperature.

    Raises InputError when there is none.
    """
    return _fixed(forcefield.load(force_field_folder(name)), temperature_K, console)


def exported_at(train: Path, config: Config, console: Console) -> ForceField:
    """The force field that `export` writes: at export.temperature_K or sim.temperature_K, where it matters.

    Raises InputError when it does and neither is given.
    """
    force_field = forcefield.load(train / "forcefield")
    if forcefield.conditioned_range(force_field) is None:
        return force_field
    temperature_K = config.export.temperature_K
    if temperature_K is None and config.sim is not None:
        temperature_K = config.sim.temperature_K
    if temperature_K is None:
        raise InputError(
            "config: the network is conditioned on temperature; give export.temperature_K or a section `sim`"
        )
    return _fixed(force_field, temperature_K, console)
