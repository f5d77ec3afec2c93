"""The one residue table: species, names and masses of the one-bead-per-residue model."""

from typing import Final

RESIDUES: Final = (
    "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE",
    "LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL",
)  # fmt: skip
"""Species index → three-letter code. This order is part of the file formats: never reorder."""

ONE_LETTER: Final = "ARNDCQEGHILKMFPSTWYV"
N_SPECIES: Final = len(RESIDUES)

ALIASES: Final = {
    "HSD": "HIS", "HSE": "HIS", "HSP": "HIS", "HID": "HIS", "HIE": "HIS", "HIP": "HIS",
    "CYX": "CYS", "CYM": "CYS", "CYS2": "CYS", "ASH": "ASP", "ASPP": "ASP",
    "GLH": "GLU", "GLUP": "GLU", "LYN": "LYS", "LSN": "LYS", "ARN": "ARG",
    "HISD": "HIS", "HISE": "HIS", "HISH": "HIS", "HIS1": "HIS", "CYSH": "CYS",
    "ASPH": "ASP", "GLUH": "GLU", "LYSH": "LYS", "ARGN": "ARG",
}  # fmt: skip
"""Protonation and force-field variants (CHARMM, AMBER, GROMACS) of the twenty residues."""

MODIFIED: Final = {
    "MSE": "MET", "SEP": "SER", "SP1": "SER", "SP2": "SER", "TPO": "THR", "PTR": "TYR", "HYP": "PRO",
    "CSO": "CYS", "CME": "CYS", "CSD": "CYS", "KCX": "LYS", "MLY": "LYS", "M3L": "LYS", "ALY": "LYS",
    "PCA": "GLN", "CGU": "GLU", "AIB": "ALA",
}  # fmt: skip
"""Modified residue → its parent, taken only when asked for (data.modified_residues: map)."""

CAPS: Final = frozenset({"ACE", "NME", "NMA", "NH2", "NHE", "CT1", "CT2", "CT3", "FOR"})
"""Terminal caps: chemical groups without Cα, left out of the coarse-grained chain."""

RESIDUE_MASSES: Final = (
    71.08, 156.19, 114.10, 115.09, 103.14, 128.13, 129.12, 57.05, 137.14, 113.16,
    113.16, 128.17, 131.20, 147.18, 97.12, 87.08, 101.10, 186.21, 163.18, 99.13,
)  # fmt: skip
"""Mass of each residue (amino acid minus water), g/mol, in the order of RESIDUES."""

_INDEX: Final = {name: i for i, name in enumerate(RESIDUES)}
GLY: Final = _INDEX["GLY"]
PRO: Final = _INDEX["PRO"]
BETA_BRANCHED: Final = frozenset({_INDEX["ILE"], _INDEX["THR"], _INDEX["VAL"]})


def species_of(resname: str, modified: bool = False) -> int:
    """Species index of a residue name, variants included; with `modified`, MODIFIED as their parents.

    Raises ValueError on anything else.
    """
    name = ALIASES.get(resname.strip().upper(), resname.strip().upper())
    if name in MODIFIED:
        if not modified:
            raise ValueError(
                f"residue {resname!r} is a modified {MODIFIED[name]}: set data.modified_residues to `map` to "
                "treat it as its parent, or leave the domain out"
            )
        name = MODIFIED[name]
    if name not in _INDEX:
        raise ValueError(
            f"residue {resname!r} is none of the 20 amino acids, their known variants, or a cap "
            f"({', '.join(sorted(CAPS))})"
        )
    return _INDEX[name]


def species_from_sequence(sequence: str) -> list[int]:
    """Species indices of a one-letter sequence. Raises ValueError naming the first unknown letter."""
    for position, letter in enumerate(sequence.upper()):
        if letter not in ONE_LETTER:
            raise ValueError(f"letter {letter!r} at position {position + 1} is none of {ONE_LETTER}")
    return [ONE_LETTER.index(letter) for letter in sequence.upper()]
