"""Atoms of the amino acids, CHARMM names and hydrogens, and where they stand in a residue's own frame.

Only what synthetic domains need: names, bonds, and positions with bond lengths of about the right size.
"""

from collections import Counter
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

SIDE_CHAINS: Final = {
    "ALA": "CB-CA:HB1,HB2,HB3",
    "ARG": "CB-CA:HB1,HB2 CG-CB:HG1,HG2 CD-CG:HD1,HD2 NE-CD:HE CZ-NE@120,180 NH1-CZ@120,180:HH11,HH12 "
    "NH2-CZ@120,0:HH21,HH22",
    "ASN": "CB-CA:HB1,HB2 CG-CB OD1-CG@120,90 ND2-CG@120,-90:HD21,HD22",
    "ASP": "CB-CA:HB1,HB2 CG-CB OD1-CG@120,90 OD2-CG@120,-90",
    "CYS": "CB-CA:HB1,HB2 SG-CB:HG1",
    "GLN": "CB-CA:HB1,HB2 CG-CB:HG1,HG2 CD-CG OE1-CD@120,90 NE2-CD@120,-90:HE21,HE22",
    "GLU": "CB-CA:HB1,HB2 CG-CB:HG1,HG2 CD-CG OE1-CD@120,90 OE2-CD@120,-90",
    "GLY": "",
    "HSD": "CB-CA:HB1,HB2 CG-CB ND1-CG@126,90:HD1 CD2-CG@126,-90:HD2 CE1-ND1@108,180:HE1 NE2-CD2@108,180 "
    "+NE2-CE1",
    "HSE": "CB-CA:HB1,HB2 CG-CB ND1-CG@126,90 CD2-CG@126,-90:HD2 CE1-ND1@108,180:HE1 NE2-CD2@108,180:HE2 "
    "+NE2-CE1",
    "HSP": "CB-CA:HB1,HB2 CG-CB ND1-CG@126,90:HD1 CD2-CG@126,-90:HD2 CE1-ND1@108,180:HE1 "
    "NE2-CD2@108,180:HE2 +NE2-CE1",
    "ILE": "CB-CA:HB CG1-CB:HG11,HG12 CG2-CB@111,60:HG21,HG22,HG23 CD-CG1:HD1,HD2,HD3",
    "LEU": "CB-CA:HB1,HB2 CG-CB:HG CD1-CG:HD11,HD12,HD13 CD2-CG@111,60:HD21,HD22,HD23",
    "LYS": "CB-CA:HB1,HB2 CG-CB:HG1,HG2 CD-CG:HD1,HD2 CE-CD:HE1,HE2 NZ-CE:HZ1,HZ2,HZ3",
    "MET": "CB-CA:HB1,HB2 CG-CB:HG1,HG2 SD-CG CE-SD:HE1,HE2,HE3",
    "PHE": "CB-CA:HB1,HB2 CG-CB CD1-CG@120,90:HD1 CD2-CG@120,-90:HD2 CE1-CD1@120,180:HE1 "
    "CE2-CD2@120,180:HE2 CZ-CE1@120,0:HZ +CZ-CE2",
    "PRO": "CB-CA:HB1,HB2 CG-CB@104,30:HG1,HG2 CD-CG@104,-35:HD1,HD2 +CD-N",
    "SER": "CB-CA:HB1,HB2 OG-CB:HG1",
    "THR": "CB-CA:HB OG1-CB:HG1 CG2-CB@111,60:HG21,HG22,HG23",
    "TRP": "CB-CA:HB1,HB2 CG-CB CD1-CG@126,90:HD1 CD2-CG@126,-90 NE1-CD1@108,180:HE1 CE2-CD2@108,180 "
    "CE3-CD2@132,0:HE3 CZ2-CE2@120,180:HZ2 CZ3-CE3@118,180:HZ3 CH2-CZ2@118,0:HH2 +CE2-NE1 +CZ3-CH2",
    "TYR": "CB-CA:HB1,HB2 CG-CB CD1-CG@120,90:HD1 CD2-CG@120,-90:HD2 CE1-CD1@120,180:HE1 "
    "CE2-CD2@120,180:HE2 CZ-CE1@120,0 OH-CZ@120,180:HH +CZ-CE2",
    "VAL": "CB-CA:HB CG1-CB:HG11,HG12,HG13 CG2-CB@111,60:HG21,HG22,HG23",
}
"""Residue → its heavy side atoms, `NAME-PARENT@ANGLE,TORSION:HYDROGENS`, and `+A-B` bonds that close rings.

ANGLE and TORSION (degrees, 111 and 180 unless given) are those to the parent's parent, and its parent.
"""

FREQUENCIES: Final = {
    "ALA": 8.3, "ARG": 5.5, "ASN": 4.1, "ASP": 5.5, "CYS": 1.4, "GLN": 3.9, "GLU": 6.7, "GLY": 7.1,
    "HSD": 1.3, "HSE": 0.9, "HSP": 0.1, "ILE": 5.9, "LEU": 9.6, "LYS": 5.8, "MET": 2.4, "PHE": 3.9,
    "PRO": 4.7, "SER": 6.6, "THR": 5.4, "TRP": 1.1, "TYR": 2.9, "VAL": 6.9,
}  # fmt: skip
"""Share of each residue in proteins, percent (about that of UniProt)."""

ATOMIC_NUMBER: Final = {"H": 1, "C": 6, "N": 7, "O": 8, "S": 16}
ATOMIC_MASS: Final = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "S": 32.06}
XH_LENGTH_A: Final = {"C": 1.09, "N": 1.01, "O": 0.96, "S": 1.34}
HEAVY_LENGTH_A: Final = 1.48
SULFUR_LENGTH_A: Final = 1.81

# N in the plane z = 0, Cα at the origin, C on the x axis: N-Cα 1.46 Å, Cα-C 1.52 Å, angle 111°
BACKBONE: Final = {"N": (-0.523, 1.363, 0.0), "CA": (0.0, 0.0, 0.0), "C": (1.52, 0.0, 0.0)}


class HeavyAtom(NamedTuple):
    """An atom with its hydrogens. hydrogens: name → vector from the atom, Å, residue frame. depth: bonds
    to Cα."""

    name: str
    position: np.ndarray
    hydrogens: dict[str, np.ndarray]
    depth: int


class Template(NamedTuple):
    """A residue inside a chain: atoms N, CA, side chain, C, O in file order; bonds by atom name.

    N, C, O and HN are placed by the chain, not by the template; their positions here only set directions.
    """

    atoms: tuple[HeavyAtom, ...]
    bonds: tuple[tuple[str, str], ...]


@cache
def template(resname: str) -> Template:
    """Heavy atoms of a residue in its frame, with hydrogens. Raises KeyError on an unknown name."""
    position = {name: np.asarray(x) for name, x in BACKBONE.items()}
    position["O"] = position["C"] + [0.62, -1.05, 0.0]
    parent = {"CA": "N", "C": "CA", "O": "C"}
    depth = {"N": 1, "CA": 0, "C": 1, "O": 2}
    hydrogens: dict[str, list[str]] = {"CA": ["HA1", "HA2"] if resname == "GLY" else ["HA"]}
    bonds = [("N", "CA"), ("CA", "C"), ("C", "O")]
    for token in SIDE_CHAINS[resname].split():
        atom, _, names = token.partition(":")
        if atom.startswith("+"):
            first, second = atom[1:].split("-")
            bonds.append((first, second))
            continue
        atom, _, internal = atom.partition("@")
        name, parent[(name := atom.split("-")[0])] = atom.split("-")
        angle, torsion = (float(v) for v in internal.split(",")) if internal else (111.0, 180.0)
        position[name] = _placed(name, position, parent, angle, torsion)
        depth[name] = depth[parent[name]] + 1
        hydrogens[name] = [h for h in names.split(",") if h]
        bonds.append((parent[name], name))
    order = ["N", "CA", *(n for n in position if n not in ("N", "CA", "C", "O")), "C", "O"]
    atoms = [
        HeavyAtom(n, position[n], _hydrogens(n, hydrogens.get(n, []), position, bonds), depth[n])
        for n in order
    ]
    return Template(tuple(atoms), tuple(bonds))


def mean_atoms_per_residue() -> float:
    """Atoms of an average residue, HN included."""
    count = Counter({name: _n_atoms(name) for name in FREQUENCIES})
    return sum(FREQUENCIES[n] * count[n] for n in FREQUENCIES) / sum(FREQUENCIES.values())


def _n_atoms(resname: str) -> int:
    atoms = template(resname).atoms
    return len(atoms) + sum(len(a.hydrogens) for a in atoms) + (resname != "PRO")


def unit(v: np.ndarray) -> np.ndarray:
    """Vectors along the last axis, scaled to length 1."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def cone(axis: Float[np.ndarray, "3"], n: int) -> Float[np.ndarray, "{n} 3"]:
    """n of three unit vectors at the tetrahedral angle to -axis, in thirds of a turn about it."""
    side = unit(np.cross(axis, np.eye(3)[np.abs(axis).argmin()]))
    other = np.cross(axis, side)
    turn = 2 * np.pi / 3 * np.arange(n)[:, None]
    return axis / 3 + np.sqrt(8) / 3 * (np.cos(turn) * side + np.sin(turn) * other)


def _placed(name: str, position: dict, parent: dict, angle: float, torsion: float) -> np.ndarray:
    c = position[parent[name]]
    if name == "CB":  # the L corner of the tetrahedron
        b, a = c - position["N"], position["C"] - c
        direction = unit(-0.58 * np.cross(b, a) + 0.57 * b - 0.54 * a)
        return c + HEAVY_LENGTH_A * direction
    middle = parent[parent[name]]
    b, a = position[middle], position[parent[middle]] if middle in parent else position["C"]
    length = SULFUR_LENGTH_A if "S" in (name[0], parent[name][0]) else HEAVY_LENGTH_A
    along = unit(c - b)
    normal = unit(np.cross(b - a, along))
    third = np.cross(normal, along)
    theta, phi = np.radians(angle), np.radians(torsion)
    return c + length * (
        -np.cos(theta) * along + np.sin(theta) * (np.cos(phi) * third + np.sin(phi) * normal)
    )


def _hydrogens(name: str, names: list[str], position: dict, bonds: list) -> dict[str, np.ndarray]:
    """Hydrogen vectors that fill the directions which the bonds of the heavy atom leave."""
    if not names:
        return {}
    mates = [b if a == name else a for a, b in bonds if name in (a, b)]
    towards = unit(np.stack([position[m] for m in mates]) - position[name])
    axis = unit(-towards.sum(axis=0))
    if len(mates) == 1:
        directions = cone(axis, len(names))
    elif len(names) == 1:
        directions = axis[None]
    else:
        across = unit(np.cross(towards[0], towards[1]))
        half = np.radians(109.5 / 2)
        directions = np.stack([np.cos(half) * axis + sign * np.sin(half) * across for sign in (1.0, -1.0)])
    return dict(zip(names, XH_LENGTH_A[name[0]] * directions, strict=True))
