"""Every quantity of a frame against mdtraj, on real frames of the embedded sample, to 1e-5."""

import jax
import jax.numpy as jnp
import mdtraj
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cgrefine import geometry
from cgrefine.observables import pairs, structure
from cgrefine.observables.contacts import contact_map, native_contacts
from cgrefine.observables.superposition import fluctuation, rmsd_to
from tests.observables.sample import A_PER_NM, as_mdtraj, frames

TOPOLOGY, X, _ = frames("helix25")
THEIRS = as_mdtraj(TOPOLOGY, X)


def of_frames(measure, x=X):
    return np.asarray(jax.vmap(measure)(jnp.asarray(x)))


def test_distances_angles_and_dihedrals():
    every = pairs.separated_pairs(TOPOLOGY, 1)
    found = of_frames(lambda x: geometry.bond_lengths(x, every))
    assert found == pytest.approx(A_PER_NM * mdtraj.compute_distances(THEIRS, every), rel=1e-5)
    found = of_frames(lambda x: geometry.bond_angles(x, TOPOLOGY.angles))
    assert found == pytest.approx(mdtraj.compute_angles(THEIRS, TOPOLOGY.angles), abs=1e-5)
    found = of_frames(lambda x: geometry.dihedrals(x, TOPOLOGY.dihedrals))
    apart = found - mdtraj.compute_dihedrals(THEIRS, TOPOLOGY.dihedrals)
    assert np.abs((apart + np.pi) % (2 * np.pi) - np.pi).max() < 1e-5


def test_radius_of_gyration():
    theirs = mdtraj.compute_rg(THEIRS, masses=np.ones(TOPOLOGY.n_beads))
    assert of_frames(structure.radius_of_gyration) == pytest.approx(A_PER_NM * theirs, rel=1e-5)


def test_rmsd():
    """mdtraj works in float32: its RMSD is checked to 1e-5 nm, and scipy's in float64 to 1e-9."""
    found = of_frames(rmsd_to(X[7]))
    assert found == pytest.approx(A_PER_NM * mdtraj.rmsd(THEIRS, THEIRS, 7), abs=1e-4)
    centred = X - X.mean(axis=1, keepdims=True)
    theirs = [Rotation.align_vectors(centred[7], c)[1] / np.sqrt(TOPOLOGY.n_beads) for c in centred]
    assert found[np.arange(len(X)) != 7] == pytest.approx(np.delete(theirs, 7), rel=1e-9)
    assert found[7] < 1e-9


def test_rmsf():
    """After mdtraj's superposition on the same frame: the spread about the mean structure."""
    o = fluctuation(X[7])
    placed = A_PER_NM * np.asarray(as_mdtraj(TOPOLOGY, X).superpose(THEIRS, 7).xyz)
    expected = np.sqrt(np.sum((placed - placed.mean(0)) ** 2, axis=-1).mean(0))
    assert o.of_mean(structure.frame_means(o, X)) == pytest.approx(expected, rel=1e-4)


def test_contacts():
    every = pairs.separated_pairs(TOPOLOGY, 4)
    theirs = np.asarray(mdtraj.compute_contacts(THEIRS, every.tolist(), scheme="ca")[0])  # type: ignore[arg-type]
    o = contact_map(TOPOLOGY, 8.0, 4)
    assert o is not None
    assert structure.frame_means(o, X) == pytest.approx((theirs < 0.8).mean(0), abs=1e-5)


def test_native_fraction_from_the_distances_of_mdtraj():
    q = native_contacts(TOPOLOGY, X[0], 8.0, 4, 5.0, 1.2)
    assert q is not None
    r = A_PER_NM * mdtraj.compute_distances(THEIRS, pairs.separated_pairs(TOPOLOGY, 4)).astype(np.float64)
    near = r[0] < 8.0
    expected = np.mean(1.0 / (1.0 + np.exp(5.0 * (r - 1.2 * r[0])[:, near])), axis=1)
    assert of_frames(q) == pytest.approx(expected, abs=1e-5)
    assert expected.min() > 0.3 and expected[0] > 0.99
