"""Residue-type force map: one coefficient a kind of neighbouring group, fitted on many proteins.

For each residue type R of the bead there is one linear model with a coefficient for each key
"offset class atom". Offset: residues along the chain, −k..k. Class, at offset 0: the place in the chain
segment (first, inner, last, only: a terminal N is another group than a peptide N), else the class of the
residue (Gly, Pro, cap, other). Atom: the heavy atom of the group and the number of its hydrogens, as "N.1"
or "ND1.0", which tells protonation states apart. Normal equations of all beads of type R in all proteins
are added, from the band of Gram elements that `force_window` sums, so the data is passed once. Conditions
(a) and (b) of `force_map` hold for any coefficients: a group with an unknown or rare key gets 0.

    state = pooled_sums(band, band_state, atoms, mapping)   # one molecule, from a pass as of a windowed map
    state.save(path); PooledState.load(path)                # npz, so that a killed run goes on
    total = pooled_add(total, state)                        # from pooled_init(), molecule after molecule
    pooled = total.fit(ridge)                               # PooledMap: save, load, digest
    local = instantiate(pooled, atoms, mapping, groups)     # LocalMap of any molecule
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from cgrefine import residues
from cgrefine.data.force_pooled_map import PooledMap
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

STATE_FORMAT = 1

UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, ArithmeticError, MemoryError,
    zipfile.BadZipFile,
)  # fmt: skip
"""What numpy and zipfile raise on a damaged npz file."""

MIN_FRAMES = 100
"""Keys seen in fewer frames are not fitted."""

ATOM_ALIASES = {("ILE", "CD"): "CD1"}
"""CHARMM's names of heavy atoms that others name differently."""


class Normal(NamedTuple):
    """Normal equations of one residue type. keys: K sorted keys. gram: (K+1, K+1) Σ weight · f f, the bead's
    own group first, then the keys. frames: (K,) frames of each key. weight: 3 Σ weight over beads and frames.
    """

    keys: tuple[str, ...]
    gram: np.ndarray
    frames: np.ndarray
    weight: float


@dataclass(frozen=True, eq=False)
class PooledState:
    """Normal equations by residue type (three letters), of windows of ±k residues; k None: nothing seen."""

    k: int | None
    types: dict[str, Normal]

    def fit(self, ridge: float, min_frames: int = MIN_FRAMES) -> PooledMap:
        """Coefficients of least mean square force, plus ridge · (mean diagonal of the type's keys) · Σ x².

        Keys with fewer than min_frames frames are left out. Raises ValueError when nothing was seen, or a
        type's equations are singular, which a ridge above 0 prevents.
        """
        if self.k is None:
            raise ValueError("no protein to fit a pooled force map on")
        fits = {name: _fit_type(name, normal, ridge, min_frames) for name, normal in self.types.items()}
        return PooledMap(self.k, ridge, {name: fit for name, fit in fits.items() if fit})

    def save(self, path: Path) -> None:
        """Write as npz (without pickle), under a temporary name and renamed."""
        arrays = {"format": np.asarray([STATE_FORMAT, -1 if self.k is None else self.k])}
        for name, normal in self.types.items():
            arrays[f"{name}.keys"] = np.asarray(normal.keys, dtype=np.str_)
            arrays[f"{name}.gram"] = normal.gram
            arrays[f"{name}.frames"] = normal.frames
            arrays[f"{name}.weight"] = np.asarray(normal.weight)
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> "PooledState":
        """Read what `save` wrote. Raises InputError on a missing, damaged or other file."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            number, k = (int(n) for n in arrays.pop("format"))
            if number != STATE_FORMAT:
                raise ValueError(f"format {number}, {STATE_FORMAT} can be read")
            types = {name: _normal(arrays, name) for name in sorted({key.split(".")[0] for key in arrays})}
        except UNREADABLE as error:
            text = " ".join(str(error).split())
            raise InputError(f"{path}: sums of a pooled map cannot be read ({text})") from error
        return PooledState(None if k < 0 else k, types)


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


def pooled_sums(band: Band, state: BandState, atoms: Atoms, mapping: BeadMapping) -> PooledState:
    """Normal equations of one molecule. band: made with residue_numbers(atoms, mapping)."""
    by_type: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for bead, keys in enumerate(bead_keys(band, atoms, mapping)):
        name = residues.RESIDUES[int(mapping.topology.species[bead])]
        by_type.setdefault(name, []).append((bead, keys))
    types: dict[str, Normal] = {}
    for name in sorted(by_type):
        beads = by_type[name]
        all_keys = tuple(sorted({key for _, keys in beads for key in keys}))
        row = {key: i + 1 for i, key in enumerate(all_keys)}
        gram, count = np.zeros((len(all_keys) + 1,) * 2), np.zeros(len(all_keys) + 1, np.int64)
        for bead, keys in beads:
            columns = np.append(band.own[bead], band.window(bead))
            rows = np.asarray([0] + [row[key] for key in keys])
            # unbuffered: a key may occur twice in one window (two atoms of one name)
            pairs = np.meshgrid(columns, columns, indexing="ij")
            np.add.at(gram, np.ix_(rows, rows), band_gram(band, state, *pairs))
            np.add.at(count, rows, state.n_frames)
        types[name] = Normal(all_keys, gram, count[1:], state.weight * len(beads))
    return PooledState(band.k, types)


def pooled_init() -> PooledState:
    """Nothing seen yet."""
    return PooledState(None, {})


def pooled_add(total: PooledState, more: PooledState) -> PooledState:
    """The sum of two states. Raises ValueError when their windows differ."""
    if total.k is None or more.k is None:
        return more if total.k is None else total
    if total.k != more.k:
        raise ValueError(f"sums of windows ±{total.k} and ±{more.k} cannot be added")
    types = dict(total.types)
    for name, normal in more.types.items():
        types[name] = _joined([types[name], normal]) if name in types else normal
    return PooledState(total.k, dict(sorted(types.items())))


def _joined(parts: list[Normal]) -> Normal:
    keys = tuple(sorted({key for part in parts for key in part.keys}))
    row = {key: i + 1 for i, key in enumerate(keys)}
    gram, frames = np.zeros((len(keys) + 1,) * 2), np.zeros(len(keys) + 1, np.int64)
    for part in parts:
        rows = np.asarray([0] + [row[key] for key in part.keys])
        gram[np.ix_(rows, rows)] += part.gram
        frames[rows[1:]] += part.frames
    return Normal(keys, gram, frames[1:], sum(part.weight for part in parts))


def _fit_type(name: str, normal: Normal, ridge: float, min_frames: int) -> dict[str, float]:
    kept = np.flatnonzero(normal.frames >= min_frames)
    if not len(kept):
        return {}
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
    return {normal.keys[i]: float(value) for i, value in zip(kept, x, strict=True)}


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


def _normal(arrays: dict[str, np.ndarray], name: str) -> Normal:
    keys, gram, frames = (arrays[f"{name}.{part}"] for part in ("keys", "gram", "frames"))
    if name not in residues.RESIDUES or gram.shape != (len(keys) + 1,) * 2 or frames.shape != keys.shape:
        raise ValueError(f"shapes of {name!r} do not fit together")
    return Normal(tuple(keys.tolist()), gram, frames, float(arrays[f"{name}.weight"]))
