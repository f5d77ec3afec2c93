"""The force field that a stage works with, at the temperature that it works at."""

from pathlib import Path

from cgrefine.artifacts import file_hash, read_json, require, write_json
from cgrefine.cli.console import Console
from cgrefine.config.schema import Config
from cgrefine.errors import InputError
from cgrefine.export.bundle import read_meta
from cgrefine.export.sealed import SEAL
from cgrefine.fm import forcefield
from cgrefine.fm.forcefield import ForceField
from cgrefine.interop.opened import Modelled, folder_of
from cgrefine.interop.opened import opened as opened_as_it_is

SIMULATED = "model.json"
"""In a simulate folder: the model that was given by --model, its folder and the hashes of its files."""


def refuse_exchange_of(path: Path) -> None:
    """Raise InputError on a force field whose network is conditioned on temperature; a bundle's never is."""
    folder = folder_of(path)
    if not (folder / "forcefield.json").is_file():
        return
    trained = forcefield.conditioned_range(forcefield.load(folder))
    if trained is not None:
        raise InputError(
            f"sim.exchange: the network of {folder} is conditioned on temperature ({trained[0]:g} to "
            f"{trained[1]:g} K), so rungs have different energies; exchange needs a model of one energy"
        )


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


def final_stage(root: Path, needed_by: str, config: Config) -> Path:
    """The stage whose model is the final one: refine with a section `refine`, else train.

    Raises InputError when it has not run.
    """
    return require(root, "train" if config.refine is None else "refine", needed_by)


def exported_at(train: Path, config: Config, console: Console) -> ForceField:
    """The force field that `export` writes: at export.temperature_K or sim.temperature_K, where it matters.

    train: the stage that made it. Raises InputError when it does and neither is given.
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


def opened(path: Path, temperature_K: float, console: Console) -> Modelled:
    """The force field of a train or priors stage, or the model of a bundle, at a temperature.

    Warns of a temperature that the model is not of. Raises InputError on a path that holds neither.
    """
    found = opened_as_it_is(path)
    if isinstance(found, ForceField):
        return _fixed(found, temperature_K, console)
    if found.temperature_K != temperature_K:
        console.result(
            f"warning: {path} is a bundle of a model at {found.temperature_K:g} K, and it is used at "
            f"{temperature_K:g} K"
        )
    return found


def chosen_model(root: Path, model: Path | None, name: str | None) -> Path | None:
    """The model that `simulate` is given: a path, or by its name in root/refine; None for the trained one.

    Raises InputError on both, and on a name that is not there, which lists those that are.
    """
    if name is None:
        return model
    if model is not None:
        raise InputError("--model and --eval-model: give one of them")
    refined = require(root, "refine", "--eval-model")
    found = {"pre": refined / "pre", "post": refined, "control": refined / "control"}
    epochs = {_cycle_and_epoch(p.name): p for p in (refined / "checkpoints").glob("cycle*_epoch*")}
    for (cycle, epoch), path in sorted(epochs.items()):
        found[f"post_cycle{cycle}_epoch{epoch}"] = path
        found[f"post_cycle{cycle}"] = path
    found = {key: path for key, path in found.items() if (path / "forcefield").is_dir()}
    if name not in found:
        raise InputError(f"--eval-model {name}: {refined} has no such model; choose from {', '.join(found)}")
    return found[name]


def _cycle_and_epoch(name: str) -> tuple[int, int]:
    cycle, epoch = name.removeprefix("cycle").split("_epoch")
    return int(cycle), int(epoch)


def force_field_folder(name: str) -> Path:
    """The folder of a force field of this name: see `folder_of`. Raises InputError on a bundle."""
    folder = folder_of(Path(name))
    if not (folder / "forcefield.json").is_file():
        raise InputError(f"{name}: is a bundle, whose terms are not told apart; give the force field itself")
    return folder


def fitted_K(path: Path) -> float | None:
    """The temperature that a force field or bundle was made at, if it says."""
    folder = folder_of(path)
    alone = folder / "forcefield.json"
    kelvin = (read_json(alone) if alone.is_file() else read_meta(folder)).get("temperature_K")
    return None if kelvin is None else float(kelvin)


def identity(path: Path) -> str:
    """What the files of a model are, as one line. Raises InputError when the path holds none."""
    folder = folder_of(path)
    if folder.is_file():
        return file_hash(folder)
    names = ("forcefield.json", "params.npz", SEAL)
    return " ".join(file_hash(folder / name) for name in names if (folder / name).is_file())


def simulated_path(root: Path) -> Path:
    """Where the model of the simulate stage is: that of --model where it was given, else the trained one.

    Raises InputError when the model given has changed since.
    """
    note = root / "simulate" / SIMULATED
    if not note.is_file():
        return root / "train"
    told = read_json(note)
    if identity(Path(told["path"])) != told["identity"]:
        raise InputError(f"{told['path']}: is not the model that {note} names; run `cgrefine simulate` again")
    return Path(told["path"])


def simulated(root: Path, temperature_K: float, console: Console) -> Modelled:
    """The force field of the simulate stage, see `simulated_path`."""
    return opened(simulated_path(root), temperature_K, console)


def members_of(path: Path) -> Path | None:
    """members/ of the train stage whose best member the force field in this folder is; None without any."""
    folder = folder_of(path)
    members = folder.parent / "members"
    return members if folder.name == "forcefield" and members.is_dir() else None


def write_note(folder: Path, model: Path) -> None:
    """Write SIMULATED into a simulate folder."""
    write_json(folder / SIMULATED, {"path": str(model.resolve()), "identity": identity(model)})
