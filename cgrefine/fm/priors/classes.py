"""Classes of bonds, angles and dihedrals: which row of a prior's parameters a tuple reads.

Three schemes, each a refinement of the one before:
  global  one row;
  class   by what the backbone feels: bonds by proline second, angles by the centre residue (glycine,
          proline, before proline, β-branched), dihedrals by glycine or proline at their centre;
  type    by residue: bonds and dihedrals by the two (centre) residues, angles by the centre residue
          and whether proline follows.
Bonds that are cis in the reference structure have one row of their own in every scheme, the last one.
"""

from functools import cache
from typing import Literal

import numpy as np

from cgrefine.residues import BETA_BRANCHED, GLY, N_SPECIES, PRO, RESIDUES
from cgrefine.system import CIS_BOND, N_TYPES

Kind = Literal["bond", "angle", "dihedral"]
Scheme = Literal["global", "class", "type"]

KINDS: tuple[Kind, ...] = ("bond", "angle", "dihedral")
SCHEMES: tuple[Scheme, ...] = ("global", "class", "type")
FINEST: Scheme = "type"

_CLASSES = {
    "bond": ("X-X", "X-Pro"),
    "angle": ("other", "Gly", "Pro", "pre-Pro", "beta-branched"),
    "dihedral": ("other", "Gly", "Pro"),
}
_PAIRS = tuple(f"{a}-{b}" for a in RESIDUES for b in RESIDUES)
_TYPES = {
    "bond": _PAIRS,
    "angle": tuple(f"{a}{after}" for after in ("", " pre-Pro") for a in RESIDUES),
    "dihedral": _PAIRS,
}


@cache
def labels(kind: Kind, scheme: Scheme) -> tuple[str, ...]:
    """Names of the rows; of bonds the last one is "cis"."""
    named = {"global": ("all",), "class": _CLASSES[kind], "type": _TYPES[kind]}[scheme]
    return (*named, "cis") if kind == "bond" else named


def n_types(kind: Kind) -> int:
    """Number of type codes of `Topology` there are for a kind."""
    return N_TYPES + CIS_BOND if kind == "bond" else N_TYPES


@cache
def rows(kind: Kind, scheme: Scheme) -> np.ndarray:
    """Row of each type code of `Topology.*_types`: (codes,) int32, read only."""
    first, second = np.divmod(np.arange(N_TYPES), N_SPECIES)
    if scheme == "global":
        found = np.zeros(N_TYPES, np.int32)
    elif scheme == "class":
        found = {"bond": _bond_class, "angle": _angle_class, "dihedral": _dihedral_class}[kind](first, second)
    else:
        found = first + N_SPECIES * (second == PRO) if kind == "angle" else N_SPECIES * first + second
    if kind == "bond":
        found = np.concatenate([found, np.full(CIS_BOND, len(labels(kind, scheme)) - 1)])
    found = found.astype(np.int32)
    found.flags.writeable = False
    return found


@cache
def parents(kind: Kind, scheme: Scheme) -> np.ndarray:
    """Row in the next coarser scheme of each row: (rows,) int32. ValueError for `global`, which has none."""
    if scheme == "global":
        raise ValueError("the global scheme has no coarser one")
    coarser = SCHEMES[SCHEMES.index(scheme) - 1]
    found = np.zeros(len(labels(kind, scheme)), np.int32)
    found[rows(kind, scheme)] = rows(kind, coarser)
    return found


@cache
def of_finest(kind: Kind, scheme: Scheme) -> np.ndarray:
    """Row of `scheme` of each row of the finest scheme: (finest rows,) int32."""
    found = np.zeros(len(labels(kind, FINEST)), np.int32)
    found[rows(kind, FINEST)] = rows(kind, scheme)
    return found


def _bond_class(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    del first
    return (second == PRO).astype(np.int32)


def _angle_class(centre: np.ndarray, after: np.ndarray) -> np.ndarray:
    chosen = [centre == GLY, centre == PRO, after == PRO, np.isin(centre, list(BETA_BRANCHED))]
    return np.select(chosen, [1, 2, 3, 4], 0)


def _dihedral_class(second: np.ndarray, third: np.ndarray) -> np.ndarray:
    return np.select([(second == GLY) | (third == GLY), (second == PRO) | (third == PRO)], [1, 2], 0)
