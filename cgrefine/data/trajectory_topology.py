"""Atoms and bonds of a molecule in other files than mdCATH ones: from PDB, PSF, or the arrays of an npz."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cgrefine import residues
from cgrefine.data import psf
from cgrefine.data.topology import Atoms, residue_index
from cgrefine.errors import InputError

SUFFIXES = (".pdb", ".psf")
SOLVENT = frozenset(
    {
        "HOH", "WAT", "SOL", "TIP", "TIP2", "TIP3", "TIP4", "TIP5", "TP3", "TP4", "SPC", "SPCE", "H2O", "OPC",
        "DOD", "NA", "NA+", "CL", "CL-", "K", "K+", "SOD", "CLA", "POT", "CES", "RUB", "LIT", "CAL", "MG",
        "MG2", "MG+2", "CA2+", "ZN", "ZN2", "CS", "RB", "LI", "BR", "IOD",
    }
)  # fmt: skip
"""Residue names of water and ions, which are left out."""

ATOM_RECORDS = ("ATOM  ", "HETATM")

SYMBOLS = {
    "H": 1, "D": 1, "C": 6, "N": 7, "O": 8, "F": 9, "NA": 11, "MG": 12, "P": 15, "S": 16, "CL": 17, "K": 19,
    "CA": 20, "ZN": 30, "SE": 34,
}  # fmt: skip


class Solute(NamedTuple):
    """The molecule without water and ions. rows: (n,) its rows among the n_file atoms of the trajectory."""

    atoms: Atoms
    bonds: np.ndarray | None
    rows: np.ndarray
    n_file: int


def read_topology(path: Path, source: str) -> Solute:
    """Atoms of a .pdb (first model; bonds unknown) or .psf. Raises InputError on anything that is not."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{source}: topology {path}: suffix {suffix!r} is unknown; choose from {', '.join(SUFFIXES)}"
        )
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{source}: topology {path} cannot be read ({error.strerror})") from error
    if suffix == ".psf":
        return solute(psf.read_atoms(text, source), psf.all_bonds(text, source))
    return solute(pdb_atoms(text, source), None)


def solute(atoms: Atoms, bonds: Int[np.ndarray, "bonds 2"] | None) -> Solute:
    """Leave water and ions out. Raises InputError when nothing else is there."""
    rows = np.flatnonzero(~np.isin(np.char.upper(atoms.resname), sorted(SOLVENT)))
    if not len(rows):
        raise InputError(f"{atoms.source}: topology holds water and ions only")
    segment, resid, resname = atoms.segment[rows], atoms.resid[rows], atoms.resname[rows]
    residue = residue_index(segment, resid, resname)
    kept = Atoms(atoms.source, atoms.name[rows], resname, segment, resid, atoms.z[rows], residue)
    if bonds is not None:
        place = np.full(len(atoms), -1)
        place[rows] = np.arange(len(rows))
        bonds = place[bonds]
        bonds = bonds[(bonds >= 0).all(axis=1)]
    return Solute(kept, bonds, rows, len(atoms))


def pdb_atoms(text: str, source: str) -> Atoms:
    """Atoms of the first model of a PDB text. Elements from columns 77-78, or from the atom's name.

    Residue numbers that wrap or are not decimal are numbers of this run of residues. Raises InputError when
    there is no atom, or an element is unknown.
    """
    records = _pdb_records(text, source)
    name = np.asarray([r[12:16].strip() for r in records])
    resname = np.asarray([r[17:21].strip() for r in records])
    segment = np.asarray([r[21] + r[26] + r[72:76].strip() for r in records])
    number = [r[22:26] for r in records]
    resid = np.asarray([int(v) if v.strip().lstrip("-").isdecimal() else _hashed(v) for v in number])
    z = np.asarray([_pdb_element(r, source) for r in records])
    return Atoms(source, name, resname, segment, resid, z, residue_index(segment, resid, resname))


def pdb_positions(text: str, source: str) -> Float[np.ndarray, "atoms 3"]:
    """Positions of the atoms of `pdb_atoms`, Å. Raises InputError on a coordinate that is no number."""
    records = _pdb_records(text, source)
    try:
        x = np.asarray([[float(r[c : c + 8]) for c in (30, 38, 46)] for r in records])
    except ValueError as error:
        raise InputError(f"{source}: a coordinate of an ATOM record is no number ({error})") from error
    return x


def pdb_chains(text: str, source: str) -> Int[np.ndarray, " atoms"]:
    """Number of the chain of each atom of `pdb_atoms`, from 0: a new one after TER, and where the chain id
    or segment changes. Raises InputError when there is no atom."""
    ends = np.cumsum([line.startswith("TER") for line in _pdb_lines(text)])
    atoms = [line.startswith(ATOM_RECORDS) and _first_alternative(line) for line in _pdb_lines(text)]
    after = ends[np.flatnonzero(atoms)]
    records = _pdb_records(text, source)
    place = [(int(n), r[21], r[72:76].strip()) for n, r in zip(after, records, strict=True)]
    new = [one != other for one, other in itertools.pairwise(place)]
    return np.concatenate([[0], np.cumsum(new)]).astype(np.int64)


def _pdb_records(text: str, source: str) -> list[str]:
    """ATOM and HETATM lines of the first model, of the first alternative of each atom."""
    lines = _pdb_lines(text)
    records = [line.ljust(80) for line in lines if line.startswith(ATOM_RECORDS) and _first_alternative(line)]
    if not records:
        raise InputError(f"{source}: topology has no ATOM record")
    return records


def _pdb_lines(text: str) -> list[str]:
    """Lines of the first model."""
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if line.startswith("ENDMDL")), len(lines))
    return lines[:end]


def _first_alternative(record: str) -> bool:
    return record[16:17] in (" ", "A", "1", "")


def npz_atoms(arrays: Mapping[str, np.ndarray], n_rows: int, source: str) -> Solute:
    """Atoms from `resname` or `species` (one a row), and `name`, `resid`, `z`, `bonds` where given.

    Without `name` every row is one Cα bead. species: residue names, or indices into residues.RESIDUES.
    Raises InputError when lengths differ, or neither resname nor species is there.
    """
    if "resname" not in arrays and "species" not in arrays:
        raise InputError(f"{source}: npz holds neither `resname` nor `species`, and no topology is given")
    for key in ("resname", "species", "name", "resid", "z"):
        if key in arrays and arrays[key].shape != (n_rows,):
            raise InputError(f"{source}: npz {key} has shape {arrays[key].shape}, must be ({n_rows},) as R")
    resname = _resnames(arrays, source)
    segment = np.full(n_rows, "0")
    if "name" not in arrays:
        resid = _integers(arrays.get("resid", np.arange(1, n_rows + 1)), "resid", source)
        z = np.full(n_rows, 6)
        atoms = Atoms(source, np.full(n_rows, "CA"), resname, segment, resid, z, np.arange(n_rows))
        chain = np.stack([np.arange(n_rows - 1), np.arange(1, n_rows)], axis=1)
        return solute(atoms, chain)
    name = np.char.strip(arrays["name"].astype(str))
    if "resid" not in arrays:
        raise InputError(f"{source}: npz has `name` but no `resid`; all atoms need both")
    resid = _integers(arrays["resid"], "resid", source)
    if "z" in arrays:
        z = _integers(arrays["z"], "z", source)
    else:
        z = np.asarray([_named_element(n, r, source) for n, r in zip(name, resname, strict=True)])
    atoms = Atoms(source, name, resname, segment, resid, z, residue_index(segment, resid, resname))
    return solute(atoms, _npz_bonds(arrays, n_rows, source))


def _npz_bonds(arrays: Mapping[str, np.ndarray], n_rows: int, source: str) -> np.ndarray | None:
    if "bonds" not in arrays:
        return None
    bonds = _integers(arrays["bonds"], "bonds", source)
    if bonds.ndim != 2 or bonds.shape[1] != 2 or not np.all((bonds >= 0) & (bonds < n_rows)):
        raise InputError(
            f"{source}: npz bonds of shape {bonds.shape} must be (bonds, 2) rows from 0 to {n_rows - 1}"
        )
    return bonds


def _resnames(arrays: Mapping[str, np.ndarray], source: str) -> np.ndarray:
    values = arrays["resname"] if "resname" in arrays else arrays["species"]
    if values.dtype.kind in "US":
        return np.char.strip(values.astype(str))
    numbers = _integers(values, "species", source)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < residues.N_SPECIES:
        raise InputError(
            f"{source}: npz species are {numbers.min()} to {numbers.max()}, must be 0 to "
            f"{residues.N_SPECIES - 1} (alphabetical order of three-letter codes) or names"
        )
    return np.asarray(residues.RESIDUES)[numbers]


def _integers(values: np.ndarray, key: str, source: str) -> np.ndarray:
    if values.dtype.kind not in "iu":
        raise InputError(f"{source}: npz {key} has type {values.dtype}, must be integers")
    return values.astype(np.int64)


def _hashed(text: str) -> int:
    """A number for a residue number that is not decimal (hybrid-36, or four stars after 9999)."""
    return 10_000 + int.from_bytes(text.encode("utf-8"), "big")


def _pdb_element(record: str, source: str) -> int:
    symbol = record[76:78].strip().upper()
    if symbol in SYMBOLS:
        return SYMBOLS[symbol]
    if symbol:
        raise InputError(
            f"{source}: topology atom {record[12:16].strip()} has element {symbol!r}; known are "
            f"{', '.join(SYMBOLS)}"
        )
    return _named_element(record[12:16].strip(), record[17:21].strip(), source)


def _named_element(name: str, resname: str, source: str) -> int:
    """Element by name: that of ions is their residue's, in proteins the first letter is the element."""
    bare = name.lstrip("0123456789").upper()
    if resname.upper() in SOLVENT and bare[:2] in ("NA", "CL", "MG", "ZN"):
        return SYMBOLS[bare[:2]]
    if bare.startswith("SE"):
        return SYMBOLS["SE"]
    if bare[:1] in SYMBOLS:
        return SYMBOLS[bare[:1]]
    if resname.upper() in SOLVENT:
        return 0  # left out anyway
    raise InputError(
        f"{source}: element of atom {name} in {resname} is unknown; give it (z, or columns 77-78)"
    )
