"""Topology and packing: chain breaks, classes, capacities, neighbour lists."""

import jax
import numpy as np
import pytest

from cgrefine import neighbors, residues, system
from cgrefine.residues import species_from_sequence


def test_residue_tables_agree():
    assert len(residues.RESIDUES) == len(residues.ONE_LETTER) == len(residues.RESIDUE_MASSES) == 20
    assert residues.species_of("HSD") == residues.species_of("his") == residues.RESIDUES.index("HIS")
    with pytest.raises(ValueError, match="MSE"):
        residues.species_of("MSE")


def test_breaks_remove_bonds_angles_and_dihedrals_and_separate_beads():
    t = system.topology_from_species(species_from_sequence("AGPAVLK"), breaks=[4])
    assert t.bonds.tolist() == [[0, 1], [1, 2], [2, 3], [4, 5], [5, 6]]
    assert t.angles.tolist() == [[0, 1, 2], [1, 2, 3], [4, 5, 6]]
    assert t.dihedrals.tolist() == [[0, 1, 2, 3]]
    assert t.sequence[4] - t.sequence[3] > 900
    before_proline = t.bond_types % 20 == residues.PRO
    assert before_proline.tolist() == [False, True, False, False, False]


def test_packing_shifts_indices_and_pads_with_masks():
    t = system.topology_from_species(species_from_sequence("AGPA"))
    packed = system.pack([t, t], system.Capacity(10, 3, 8, 8, 8))
    assert packed.bonds[packed.bond_mask].max() == 7
    assert packed.bead_mask.sum() == 8 and packed.graph_mask.tolist() == [True, True, False]
    assert np.all(np.diff(packed.graph_id) >= 0)


def test_too_small_a_capacity_is_an_error():
    t = system.topology_from_species([0, 0, 0, 0])
    with pytest.raises(ValueError, match="room for 7 beads, 8 needed"):
        system.pack([t, t], system.Capacity(7, 2, 8, 8, 8))


def test_device_and_host_neighbour_lists_agree_and_never_cross_graphs():
    t = system.topology_from_species([0] * 6)
    packed = system.pack([t, t])
    x = np.random.default_rng(0).normal(scale=4.0, size=(12, 3))
    pairs = neighbors.candidates(packed)
    device = jax.jit(lambda x: neighbors.update(x, pairs, 6.0, 70))(x)
    host = neighbors.exact(packed, x, 6.0)
    kept = np.asarray(device.edge_mask)
    assert not device.overflow
    assert np.array_equal(np.asarray(device.senders)[kept], host.senders)
    assert np.array_equal(np.asarray(device.receivers)[kept], host.receivers)
    assert np.all(packed.graph_id[host.senders] == packed.graph_id[host.receivers])


def test_overflow_is_reported_not_hidden():
    t = system.topology_from_species([0] * 6)
    packed = system.pack([t])
    assert neighbors.update(np.zeros((6, 3)), neighbors.candidates(packed), 6.0, 29).overflow
    with pytest.raises(ValueError, match="30 edges do not fit"):
        neighbors.padded(*neighbors.frame_edges(np.zeros((6, 3)), 6.0), capacity=29)


def test_a_cis_bond_has_its_own_type_and_must_be_a_bond():
    chain = system.topology_from_species(species_from_sequence("AGPAVLK"), breaks=[4], cis=[2])
    plain = system.topology_from_species(species_from_sequence("AGPAVLK"), breaks=[4])
    assert chain.cis_bonds == (2,) and plain.cis_bonds == ()
    assert (chain.bond_types - plain.bond_types).tolist() == [0, system.CIS_BOND, 0, 0, 0]
    assert chain.with_cis([3]).cis_bonds == (3,) and chain.with_cis([]).cis_bonds == ()
    with pytest.raises(ValueError, match=r"\[4\] are no bonds"):
        plain.with_cis([4])
