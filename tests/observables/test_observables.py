"""Observables on structures known by hand, conservation of mass, distances in closed form."""

import math

import jax.numpy as jnp
import mdtraj
import numpy as np
import pytest

from cgrefine.config.running import Observables
from cgrefine.observables import compare, histogram, internal, pairs, structure
from cgrefine.observables.catalogue import standard
from cgrefine.observables.contacts import contact_map
from cgrefine.observables.statistics import estimate
from cgrefine.system import topology_from_species

TOPOLOGY = topology_from_species([0] * 6)


def walk(frames, seed=0):
    steps = np.random.default_rng(seed).normal(size=(frames, 6, 3)) * 2.2
    return np.cumsum(steps, axis=1).astype(np.float32)


def observable(name):
    return next(o for o in standard(TOPOLOGY, Observables()) if o.name == name)


def test_size_of_a_square_by_hand():
    square = jnp.array([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]])
    assert structure.radius_of_gyration(square) == pytest.approx(math.sqrt(2))
    assert structure.end_to_end(square) == pytest.approx(2.0)


def test_contacts_by_hand():
    """A straight chain of 3 Å steps: only pairs at separation 4 are wanted and within 12.5 Å."""
    straight = np.arange(6)[:, None] * np.array([[3.0, 0, 0]])
    contacts = contact_map(TOPOLOGY, 12.5, 4)
    assert contacts is not None
    expected = [float(j - i == 4) for i, j in pairs.separated_pairs(TOPOLOGY, 4)]
    assert structure.frame_means(contacts, straight[None]).tolist() == expected


def test_mass_keeps_what_is_out_of_range_and_the_upper_edge():
    grid = histogram.bins(0.0, 1.0, 0.25)
    found = histogram.mass(jnp.array([-3.0, 0.0, 0.3, 0.5, 1.0, 7.0, 8.0, 0.26]), grid)
    assert found == pytest.approx(np.array([1, 1, 2, 1, 1, 2]) / 8)


@pytest.mark.parametrize("name", ["bond", "angle", "dihedral", "P(r)", "Rg", "end-to-end"])
def test_every_histogram_has_unit_mass(name):
    assert structure.frame_means(observable(name), walk(70)).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["bond", "angle", "dihedral", "P(r)", "contacts", "Rg", "end-to-end"])
def test_means_do_not_depend_on_chunks_or_on_rigid_motion(name):
    x = walk(130).astype(np.float64)
    o = observable(name)
    parts = [structure.frame_means(o, x[:50]) * 50, structure.frame_means(o, x[50:]) * 80]
    assert structure.frame_means(o, x) == pytest.approx(sum(parts) / 130)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    assert structure.frame_means(o, x @ turn.T + 5.0) == pytest.approx(structure.frame_means(o, x), abs=1e-9)


def test_dihedral_sign_is_that_of_mdtraj():
    """A mirror image must not pass: the histogram follows mdtraj's IUPAC dihedrals bin by bin."""
    x = walk(40).astype(np.float64)
    top = mdtraj.Topology()
    chain = top.add_chain()
    for _ in range(6):
        top.add_atom("CA", mdtraj.element.carbon, top.add_residue("ALA", chain))
    degrees = np.rad2deg(mdtraj.compute_dihedrals(mdtraj.Trajectory(x / 10, top), TOPOLOGY.dihedrals))
    wide = internal.dihedral_distribution(TOPOLOGY, 60.0)
    expected = np.histogram(degrees, bins=np.arange(-180, 181, 60))[0] / degrees.size
    assert structure.frame_means(wide, x)[1:-1] == pytest.approx(expected, abs=1.5 / degrees.size)
    assert np.abs(expected - expected[::-1]).max() > 5 / degrees.size  # the test sees a mirror


def test_jensen_shannon_limits():
    p, q = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
    assert compare.jensen_shannon(p, p) == 0.0
    assert compare.jensen_shannon(p, q) == pytest.approx(math.log(2))


def test_wasserstein_of_shifted_peaks_is_the_shift():
    grid = histogram.bins(0.0, 10.0, 0.5)
    p, q = (np.asarray(histogram.mass(jnp.array([v]), grid)) for v in (2.1, 6.1))
    assert compare.wasserstein(p, q, grid) == pytest.approx(4.0)
    assert compare.histogram_mean(q, grid) - compare.histogram_mean(p, grid) == pytest.approx(4.0)


def test_standard_error_is_that_of_the_groups():
    """Groups of independent frames: Rg's histogram scatters as sqrt(p(1-p)/N) between groups."""
    groups = [walk(50, seed) for seed in range(40)]
    found = estimate(observable("Rg"), groups)
    p = found.mean
    expected = np.sqrt(p * (1 - p) / 2000)
    chosen = p > 0.05
    # relative error of a standard deviation from 40 groups is 1/sqrt(78) = 11 %; four of them
    assert np.all(np.abs(found.stderr[chosen] / expected[chosen] - 1) < 0.45)


def test_one_group_has_no_error_bar_and_none_is_an_error():
    assert np.isnan(estimate(observable("Rg"), [walk(5), walk(0)]).stderr).all()
    with pytest.raises(ValueError, match="no frames"):
        estimate(observable("Rg"), [walk(0)])


def test_short_chains_have_fewer_observables():
    two = standard(topology_from_species([0, 0]), Observables())
    assert [o.name for o in two] == ["bond", "Rg", "end-to-end"]


def test_an_observable_is_compiled_once_for_all_groups():
    traces = []

    def size(positions):
        traces.append(positions.shape)
        return structure.radius_of_gyration(positions)

    counted = structure.scalar_histogram("Rg", "Å", size, histogram.bins(0.0, 10.0, 0.5))
    estimate(counted, [walk(70), walk(3, seed=1)])
    estimate(counted, [walk(9, seed=2)])
    assert traces == [(6, 3)]
