"""A mini all-atom domain in the exact mdCATH schema: caps, HSD, a hidden chain break, X-H bonds."""

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

CA_STEP_A, GAP_A = 3.8, 6.0
PARENT = {
    "N": None, "CA": "N", "C": "CA", "O": "C", "H": "N", "HA": "CA", "HA2": "CA", "HA3": "CA",
    "CB": "CA", "HB": "CB", "OG": "CB", "HG": "OG", "CH3": None, "HH31": "CH3",
}  # fmt: skip
OFFSET = {
    "N": (-1.2, 0.83, 0.0), "CA": (0.0, 0.0, 0.0), "C": (1.27, 0.83, 0.0), "O": (0.77, 1.95, 0.0),
    "H": (-1.2, 1.43, 0.8), "HA": (0.0, -0.63, 0.89), "HA2": (0.0, -0.63, 0.89), "HA3": (0.0, -0.63, -0.89),
    "CB": (0.0, -0.9, -1.24), "HB": (0.0, -1.99, -1.24), "OG": (0.0, -0.9, -2.66), "HG": (0.0, -0.9, -3.62),
    "CH3": (0.0, 0.0, 0.0), "HH31": (0.0, -0.63, 0.89),
}  # fmt: skip
BACKBONE = ("N", "H", "CA", "HA", "CB", "HB", "C", "O")
ATOMS = {
    "ACE": ("CH3", "HH31", "C", "O"),
    "NME": ("N", "H", "CH3", "HH31"),
    "GLY": ("N", "H", "CA", "HA2", "HA3", "C", "O"),
    "SER": ("N", "H", "CA", "HA", "CB", "HB", "OG", "HG", "C", "O"),
}
Z = {"H": 1, "C": 6, "N": 7, "O": 8}


@dataclass
class Mini:
    """What the file holds; change a field before `write` to make a bad one.

    residues: names in order; gap_before: indices of residues that a chain gap precedes. group: name of a
    temperature's group; layout: more arguments of create_dataset for coords and forces.
    """

    name: str = "1abcA00"
    residues: tuple[str, ...] = ("ACE", "ALA", "HSD", "GLY", "SER", "VAL", "NME")
    gap_before: tuple[int, ...] = (4,)
    temperatures: tuple[int, ...] = (320, 450)
    replicas: int = 2
    frames: int = 30
    psf: bool = True
    group: str = "{}"
    layout: dict[str, object] = field(default_factory=dict)
    units: dict[str, str] = field(
        default_factory=lambda: {"coords": "Angstrom", "forces": "kcal/mol/Angstrom"}
    )
    seed: int = 1

    def __post_init__(self) -> None:
        rows = [(r, atom) for r, name in enumerate(self.residues) for atom in ATOMS.get(name, BACKBONE)]
        self.residue = np.asarray([r for r, _ in rows])
        self.atom = [atom for _, atom in rows]
        gaps = np.asarray([sum(g <= r for g in self.gap_before) for r in self.residue])
        shift = CA_STEP_A * self.residue + GAP_A * gaps
        self.reference = np.asarray([OFFSET[a] for a in self.atom]) + shift[:, None] * [1.0, 0.0, 0.0]
        self.z = np.asarray([Z[a[0]] for a in self.atom])
        self.bonds = self._bonds()
        self.ca = np.asarray([i for i, a in enumerate(self.atom) if a == "CA"])

    def _bonds(self) -> np.ndarray:
        index = {(r, a): i for i, (r, a) in enumerate(zip(self.residue.tolist(), self.atom, strict=True))}
        bonds = []
        for (r, a), i in index.items():
            parent = index.get((r, PARENT[a])) if PARENT[a] else None
            if a == "C" and parent is None:
                parent = index[r, "CH3"]
            if a == "CH3" and (r, "N") in index:
                parent = index[r, "N"]
            if a == "N" and r not in self.gap_before:
                parent = index.get((r - 1, "C"))
            if parent is not None:
                bonds.append(sorted((parent, i)))
        return np.asarray(sorted(bonds))

    def trajectory(self, temperature: int, replica: int) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (f, n, 3) on the 0.01 Å grid, and forces: noise along bonds, and on all atoms."""
        rng = np.random.default_rng((self.seed, temperature, replica))
        n = len(self.atom)
        coords = np.round(self.reference + rng.normal(0, 0.02, (self.frames, n, 3)), 2).astype(np.float32)
        forces = rng.normal(0, 4.0, (self.frames, n, 3))
        for i, j in self.bonds:
            pull = rng.normal(0, 15.0 * np.sqrt(temperature / 320), (self.frames, 3))
            forces[:, i] += pull
            forces[:, j] -= pull
        return coords, forces.astype(np.float32)

    def write(self, path: Path, mode: str = "w") -> Path:
        """Write (or with mode "a" add) the domain."""
        text = h5py.string_dtype()
        with h5py.File(path, mode) as file:
            group = file.create_group(self.name)
            group.attrs["numProteinAtoms"] = len(self.atom)
            group.attrs["numResidues"] = len(self.residues)
            names = [self.residues[r] for r in self.residue]
            group.create_dataset("chain", data=["0"] * len(names), dtype=text)
            group.create_dataset("element", data=[a[0] for a in self.atom], dtype=text)
            group.create_dataset("resname", data=names, dtype=text)
            group.create_dataset("resid", data=self.residue + 11)
            group.create_dataset("z", data=self.z)
            group.create_dataset("pdbProteinAtoms", data=self.pdb_text(), dtype=text)
            if self.psf:
                group.create_dataset("psf", data=self.psf_text(), dtype=text)
            for temperature in self.temperatures:
                for replica in range(self.replicas):
                    run = group.create_group(f"{self.group.format(temperature)}/{replica}")
                    run.attrs["numFrames"] = self.frames
                    for key, values in zip(
                        ("coords", "forces"), self.trajectory(temperature, replica), strict=True
                    ):
                        run.create_dataset(key, data=values, **self.layout).attrs["unit"] = self.units[key]
        return path

    def pdb_text(self) -> str:
        """PDB records of the protein atoms."""
        lines = []
        for i, (r, a) in enumerate(zip(self.residue, self.atom, strict=True)):
            x, y, z = self.reference[i]
            lines.append(
                f"ATOM  {i + 1:5d} {a if len(a) == 4 else ' ' + a:<4s} {self.residues[r]:<4s}0{r + 11:4d}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00      P0   {a[0]}"
            )
        return "\n".join([*lines, "TER", "END", ""])

    def psf_text(self) -> str:
        """X-PLOR PSF of the protein and one water, whose atoms and bonds come last."""
        atoms = [
            f"{i + 1:8d} P0   {r + 11:<4d} {self.residues[r]:<4s} {a:<4s} {a[0]:<4s}   0.000000  12.0110   0"
            for i, (r, a) in enumerate(zip(self.residue, self.atom, strict=True))
        ]
        n = len(atoms)
        atoms += [
            f"{n + k + 1:8d} W1   1    TIP3 {a:<4s} {a:<4s}   0.000000  1.0   0"
            for k, a in enumerate(("OH2", "H1", "H2"))
        ]
        bonds = [*(self.bonds + 1).tolist(), [n + 1, n + 2], [n + 1, n + 3], [n + 2, n + 3]]
        pairs = [f"{i:8d}{j:8d}" for i, j in bonds]
        rows = ["".join(pairs[k : k + 4]) for k in range(0, len(pairs), 4)]
        return "\n".join(
            ["PSF", "", "       1 !NTITLE", " REMARKS mini", "", f"{len(atoms):8d} !NATOM", *atoms, "",
             f"{len(bonds):8d} !NBOND: bonds", *rows, "", "       0 !NTHETA: angles", ""]
        )  # fmt: skip


def edit(path: Path, key: str, change) -> Path:
    """Replace a data set of the file by change(old values), attributes kept."""
    with h5py.File(path, "a") as file:
        old = file[key]
        assert isinstance(old, h5py.Dataset)
        values, attributes = change(old[()]), dict(old.attrs)
        del file[key]
        new = file.create_dataset(key, data=values)
        new.attrs.update(attributes)
    return path
