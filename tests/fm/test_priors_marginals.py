"""Histograms by residue type: every tuple of every frame once, in the right row and bin; sums of rows."""

import numpy as np
import pytest

from cgrefine import residues
from cgrefine.fm.priors import classes, marginals
from cgrefine.system import topology_from_species
from tests.chains import chain_from_internal

A, G, P = (residues.ONE_LETTER.index(letter) for letter in "AGP")


def bin_centres(histogram, rows, columns):
    return sorted(zip(rows.tolist(), histogram.centres[columns].tolist(), strict=True))


def within_a_bin(histogram, expected):
    """The (row, value) that were counted are these, to half a bin."""
    seen = bin_centres(histogram, *np.nonzero(histogram.counts))
    half = 0.501 * (histogram.edges[1] - histogram.edges[0])
    return np.allclose(seen, sorted(expected), rtol=0, atol=half)


def test_one_chain_by_hand():
    """G P A A A, its second bond cis: known bonds, angles and dihedrals, in the rows of their residues."""
    topology = topology_from_species(residues.species_from_sequence("GPAAA"), cis=[2])
    bonds, angles = np.array([3.71, 2.912, 3.91, 4.01]), np.radians([91.2, 101.2, 111.2])
    phi = np.radians([50.5, -170.5])
    x = chain_from_internal(bonds, angles, phi)[None]
    found = marginals.counted(marginals.empty(), topology, x, min_separation=3)
    cis = len(classes.labels("bond", "type")) - 1
    assert within_a_bin(
        found.bond, [(20 * G + P, bonds[0]), (cis, bonds[1]), (0, bonds[2]), (20 * A + A, bonds[3])]
    )
    assert within_a_bin(found.angle, [(P, angles[0]), (A, angles[1]), (A, angles[2])])
    assert within_a_bin(found.dihedral, [(20 * P + A, phi[0]), (20 * A + A, phi[1])])
    assert within_a_bin(marginals.grouped(found.dihedral, "dihedral", "class"), [(2, phi[0]), (0, phi[1])])
    pairs = {(0, 3): (0, 7), (1, 4): (0, 14), (0, 4): (0, 7)}
    for (i, j), (a, b) in pairs.items():
        row = found.distance.counts[20 * a + b]
        r = np.linalg.norm(x[0, i] - x[0, j])
        assert row[int(r / 0.02)] >= 1
    assert found.distance.counts.sum() + found.distance.outside.sum() == 3


@pytest.mark.parametrize("kind", classes.KINDS)
def test_grouping_keeps_every_count(kind):
    """Each scheme sums the rows of its members, also by way of the scheme in between; cis stays apart."""
    fine = getattr(marginals.empty(), kind)
    rng = np.random.default_rng(0)
    fine = fine._replace(
        counts=rng.integers(0, 9, fine.counts.shape).astype(float),
        outside=rng.integers(0, 9, len(fine.outside)).astype(float),
    )
    assert np.array_equal(marginals.grouped(fine, kind, "type").counts, fine.counts)
    by_class, everything = (marginals.grouped(fine, kind, scheme) for scheme in ("class", "global"))
    again = marginals.row_sums(by_class.counts, classes.parents(kind, "class"), len(everything.counts))
    assert np.array_equal(again, everything.counts)
    assert np.array_equal(by_class.pooled, fine.pooled)
    assert by_class.outside.sum() == fine.outside.sum()
    if kind == "bond":
        assert np.array_equal(by_class.counts[-1], fine.counts[-1])
        assert np.array_equal(everything.counts[-1], fine.counts[-1])


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
    twice = marginals.summed(found, found)
    assert np.array_equal(twice.bond.counts, 2 * found.bond.counts)
    more = marginals.counted(found, topology, x, 3)
    assert all(np.array_equal(a.counts, b.counts) for a, b in zip(more, twice, strict=True))
    assert np.array_equal(more.bond.outside, twice.bond.outside)


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
