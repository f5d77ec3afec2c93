"""Synthetic domains as groups of an mdCATH file, layout mdcath-only-protein-v1.0."""

from collections.abc import Iterable

import h5py
import numpy as np
from jaxtyping import Float

from cgrefine.data.synthetic_model import SyntheticDomain, superposed
from cgrefine.data.synthetic_residues import ATOMIC_MASS

ELEMENT = {1: "H", 6: "C", 7: "N", 8: "O", 16: "S"}


def write_topology(group: h5py.Group, domain: SyntheticDomain) -> None:
    """What mdCATH says of the molecule; the PDB shows the reference."""
    atoms = domain.atoms
    group.attrs["numResidues"] = domain.n_beads
    group.attrs["numProteinAtoms"] = len(atoms)
    group.attrs["numBonds"] = len(domain.bonds)
    group.attrs["numChains"] = 1
    text = h5py.string_dtype()
    group.create_dataset("chain", data=["0"] * len(atoms), dtype=text)
    group.create_dataset("element", data=[ELEMENT[z] for z in atoms.z.tolist()], dtype=text)
    group.create_dataset("resname", data=atoms.resname.tolist(), dtype=text)
    group.create_dataset("resid", data=atoms.resid.astype(np.int64))
    group.create_dataset("z", data=atoms.z.astype(np.int64))
    cell = "CRYST1" + f"{domain.box_A:9.3f}" * 3 + "  90.00  90.00  90.00 P 1           1\n"
    group.create_dataset("pdb", data=cell + pdb_text(domain), dtype=text)
    group.create_dataset("pdbProteinAtoms", data=pdb_text(domain), dtype=text)
    group.create_dataset("psf", data=psf_text(domain), dtype=text)


def write_run(
    group: h5py.Group,
    domain: SyntheticDomain,
    beads: Float[np.ndarray, "frames n 3"],
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Coordinates and forces from blocks of consecutive frames, and mdCATH's observables of each frame.

    rmsd: Cα, superposed on frame 0; rmsf: Cα about its mean after that; gyrationRadius: mass-weighted, all
    atoms. dssp is that of the reference, H or blank.
    """
    frames, n_atoms = len(beads), len(domain.atoms)
    group.attrs["numFrames"] = frames
    coords = group.create_dataset("coords", (frames, n_atoms, 3), np.float32)
    forces = group.create_dataset("forces", (frames, n_atoms, 3), np.float32)
    radius, start = np.empty(frames), 0
    for x, f in blocks:
        part = slice(start, start + len(x))
        coords[part], forces[part] = x, f
        radius[part] = _gyration_radii(x, domain)
        start += len(x)
    fitted = superposed(beads.astype(np.float64), beads[0].astype(np.float64)) / 10
    spread = fitted - fitted.mean(axis=0)
    observables = {
        "box": np.eye(3, dtype=np.float32) * np.float32(domain.box_A / 10),
        "rmsd": np.sqrt(((fitted - fitted[0]) ** 2).sum(axis=2).mean(axis=1)).astype(np.float32),
        "gyrationRadius": radius,
        "rmsf": np.sqrt((spread**2).sum(axis=2).mean(axis=0)).astype(np.float32),
        "dssp": np.tile(np.where(domain.helical, b"H", b" ").astype("S2"), (frames, 1)),
    }
    coords.attrs["unit"], forces.attrs["unit"] = "Angstrom", "kcal/mol/Angstrom"
    for name, values in observables.items():
        written = group.create_dataset(name, data=values)
        if name != "dssp":
            written.attrs["unit"] = "nm"


def pdb_text(domain: SyntheticDomain) -> str:
    """ATOM records of the reference."""
    atoms, position = domain.atoms, reference_atoms(domain)
    lines = []
    for i, (x, y, z) in enumerate(position.tolist()):
        name, element = str(atoms.name[i]), ELEMENT[int(atoms.z[i])]
        lines.append(
            f"ATOM  {i + 1:5d} {name if len(name) == 4 else ' ' + name:<4s} {atoms.resname[i]:<4s}0"
            f"{atoms.resid[i]:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2s}  "
        )
    end = f"TER   {len(atoms) + 1:5d}      {atoms.resname[-1]:<4s}0{atoms.resid[-1]:4d}"
    return "\n".join([*lines, end, "END", ""])


def psf_text(domain: SyntheticDomain) -> str:
    """X-PLOR PSF with atoms and bonds; types are element symbols, charges 0."""
    atoms = domain.atoms
    lines = [
        "PSF",
        "",
        f"{1:8d} !NTITLE",
        f" REMARKS {domain.name}: synthetic",
        "",
        f"{len(atoms):8d} !NATOM",
    ]
    for i in range(len(atoms)):
        element = ELEMENT[int(atoms.z[i])]
        lines.append(
            f"{i + 1:8d} {'P0':<4s} {atoms.resid[i]:<4d} {atoms.resname[i]:<4s} {atoms.name[i]:<4s} "
            f"{element:<4s} {0.0:10.6f}     {ATOMIC_MASS[element]:9.4f}  {0:10d}"
        )
    lines += ["", f"{len(domain.bonds):8d} !NBOND: bonds"]
    pairs = [f"{i:8d}{j:8d}" for i, j in (domain.bonds + 1).tolist()]
    lines += ["".join(pairs[k : k + 4]) for k in range(0, len(pairs), 4)]
    return "\n".join([*lines, "", ""])


def reference_atoms(domain: SyntheticDomain) -> Float[np.ndarray, "atoms 3"]:
    """All atoms with the Cα at the reference and every other atom at its anchor, Å."""
    heavy = domain.anchor @ domain.reference + domain.offset
    position = heavy[domain.group]
    position[domain.hydrogen] += domain.xh
    return position


def _gyration_radii(coords: np.ndarray, domain: SyntheticDomain) -> np.ndarray:
    """(frames,) nm."""
    mass = np.asarray([ATOMIC_MASS[ELEMENT[z]] for z in domain.atoms.z.tolist()], np.float32)
    share = mass / mass.sum()
    about = coords - np.tensordot(coords, share, axes=(1, 0))[:, None, :]
    return np.sqrt(np.einsum("fai,fai,a->f", about, about, share)).astype(np.float64) / 10
