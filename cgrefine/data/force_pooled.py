"""Residue-type force map: one coefficient a kind of neighbouring group, fitted on many proteins.

For each residue type R of the bead there is one linear model with a coefficient for each key
"offset class atom". Offset: residues along the chain, −k..k. Class, at offset 0: the place in the chain
segment (first, inner, last, only: a terminal N is another group than a peptide N), else the class of the
residue (Gly, Pro, cap, other). Atom: the heavy atom of the group and the number of its hydrogens, as "N.1"
or "ND1.0", which tells protonation states apart. Normal equations of all beads of type R in all proteins
are added, from the band of Gram elements that `force_window` sums, so the data is passed once. Conditions
(a) and (b) of `force_map` hold for any coefficients: a group with an unknown or rare key gets 0.

    sums = pooled_sums(band, state, atoms, mapping)     # one molecule; from the same pass as windowed maps
    save_sums(path, sums); load_sums(path)              # npz, so that a killed run goes on
    pooled = pooled_fit(pooled_total(all_sums), ridge)  # sums are added in the given order
    save_pooled(path, pooled); load_pooled(path)        # JSON, in `force_pooled_file`
    local = instantiate(pooled, atoms, mapping, groups) # LocalMap of any molecule
"""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from cgrefine import residues
from cgrefine.data.force_window import (
    Band,
    BandState,
    LocalMap,
    band_gram,
    local_map,
    make_band,
    residue_numbers,
)
from cgrefine.data.topology import HYDROGEN, Atoms, BeadMapping
from cgrefine.errors import InputError

SUMS_FORMAT = 1

MIN_FRAMES = 100
"""Keys seen in fewer frames are not fitted."""

ATOM_ALIASES = {("ILE", "CD"): "CD1"}
"""CHARMM's names of heavy atoms that others name differently."""

KEY = re.compile(r"[+-]\d{1,2} (first|inner|last|only|Gly|Pro|cap|other) \S{1,8}\.\d")


class Normal(NamedTuple):
    """Normal equations of one residue type. keys: K sorted keys. gram: (K+1, K+1) Σ weight · f f, the bead's
    own group first, then the keys. frames: (K,) frames of each key. weight: 3 Σ weight over beads and frames.
    """

    keys: tuple[str, ...]
    gram: np.ndarray
    frames: np.ndarray
    weight: float


@dataclass(frozen=True, eq=False)
class PooledSums:
    """Normal equations by residue type (three letters), of windows of ±k residues."""

    k: int
    types: dict[str, Normal]


@dataclass(frozen=True)
class PooledMap:
    """coefficients: residue type → key → coefficient of a free group. k: reach; ridge: as fitted with."""

    k: int
    ridge: float
    coefficients: dict[str, dict[str, float]]


def bead_keys(band: Band, atoms: Atoms, mapping: BeadMapping) -> tuple[tuple[str, ...], ...]:
    """For each bead the key of each free group of its window, in the order of band.window."""
    _, head = np.unique(band.residue, return_index=True)
    present = set(band.residue[head].tolist())
    labels = _group_labels(band.groups, atoms)
    first_atom = np.unique(band.groups, return_index=True)[1]
    kind = [_residue_class(str(atoms.resname[first_atom[g]])) for g in band.group]
    keys = []
    for bead, own in enumerate(band.own):
        home = int(band.residue[own])
        place = _place(home - 1 in present, home + 1 in present)
        row = []
        for column in band.window(bead):
            d = int(band.residue[column]) - home
            row.append(f"{d:+d} {kind[column] if d else place} {labels[band.group[column]]}")
        keys.append(tuple(row))
    return tuple(keys)


def _group_labels(groups: Int[np.ndarray, " atoms"], atoms: Atoms) -> list[str]:
    """Name of the heavy atom of each group, and the number of hydrogens in the group: "CB.2"."""
    hydrogens = np.bincount(groups, weights=atoms.z == HYDROGEN).astype(int)
    # heavy atoms sort before hydrogens, then by place in the file
    order = np.lexsort((np.arange(len(groups)), atoms.z == HYDROGEN, groups))
    first = order[np.searchsorted(groups[order], np.arange(groups.max() + 1))]
    names = [ATOM_ALIASES.get((str(atoms.resname[a]), str(atoms.name[a])), str(atoms.name[a])) for a in first]
    return [f"{name}.{n}" for name, n in zip(names, hydrogens.tolist(), strict=True)]


def _residue_class(resname: str) -> str:
    if resname in residues.CAPS:
        return "cap"
    try:
        species = residues.species_of(resname, modified=True)
    except ValueError:
        return "other"
    return {residues.GLY: "Gly", residues.PRO: "Pro"}.get(species, "other")


def _place(before: bool, after: bool) -> str:
    return {(True, True): "inner", (False, True): "first", (True, False): "last"}.get((before, after), "only")


def pooled_sums(band: Band, state: BandState, atoms: Atoms, mapping: BeadMapping) -> PooledSums:
    """Normal equations of one molecule. band: made with residue_numbers(atoms, mapping)."""
    by_type: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for bead, keys in enumerate(bead_keys(band, atoms, mapping)):
        name = residues.RESIDUES[int(mapping.topology.species[bead])]
        by_type.setdefault(name, []).append((bead, keys))
    types = {}
    for name in sorted(by_type):
        beads = by_type[name]
        all_keys = tuple(sorted({key for _, keys in beads for key in keys}))
        row = {key: i + 1 for i, key in enumerate(all_keys)}
        gram, count = np.zeros((len(all_keys) + 1,) * 2), np.zeros(len(all_keys) + 1, np.int64)
        for bead, keys in beads:
            columns = np.append(band.own[bead], band.window(bead))
            rows = np.asarray([0] + [row[key] for key in keys])
            # unbuffered: a key may occur twice in one window (two atoms of one name)
            np.add.at(gram, np.ix_(rows, rows), band_gram(band, state, columns, columns))
            np.add.at(count, rows, state.n_frames)
        types[name] = Normal(all_keys, gram, count[1:], state.weight * len(beads))
    return PooledSums(band.k, types)


def pooled_total(sums: Sequence[PooledSums]) -> PooledSums:
    """Sum over molecules, added in the given order. Raises ValueError when their windows differ."""
    reaches = sorted({s.k for s in sums})
    if len(reaches) != 1:
        raise ValueError(f"sums of windows ±{', ±'.join(map(str, reaches))} cannot be added")
    types = {}
    for name in sorted({name for s in sums for name in s.types}):
        parts = [s.types[name] for s in sums if name in s.types]
        keys = tuple(sorted({key for part in parts for key in part.keys}))
        row = {key: i + 1 for i, key in enumerate(keys)}
        gram, frames = np.zeros((len(keys) + 1,) * 2), np.zeros(len(keys) + 1, np.int64)
        for part in parts:
            rows = np.asarray([0] + [row[key] for key in part.keys])
            gram[np.ix_(rows, rows)] += part.gram
            frames[rows[1:]] += part.frames
        types[name] = Normal(keys, gram, frames[1:], sum(part.weight for part in parts))
    return PooledSums(reaches[0], types)


def pooled_fit(sums: PooledSums, ridge: float, min_frames: int = MIN_FRAMES) -> PooledMap:
    """Coefficients of least mean square force, plus ridge · (mean diagonal of the type's keys) · Σ x².

    Keys with fewer than min_frames frames are left out. Raises ValueError when a type's equations are
    singular, which a ridge above 0 prevents.
    """
    coefficients = {}
    for name, normal in sums.types.items():
        kept = np.flatnonzero(normal.frames >= min_frames)
        if not len(kept):
            continue
        design = normal.gram[np.ix_(kept + 1, kept + 1)]
        design[np.diag_indices(len(kept))] += ridge * np.mean(np.diag(design))
        try:
            factor = cho_factor(design, lower=True, overwrite_a=True)
        except LinAlgError as error:
            raise ValueError(
                f"the normal equations of {len(kept)} coefficients of {name} are singular with "
                f"force_map.ridge {ridge:g}: use more frames or a larger ridge"
            ) from error
        x = -cho_solve(factor, normal.gram[kept + 1, 0])
        coefficients[name] = {normal.keys[i]: float(v) for i, v in zip(kept, x, strict=True)}
    return PooledMap(sums.k, ridge, coefficients)


def instantiate(
    pooled: PooledMap, atoms: Atoms, mapping: BeadMapping, groups: Int[np.ndarray, " atoms"]
) -> LocalMap:
    """The map of a molecule that need not have been fitted on; unknown keys get 0."""
    band = make_band(residue_numbers(atoms, mapping), groups, mapping.ca, pooled.k)
    return local_map(band, _coefficients(pooled, band, atoms, mapping, 0.0))


def coverage(
    pooled: PooledMap, atoms: Atoms, mapping: BeadMapping, groups: Int[np.ndarray, " atoms"]
) -> float:
    """Share of the free groups in all windows whose key the map knows."""
    band = make_band(residue_numbers(atoms, mapping), groups, mapping.ca, pooled.k)
    found = np.concatenate(_coefficients(pooled, band, atoms, mapping, np.nan))
    return float(np.isfinite(found).mean()) if len(found) else 1.0


def _coefficients(
    pooled: PooledMap, band: Band, atoms: Atoms, mapping: BeadMapping, unknown: float
) -> list[np.ndarray]:
    known = [pooled.coefficients.get(residues.RESIDUES[int(s)], {}) for s in mapping.topology.species]
    keys = bead_keys(band, atoms, mapping)
    return [
        np.asarray([table.get(key, unknown) for key in row]) for table, row in zip(known, keys, strict=True)
    ]


def save_sums(path: Path, sums: PooledSums) -> None:
    """Write sums as npz (without pickle), under a temporary name and renamed."""
    arrays = {"format": np.asarray([SUMS_FORMAT, sums.k])}
    for name, normal in sums.types.items():
        arrays[f"{name}.keys"] = np.asarray(normal.keys, dtype=np.str_)
        arrays[f"{name}.gram"] = normal.gram
        arrays[f"{name}.frames"] = normal.frames
        arrays[f"{name}.weight"] = np.asarray(normal.weight)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)


def load_sums(path: Path) -> PooledSums:
    """Read what save_sums wrote. Raises InputError on a missing, damaged or other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        number, k = (int(n) for n in arrays.pop("format"))
        if number != SUMS_FORMAT:
            raise InputError(f"{path}: sums of a pooled map have format {number}, {SUMS_FORMAT} can be read")
        types = {name: _normal(arrays, name) for name in sorted({key.split(".")[0] for key in arrays})}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: sums of a pooled map are damaged ({' '.join(str(error).split())})"
        ) from error
    return PooledSums(k, types)


def _normal(arrays: dict[str, np.ndarray], name: str) -> Normal:
    keys, gram, frames = (arrays[f"{name}.{part}"] for part in ("keys", "gram", "frames"))
    if name not in residues.RESIDUES or gram.shape != (len(keys) + 1,) * 2 or frames.shape != keys.shape:
        raise ValueError(f"shapes of {name!r} do not fit together")
    return Normal(tuple(keys.tolist()), gram, frames, float(arrays[f"{name}.weight"]))
