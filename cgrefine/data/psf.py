"""Bonds of the protein atoms from the text of a CHARMM or X-PLOR PSF file."""

import numpy as np
from jaxtyping import Int

from cgrefine.data.topology import Atoms
from cgrefine.errors import InputError


def protein_bonds(text: str, atoms: Atoms) -> Int[np.ndarray, "bonds 2"]:
    """Bonds (b, 2) between the protein atoms, which are the first of the PSF; solvent bonds are dropped.

    Raises InputError when a section is missing or cut, or the atom names are not those of `atoms`.
    """
    lines = text.splitlines()
    start, n_atoms = _section(lines, "!NATOM", atoms.source)
    rows = [line.split() for line in lines[start : start + min(n_atoms, len(atoms))]]
    for i, name in enumerate(atoms.name):
        found = rows[i][4] if i < len(rows) and len(rows[i]) > 4 else None
        if found != name:
            raise InputError(
                f"{atoms.source}: atom {i + 1} is {atoms.label(i)} in the PDB but {found} in psf"
            )
    start, n_bonds = _section(lines, "!NBOND", atoms.source)
    numbers: list[str] = []
    for line in lines[start:]:
        if len(numbers) >= 2 * n_bonds or "!" in line:
            break
        numbers.extend(line.split())
    if len(numbers) != 2 * n_bonds or not all(number.isdigit() for number in numbers):
        raise InputError(
            f"{atoms.source}: psf !NBOND announces {n_bonds} bonds and holds {len(numbers) / 2:g}"
        )
    bonds = np.asarray(numbers, dtype=np.int64).reshape(-1, 2) - 1
    return bonds[(bonds < len(atoms)).all(axis=1)]


def _section(lines: list[str], mark: str, source: str) -> tuple[int, int]:
    """First line after the section's title, and the number that the title announces."""
    for number, line in enumerate(lines):
        if mark in line:
            count = line.split()[0]
            if count.isdigit():
                return number + 1, int(count)
    raise InputError(f"{source}: psf has no {mark} section")
