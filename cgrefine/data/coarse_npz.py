"""Reader of data with one bead a residue already, in the .npz layout that cameo_cg trains on with chemtrain.

  R, F          (frames, n_max, 3)              positions and forces; n_max beads of the longest protein
  species       (frames, n_max) or (n_max,)     residue type as a number; without it, Z
  mask          the same shape, optional        1 for beads, 0 for padding, which stands at the end
  protein_id    (frames,), optional             which protein a frame is of; without it, one for each
                                                distinct row of species and mask, in order of appearance
  resid         as species, optional            residue numbers
  U             (frames,), optional             energies, up to a constant, for train.loss.energy_weight
  N_max         optional                        must be n_max
  aa_to_id      JSON text {"ALA": 0, ...}       the residue of each number; or the arrays aa_names, aa_ids;
                                                or `residues` in the configuration

cameo_cg writes aa_to_id as a pickled dict. No pickle is ever read: with `residues` given it is left aside.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgrefine import residues
from cgrefine.config.data import Coarse
from cgrefine.data.source import Block, RawDomain, Run
from cgrefine.data.topology import CARBON, Atoms
from cgrefine.data.trajectory_npz import ERRORS, NpzFile, damaged, open_npz
from cgrefine.errors import InputError

KEYS = ("species", "Z", "mask", "protein_id", "resid", "N_max", "aa_to_id", "aa_names", "aa_ids", "U")


class Protein(NamedTuple):
    """A protein in one file. frames: (f,) its rows of R and F, rising; resname, resid: (n,); energy: (f,)
    kcal/mol, if there."""

    frames: np.ndarray
    resname: np.ndarray
    resid: np.ndarray
    energy: np.ndarray | None


def protein_names(section: Coarse) -> tuple[str, ...]:
    """Names of the proteins in the files of a section, in the order of their numbers.

    Raises InputError when the first file cannot be read or has another number of proteins than `names`.
    """
    path = Path(section.files[0].path).expanduser()
    count = len(_proteins(path, open_npz(path, section.files[0].units), section.residues))
    if section.names is None:
        return (path.stem,) if count == 1 else tuple(f"{path.stem}-{k}" for k in range(count))
    if len(section.names) != count:
        raise InputError(
            f"{path}: holds {count} proteins, data.coarse.names has {len(section.names)}: "
            f"{', '.join(section.names)}"
        )
    return tuple(section.names)


def read_coarse(section: Coarse, name: str) -> RawDomain:
    """Beads and runs of the protein of that name, a run for each file; no frame read.

    Raises InputError on files that are missing, damaged, pickled where it matters, or contradict themselves,
    the configuration or each other.
    """
    place = protein_names(section).index(name)
    first, runs, files = None, [], {}
    for entry in section.files:
        path = Path(entry.path).expanduser()
        file = open_npz(path, entry.units)
        proteins = _proteins(path, file, section.residues)
        if place >= len(proteins):
            raise InputError(f"{path}: holds {len(proteins)} proteins, {section.files[0].path} has more")
        protein = proteins[place]
        first = protein if first is None else first
        if not np.array_equal(protein.resname, first.resname):
            raise InputError(
                f"{path}: protein {name} is not the chain that it is in {section.files[0].path}; "
                "files of one data.coarse entry hold the same proteins in the same order"
            )
        key = f"{entry.temperature_K:g}/{entry.replica}"
        if key in files:
            raise InputError(
                f"{files[key][0].path} and {path} are both {entry.temperature_K:g} K replica {entry.replica} "
                "(data.coarse); give each file its own replica"
            )
        if (protein.energy is None) != (first.energy is None):
            raise InputError(
                f"{path} and {section.files[0].path}: only one of them has energies U of protein {name}; all "
                "files of one data.coarse entry have them, or none"
            )
        files[key] = file, protein
        runs.append(Run(key, entry.temperature_K, entry.replica, len(protein.frames)))
    assert first is not None
    path = Path(section.files[0].path).expanduser()
    runs.sort(key=lambda run: (run.temperature_K, run.replica))
    beads = np.arange(len(first.resname))
    chain = np.stack([beads[:-1], beads[1:]], axis=1)
    atoms = Atoms(
        f"{path}: domain {name}",
        np.full(len(beads), "CA"),
        first.resname,
        np.full(len(beads), "0"),
        first.resid,
        np.full(len(beads), CARBON),
        beads,
    )
    read = partial(_blocks, files)
    return RawDomain(path, name, atoms, chain, tuple(runs), read, first.energy is not None)


def _blocks(
    files: Mapping[str, tuple[NpzFile, Protein]], run: Run, stride: int, block_frames: int
) -> Iterator[Block]:
    file, protein = files[run.key]
    start, n_beads = 0, len(protein.resname)
    for coords, forces in file.blocks(stride, block_frames, protein.frames):
        rows = start + stride * np.arange(len(coords))
        energy = None if protein.energy is None else protein.energy[rows]
        yield Block(rows, coords[:, :n_beads], forces[:, :n_beads], energy)
        start += stride * len(coords)


def _proteins(path: Path, file: NpzFile, given: Mapping[int, str] | None) -> list[Protein]:
    """The proteins of a file in the order of their numbers."""
    arrays, pickled = _arrays(path)
    if "N_max" in arrays and (arrays["N_max"] != file.n_atoms).any():
        raise InputError(f"{path}: N_max is {arrays['N_max'].flat[0]}, R has {file.n_atoms} rows a frame")
    species, key = _species(path, arrays, file)
    mask = _mask(path, arrays, file)
    number = _protein_number(path, arrays, np.where(mask, species, -1), file.n_frames)
    resid = _per_bead(path, "resid", arrays["resid"], file) if "resid" in arrays else None
    names = _residue_names(path, arrays, "aa_to_id" in pickled, given)
    energy = _energies(path, arrays, file)
    found = []
    for protein in range(int(number.max()) + 1):
        frames = np.flatnonzero(number == protein)
        if not len(frames):
            raise InputError(f"{path}: protein_id has no frame of protein {protein}")
        kinds, real = (rows if len(rows) == 1 else rows[frames] for rows in (species, mask))
        if (real != real[0]).any() or (kinds != kinds[0])[:, real[0]].any():
            raise InputError(f"{path}: {key} or mask differ among the frames of protein_id {protein}")
        n = int(real[0].sum())
        kind = kinds[0, :n]
        unknown = sorted(set(kind.tolist()) - set(names))
        if unknown:
            known = ", ".join(f"{k} {v}" for k, v in sorted(names.items()))
            raise InputError(
                f"{path}: {key} {unknown[0]} of protein {protein} is no known residue; known are {known}"
            )
        if resid is None:
            numbers = np.arange(1, n + 1)
        else:
            numbers = resid[0 if len(resid) == 1 else frames[0], :n].astype(np.int64)
        own = None if energy is None else energy[frames]
        found.append(Protein(frames, np.asarray([names[k] for k in kind.tolist()]), numbers, own))
    return found


def _energies(path: Path, arrays: Mapping[str, np.ndarray], file: NpzFile) -> np.ndarray | None:
    """(frames,) kcal/mol, or None where the file has none."""
    if "U" not in arrays:
        return None
    values = arrays["U"]
    if values.shape != (file.n_frames,) or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise InputError(
            f"{path}: U ({values.dtype}, shape {values.shape}) must be a finite floating-point number for "
            f"each of the {file.n_frames} frames"
        )
    # a force times a length
    return values.astype(np.float64) * file.scales[0] * file.scales[1]


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], set[str]]:
    """The arrays of KEYS that are there, and the names of those that are pickled, which are not read."""
    arrays, pickled = {}, set()
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in KEYS:
                if key not in archive.files:
                    continue
                try:
                    arrays[key] = np.asarray(archive[key])
                except ValueError as error:
                    if "Object arrays" not in str(error):
                        raise
                    pickled.add(key)
    except ERRORS as error:
        raise damaged(path, error) from error
    if others := pickled - {"aa_to_id"}:
        raise InputError(
            f"{path}: {', '.join(sorted(others))}: Python objects, which are not read; save numbers as int "
            "arrays and texts as str arrays"
        )
    return arrays, pickled


def _per_bead(path: Path, key: str, values: np.ndarray, file: NpzFile) -> np.ndarray:
    """(1 or frames, n_max). Raises InputError on another shape, or values that are not numbers."""
    allowed = (file.n_atoms,), (file.n_frames, file.n_atoms)
    if values.shape not in allowed:
        raise InputError(f"{path}: {key} has shape {values.shape}, must be {allowed[0]} or {allowed[1]} as R")
    if values.dtype.kind not in "iubf":
        raise InputError(f"{path}: {key} has type {values.dtype}, must be numbers")
    return np.atleast_2d(values)


def _species(path: Path, arrays: Mapping[str, np.ndarray], file: NpzFile) -> tuple[np.ndarray, str]:
    """(1 or frames, n_max) integers, and the key that they have."""
    for key in ("species", "Z"):
        if key in arrays:
            values = _per_bead(path, key, arrays[key], file)
            if values.dtype.kind not in "iu":
                raise InputError(f"{path}: {key} has type {values.dtype}, must be integers")
            return values, key
    raise InputError(f"{path}: npz has neither species nor Z: the residue types of the beads are unknown")


def _mask(path: Path, arrays: Mapping[str, np.ndarray], file: NpzFile) -> np.ndarray:
    """(1 or frames, n_max) bool: beads first, then padding."""
    if "mask" not in arrays:
        return np.ones((1, file.n_atoms), bool)
    values = _per_bead(path, "mask", arrays["mask"], file)
    mask = values == 1
    if not (mask | (values == 0)).all():
        raise InputError(f"{path}: mask holds other numbers than 0 and 1")
    for text, wrong in (
        ("has a bead after padding: beads come first", mask[:, 1:] & ~mask[:, :-1]),
        ("has no bead", ~mask[:, :1]),
    ):
        if wrong.any():
            raise InputError(f"{path}: mask of frame {int(wrong.any(axis=1).argmax()) + 1} {text}")
    return mask


def _protein_number(
    path: Path, arrays: Mapping[str, np.ndarray], rows: np.ndarray, n_frames: int
) -> np.ndarray:
    """(frames,) numbers from 0: protein_id, or one for each distinct row of species (1 or frames, n_max)."""
    if "protein_id" in arrays:
        number = arrays["protein_id"]
        if number.shape != (n_frames,) or number.dtype.kind not in "iu":
            raise InputError(
                f"{path}: protein_id ({number.dtype}, {number.shape}) must be integers of shape ({n_frames},)"
            )
        if number.min() < 0:
            raise InputError(f"{path}: protein_id {number.min()} is negative")
        return number
    if len(rows) == 1:
        return np.zeros(n_frames, np.int64)
    _, first, number = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number.reshape(-1)]


def _residue_names(
    path: Path, arrays: Mapping[str, np.ndarray], pickled: bool, given: Mapping[int, str] | None
) -> dict[int, str]:
    """Residue name of each species number: of the file, else of the configuration, and never two answers."""
    stated = _stated_names(path, arrays)
    if stated is None and given is None:
        why = (
            "aa_to_id is a pickled Python dict, which is never read: it can run code"
            if pickled
            else "npz does not say which residue each species number is"
        )
        raise InputError(
            f"{path}: {why}; give data.coarse.residues ({{0: ALA, ...}}), or write the dict as text: "
            "aa_to_id=json.dumps({'ALA': 0, ...})"
        )
    if stated is None or given is None:
        return stated or dict(given or {})
    for number in stated.keys() & given.keys():
        if stated[number] != given[number]:
            raise InputError(
                f"{path}: species {number} is {stated[number]} in the file and {given[number]} in "
                "data.coarse.residues"
            )
    return stated


def _stated_names(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[int, str] | None:
    """Residue name of each species number by the file, or None where it has no readable answer."""
    if "aa_to_id" in arrays:
        pairs = _json_pairs(path, arrays["aa_to_id"])
    elif "aa_names" in arrays and "aa_ids" in arrays:
        names, ids = arrays["aa_names"], arrays["aa_ids"]
        if (
            names.ndim != 1
            or names.shape != ids.shape
            or names.dtype.kind != "U"
            or ids.dtype.kind not in "iu"
        ):
            raise InputError(
                f"{path}: aa_names ({names.dtype}, {names.shape}) and aa_ids ({ids.dtype}, {ids.shape}) must "
                "be one text and one integer a residue type"
            )
        pairs = list(zip(names.tolist(), ids.tolist(), strict=True))
    else:
        return None
    found: dict[int, str] = {}
    for name, number in pairs:
        before = found.setdefault(number, name)
        if residues.ALIASES.get(before, before) != residues.ALIASES.get(name, name):
            raise InputError(
                f"{path}: species {number} is both {before} and {name}: residue types are needed, not classes"
            )
    return found


def _json_pairs(path: Path, text: np.ndarray) -> list[tuple[str, int]]:
    """(name, number) pairs of aa_to_id as JSON text."""
    try:
        loaded = json.loads(text.item()) if text.size == 1 and text.dtype.kind == "U" else None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: aa_to_id is no JSON text ({error})") from error
    if not isinstance(loaded, dict) or not all(type(number) is int for number in loaded.values()):
        raise InputError(
            f"{path}: aa_to_id ({text.dtype}, shape {text.shape}) must be one JSON text such as "
            '{"ALA": 0, "GLY": 1}'
        )
    return list(loaded.items())
