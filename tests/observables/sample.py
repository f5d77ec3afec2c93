"""Cα frames of the embedded sample as they are in its file, and mdtraj's view of them."""

from functools import cache

import h5py
import mdtraj
import numpy as np

from cgrefine.data.mdcath import domain_names, read_domain, sample_folder
from cgrefine.data.topology import map_to_beads
from cgrefine.sim.trajectory import mdtraj_topology
from cgrefine.system import Topology

A_PER_NM = 10.0


@cache
def frames(name: str, temperature_K: int = 320, run: int = 0) -> tuple[Topology, np.ndarray, np.ndarray]:
    """Topology, positions (f, n, 3) float64 Å, and DSSP letters (f, n) of one run."""
    path = sample_folder() / f"mdcath_dataset_{name}.h5"
    domain = read_domain(path, domain_names(path)[0])
    assert domain.bonds is not None
    with h5py.File(path) as file:
        group = file[f"{name}/{temperature_K}/{run}"]
        assert isinstance(group, h5py.Group)
        coords, letters = group["coords"], group["dssp"]
        assert isinstance(coords, h5py.Dataset) and isinstance(letters, h5py.Dataset)
        every = np.asarray(coords[:], np.float64)
        beads = map_to_beads(domain.atoms, domain.bonds, every[0])
        dssp = np.asarray(letters[:]).astype("U1")[:, domain.atoms.residue[beads.ca]]
    return beads.topology, every[:, beads.ca], dssp


def as_mdtraj(topology: Topology, positions: np.ndarray) -> mdtraj.Trajectory:
    """The frames as mdtraj has them: float32 nm."""
    return mdtraj.Trajectory(positions / A_PER_NM, mdtraj_topology(topology))
