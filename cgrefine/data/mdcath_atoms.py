"""Fields and atoms of a domain in an mdCATH file."""

from typing import Any

import h5py
import numpy as np

from cgrefine.data.hdf5_strings import check_heaps
from cgrefine.data.topology import Atoms, residue_index
from cgrefine.errors import InputError

MOST_VALUES = 50_000_000
"""A topology field with more values than this is damaged: mdCATH's largest has 8,000."""

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "P": 15, "S": 16, "SE": 34}


def group_of(parent: h5py.Group, key: str, source: str) -> h5py.Group:
    item = parent.get(key)
    if not isinstance(item, h5py.Group):
        raise InputError(f"{source}: group {key!r} is missing; found {', '.join(parent) or 'nothing'}")
    return item


def dataset_of(parent: h5py.Group, key: str, source: str) -> h5py.Dataset:
    item = parent.get(key)
    if not isinstance(item, h5py.Dataset):
        where = (parent.name or "/").split("/", 2)[-1]
        raise InputError(
            f"{source}: data set {key!r} is missing in {where}; found {', '.join(parent) or 'nothing'}"
        )
    return item


def values_of(group: h5py.Group, key: str, source: str) -> Any:
    """All values of a small field. Raises InputError when its size cannot be."""
    item = dataset_of(group, key, source)
    if item.size is None or item.size > MOST_VALUES:
        raise InputError(f"{source}: {key!r} has shape {item.shape}, at most {MOST_VALUES} values are read")
    check_heaps(item)
    return item[()]


def text_of(group: h5py.Group, key: str, source: str) -> str:
    value = values_of(group, key, source)
    if not isinstance(value, bytes):
        raise InputError(f"{source}: {key!r} must be a text, found {type(value).__name__}")
    return value.decode("utf-8", errors="replace")


def strings_of(group: h5py.Group, key: str, source: str) -> np.ndarray:
    values = np.atleast_1d(values_of(group, key, source))
    return np.asarray(
        [v.decode("utf-8", errors="replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
    )


def read_atoms(group: h5py.Group, source: str) -> Atoms:
    resname = strings_of(group, "resname", source)
    resid, z = (np.atleast_1d(values_of(group, key, source)).astype(np.int64) for key in ("resid", "z"))
    n = len(resname)
    stated = int(group.attrs.get("numProteinAtoms", n))
    sizes = {"resname": n, "resid": len(resid), "z": len(z), "numProteinAtoms": stated}
    lines = text_of(group, "pdbProteinAtoms", source).splitlines()
    records = [line.ljust(80) for line in lines if line[:6] in ("ATOM  ", "HETATM")]
    sizes["pdbProteinAtoms"] = min(len(records), n)
    if len(set(sizes.values())) != 1 or n == 0:
        shown = ", ".join(f"{k} {v}" for k, v in sizes.items())
        raise InputError(f"{source}: numbers of atoms differ: {shown}")
    name = np.asarray([r[12:16].strip() for r in records[:n]])
    pdb_resname = np.asarray([r[17:21].strip() for r in records[:n]])
    segment = np.asarray([r[21] + r[26:27] + r[72:76].strip() for r in records[:n]])
    differs = np.flatnonzero(pdb_resname != resname)
    if len(differs):
        i = differs[0]
        raise InputError(
            f"{source}: atom {i + 1} is in {pdb_resname[i]} in pdbProteinAtoms but {resname[i]} in resname"
        )
    residue = residue_index(segment, resid, resname)
    pdb_resid = np.asarray([r[22:26] for r in records[:n]])
    _agree(source, "residue boundaries of resid", residue, residue_index(segment, pdb_resid, resname))
    _refuse_cut_residues(source, name, residue, residue_index(np.full(n, ""), resid, resname))
    if "element" in group:
        symbols = np.char.upper(strings_of(group, "element", source))
        if len(symbols) == n:
            known = np.asarray([ELEMENTS.get(s, 0) for s in symbols.tolist()])
            _agree(source, "z of elements", np.where(known > 0, z, 0), known)
    return Atoms(source, name, resname, segment, resid, z, residue)


def _refuse_cut_residues(source: str, name: np.ndarray, residue: np.ndarray, merged: np.ndarray) -> None:
    """Raises InputError where chain or segment labels cut a residue: its parts share no atom name.

    merged: residue numbers without the labels. Two residues of one number and name share N, CA, C and O.
    """
    for number in np.unique(merged[np.flatnonzero(np.diff(residue) > np.diff(merged)) + 1]):
        atoms = np.flatnonzero(merged == number)
        if len(set(name[atoms].tolist())) == len(atoms):
            raise InputError(
                f"{source}: chain or segment labels in pdbProteinAtoms change inside the residue of atom "
                f"{atoms[0] + 1}"
            )


def _agree(source: str, what: str, found: np.ndarray, other: np.ndarray) -> None:
    differs = np.flatnonzero(found != other)
    if len(differs):
        raise InputError(
            f"{source}: {what} differ from those of its other copy, first at atom {differs[0] + 1}"
        )
