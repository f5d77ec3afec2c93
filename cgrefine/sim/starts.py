"""Starting structures: frames of the reference, an extended chain, or the Cα atoms of a PDB file."""

from pathlib import Path

import mdtraj
import numpy as np

from cgrefine.errors import InputError
from cgrefine.residues import RESIDUES, species_of
from cgrefine.sim.trajectory import A_PER_NM
from cgrefine.system import Topology


def reference_starts(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` frames of (f, n, 3) reference positions, centred at the origin, spread over the reference.

    The frames are cut into `count` equal stretches, and one is drawn from each; with fewer frames than
    that, frames are used more than once. Raises ValueError when there are no frames.
    """
    n_frames = len(positions)
    if n_frames == 0:
        raise ValueError("no reference frames to start from")
    rng = np.random.default_rng(seed)
    where = (np.arange(count) + rng.random(count)) * n_frames / count
    frames = np.asarray(positions[np.minimum(where.astype(int), n_frames - 1)], np.float32)
    return frames - frames.mean(axis=1, keepdims=True)


def extended_chain(n_beads: int, bond_A: float = 3.8, angle_rad: float = 2.1) -> np.ndarray:
    """A flat zigzag of n beads, (n, 3) Å, every dihedral trans, centred at the origin."""
    i = np.arange(n_beads)
    half = 0.5 * angle_rad
    x = np.stack([i * bond_A * np.sin(half), (i % 2) * bond_A * np.cos(half), np.zeros(n_beads)], axis=1)
    return (x - x.mean(axis=0)).astype(np.float32)


def pdb_start(path: Path, topology: Topology) -> np.ndarray:
    """Cα positions (n, 3) Å of the first model of a PDB file, centred at the origin.

    Raises InputError when the file cannot be read, or its residues with a Cα are not those of the topology.
    """
    try:
        frame = mdtraj.load_pdb(str(path), standard_names=False)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise InputError(f"sim.start_pdb = {path}: not a readable PDB file ({error})") from error
    assert frame.topology is not None and frame.xyz is not None
    atoms = [a for a in frame.topology.atoms if a.name == "CA" and a.residue.name.strip().upper() != "CA"]
    if len(atoms) != topology.n_beads:
        raise InputError(
            f"sim.start_pdb = {path}: {len(atoms)} residues with a Cα atom, and {topology.n_beads} are needed"
        )
    for place, (atom, wanted) in enumerate(zip(atoms, topology.species, strict=True)):
        try:
            found = RESIDUES[species_of(atom.residue.name)]
        except ValueError:
            found = atom.residue.name
        if found != RESIDUES[wanted]:
            raise InputError(
                f"sim.start_pdb = {path}: residue {place + 1} ({atom.residue}) is {found}, the protein has "
                f"{RESIDUES[wanted]} there"
            )
    x = frame.xyz[0, [a.index for a in atoms]] * np.float32(A_PER_NM)
    return x - x.mean(axis=0)
