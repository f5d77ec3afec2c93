"""Histograms by class: every tuple of every frame once, in the right row and bin."""

import numpy as np
import pytest

from cgrefine import residues
from cgrefine.fm.priors import marginals
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal


def test_one_chain_by_hand():
    """G P A A A: bonds G-P (before proline) and three more, known angles and dihedrals, in their classes."""
    topology = topology_from_species(residues.species_from_sequence("GPAAA"))
    bonds, angles = np.array([3.71, 3.81, 3.91, 4.01]), np.radians([91.2, 101.2, 111.2])
    phi = np.radians([50.5, -170.5])
    x = chain_from_internal(bonds, angles, phi)[None]
    found = marginals.counted(marginals.empty(), topology, x, min_separation=3)

    def within_a_bin(histogram, expected):
        """The (class, value) that were counted are these, to half a bin."""
        rows, columns = np.nonzero(histogram.counts)
        seen = sorted(zip(rows.tolist(), histogram.centres[columns].tolist(), strict=True))
        half = 0.501 * (histogram.edges[1] - histogram.edges[0])
        return np.allclose(seen, sorted(expected), rtol=0, atol=half)

    assert within_a_bin(found.bond, [(1, bonds[0]), (0, bonds[1]), (0, bonds[2]), (0, bonds[3])])
    assert within_a_bin(found.angle, [(2, angles[0]), (0, angles[1]), (0, angles[2])])
    assert within_a_bin(found.dihedral, [(2, phi[0]), (0, phi[1])])
    pairs = {(0, 3): (0, 7), (1, 4): (0, 14), (0, 4): (0, 7)}
    for (i, j), (a, b) in pairs.items():
        row = found.distance.counts[20 * a + b]
        r = np.linalg.norm(x[0, i] - x[0, j])
        assert row[int(r / 0.02)] >= 1
    assert found.distance.counts.sum() + found.distance.outside.sum() == 3


def test_nothing_is_lost_in_pieces():
    """4000 frames are measured in several pieces, the last one not full: counts are those of numpy."""
    topology = topology_from_species([0] * 7)
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(0, 2.2, (4000, 7, 3)), axis=1)
    found = marginals.counted(marginals.empty(), topology, x, 3)
    r = np.linalg.norm(np.diff(x, axis=1), axis=-1)
    expected = np.histogram(r[(r >= 2.0) & (r < 6.0)], found.bond.edges)[0]
    assert np.abs(found.bond.counts[0] - expected).sum() <= 2  # a value within rounding of an edge
    assert found.bond.outside[0] == ((r < 2.0) | (r >= 6.0)).sum()
    assert found.angle.counts.sum() == 4000 * 5 and found.dihedral.counts.sum() == 4000 * 4


def test_a_flat_chain_has_its_torsions_counted():
    """±180° in float32 lies beyond π: it must not fall outside."""
    topology = topology_from_species([0] * 4)
    x = chain_from_internal(np.full(3, 3.8), np.full(2, 2.0), np.array([np.pi]))[None].astype(np.float32)
    found = marginals.counted(marginals.empty(), topology, x, 3)
    assert found.dihedral.counts.sum() == 1 and found.dihedral.outside.sum() == 0


def test_a_molecule_without_dihedrals():
    topology = topology_from_species([0, 0])
    found = marginals.counted(marginals.empty(), topology, np.eye(3)[None, :2] * 2.7, 3)
    assert found.bond.counts.sum() == 1 and found.angle.counts.sum() == found.distance.counts.sum() == 0


def test_quantile_and_coarser():
    histogram = marginals.Histogram(np.array([[1.0, 3.0, 0.0, 4.0]]), np.arange(5.0), np.zeros(1))
    assert marginals.quantile(histogram.pooled, histogram.edges, 0.25) == pytest.approx(1 + 1 / 3)
    assert marginals.coarser(histogram, 2).counts.tolist() == [[4.0, 4.0]]
    assert marginals.coarser(histogram, 2).edges.tolist() == [0.0, 2.0, 4.0]
    with pytest.raises(ValueError, match="without counts"):
        marginals.quantile(np.zeros(4), histogram.edges, 0.5)
