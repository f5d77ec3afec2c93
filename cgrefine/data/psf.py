"""Atoms and bonds from the text of a CHARMM, NAMD or X-PLOR PSF file."""

import numpy as np
from jaxtyping import Int

from cgrefine.data.topology import Atoms, residue_index
from cgrefine.errors import InputError

MASSES = {1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999, 9: 18.998, 11: 22.990, 12: 24.305, 15: 30.974,
          16: 32.06, 17: 35.45, 19: 39.098, 20: 40.078, 30: 65.38, 34: 78.971}  # fmt: skip
"""Atomic number → g/mol, of what is found with proteins."""

MASS_TOLERANCE = 0.3
HYDROGEN_MASSES = (1.0, 4.1)
"""Hydrogens may be heavier than natural, their heavy atoms lighter (repartitioned masses)."""


def protein_bonds(text: str, atoms: Atoms) -> Int[np.ndarray, "bonds 2"]:
    """Bonds (b, 2) between the protein atoms, which are the first of the PSF; solvent bonds are dropped.

    Raises InputError when a section is missing or cut, or names, residue names or residue boundaries are
    not those of `atoms`.
    """
    rows = _atom_rows(text, atoms.source)[: len(atoms)]
    for i, name in enumerate(atoms.name):
        found = rows[i][4] if i < len(rows) else None
        if found != name:
            raise InputError(
                f"{atoms.source}: atom {i + 1} is {atoms.label(i)} in the PDB but {found} in psf"
            )
        if rows[i][3] != atoms.resname[i]:
            raise InputError(
                f"{atoms.source}: atom {i + 1} is {atoms.label(i)} in the PDB but in {rows[i][3]} in psf"
            )
    bonds = all_bonds(text, atoms.source)
    return bonds[(bonds < len(atoms)).all(axis=1)]


def all_bonds(text: str, source: str) -> Int[np.ndarray, "bonds 2"]:
    """All bonds, as pairs of atom indices. Raises InputError when the section is missing or cut."""
    lines = text.splitlines()
    start, n_bonds = _section(lines, "!NBOND", source)
    numbers: list[str] = []
    for line in lines[start:]:
        if len(numbers) >= 2 * n_bonds or "!" in line:
            break
        numbers.extend(line.split())
    whole = all(number.isascii() and number.isdigit() and len(number) < 12 for number in numbers)
    if len(numbers) != 2 * n_bonds or not whole:
        raise InputError(f"{source}: psf !NBOND announces {n_bonds} bonds and holds {len(numbers) / 2:g}")
    bonds = np.asarray(numbers, dtype=np.int64).reshape(-1, 2) - 1
    _, n_atoms = _section(lines, "!NATOM", source)
    if len(bonds) and not 0 <= bonds.min() <= bonds.max() < n_atoms:
        raise InputError(
            f"{source}: psf !NBOND names atoms {bonds.min() + 1} to {bonds.max() + 1}, must be 1 to {n_atoms}"
        )
    return bonds


def read_atoms(text: str, source: str) -> Atoms:
    """All atoms; elements by mass, hydrogens also by name, because masses may be repartitioned.

    Raises InputError when the section is missing or cut, or a mass is that of no known element.
    """
    rows = _atom_rows(text, source)
    if not rows:
        raise InputError(f"{source}: psf !NATOM holds no atom")
    segment, number, resname, name = (np.asarray([row[k] for row in rows]) for k in (1, 2, 3, 4))
    try:
        resid = np.asarray([int(v.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")) for v in number.tolist()])
        mass = [float(row[7]) for row in rows]
    except ValueError as error:
        raise InputError(
            f"{source}: psf !NATOM: {error}; lines hold id, segment, resid, resname, name, type, charge, mass"
        ) from error
    z = np.asarray([_element(n, m, source) for n, m in zip(name.tolist(), mass, strict=True)])
    # insertion codes (12A) tell residues apart, as segments do
    code = np.asarray([v.lstrip("-0123456789") for v in number.tolist()])
    segment = np.char.add(segment, code)
    return Atoms(source, name, resname, segment, resid, z, residue_index(segment, resid, resname))


def _element(name: str, mass: float, source: str) -> int:
    low, high = HYDROGEN_MASSES
    letter = name.lstrip("0123456789")[:1]
    if low <= mass <= high and letter in ("H", "D"):
        return 1
    z, nearest = min(MASSES.items(), key=lambda item: abs(item[1] - mass))
    if abs(nearest - mass) <= MASS_TOLERANCE:
        return z
    by_letter = {"C": 6, "N": 7, "O": 8, "S": 16}
    if letter in by_letter and 0 < MASSES[by_letter[letter]] - mass < 3 * high:
        return by_letter[letter]
    raise InputError(
        f"{source}: psf atom {name} has mass {mass:g}, that of no element in proteins or their solvent"
    )


def _atom_rows(text: str, source: str) -> list[list[str]]:
    """Fields of the lines of !NATOM, at least eight each."""
    lines = text.splitlines()
    start, n_atoms = _section(lines, "!NATOM", source)
    rows = [line.split() for line in lines[start : start + n_atoms]]
    whole = [len(row) >= 8 for row in rows]
    if len(rows) < n_atoms or not all(whole):
        good = whole.index(False) if False in whole else len(rows)
        raise InputError(f"{source}: psf !NATOM announces {n_atoms} atoms and holds {good}")
    return rows


def _section(lines: list[str], mark: str, source: str) -> tuple[int, int]:
    """First line after the section's title, and the number that the title announces."""
    for number, line in enumerate(lines):
        if mark in line:
            count = line.split()[0]
            if count.isascii() and count.isdigit() and len(count) < 12:
                return number + 1, int(count)
    raise InputError(f"{source}: psf has no {mark} section")
