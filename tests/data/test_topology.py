"""Beads, chain breaks, bonds and constraint groups of the mini domain, whose answers are known."""

import dataclasses

import numpy as np
import pytest

from cgrefine import residues
from cgrefine.data.mdcath import read_domain
from cgrefine.data.topology import bonds_from_geometry, chain_breaks, constraint_groups, map_to_beads
from cgrefine.errors import InputError
from tests.data.mini import Mini


@pytest.fixture(params=[True, False], ids=["psf", "geometry"])
def case(request, tmp_path):
    """Mini domain, its atoms, its bonds from the psf or from the geometry of a frame, and that frame."""
    mini = Mini(psf=request.param)
    domain = read_domain(mini.write(tmp_path / "mini.h5"), mini.name)
    frame = mini.trajectory(320, 0)[0][0]
    bonds = bonds_from_geometry(domain.atoms, frame) if domain.bonds is None else domain.bonds
    return mini, domain.atoms, bonds, frame


def test_bonds_of_both_sources_are_the_same(case):
    mini, _, bonds, _ = case
    assert np.array_equal(bonds, mini.bonds)


def test_beads_skip_caps_and_know_hsd(case):
    mini, atoms, bonds, frame = case
    mapping = map_to_beads(atoms, bonds, frame)
    names = [residues.RESIDUES[s] for s in mapping.topology.species]
    assert names == ["ALA", "HIS", "GLY", "SER", "VAL"]
    assert np.array_equal(mapping.ca, mini.ca)
    assert mapping.topology.resid.tolist() == [12, 13, 14, 15, 16]


def test_chain_break_hidden_behind_one_chain_id(case):
    """The gap before SER leaves no bond across it, and ALA-HIS-GLY, SER-VAL stay bonded."""
    _, atoms, bonds, frame = case
    mapping = map_to_beads(atoms, bonds, frame)
    assert mapping.breaks == (3,)
    assert mapping.topology.bonds.tolist() == [[0, 1], [1, 2], [3, 4]]


def test_a_gap_breaks_the_chain_even_if_the_psf_bonds_it(case):
    mini, atoms, bonds, frame = case
    across = [mini.atom.index("C", mini.ca[2]), mini.atom.index("N", mini.ca[2])]
    bonded = np.concatenate([bonds, [across]])
    assert chain_breaks(atoms, mini.ca, bonded, frame) == (3,)
    closed = np.where(
        np.arange(len(atoms))[:, None] >= across[1], frame - np.asarray([6.0, 0, 0], np.float32), frame
    )
    assert chain_breaks(atoms, mini.ca, bonded, closed) == ()
    assert chain_breaks(atoms, mini.ca, bonds, closed) == (3,)


def test_constraint_groups_are_a_heavy_atom_and_its_hydrogens(case):
    mini, atoms, bonds, _ = case
    groups = constraint_groups(atoms, bonds)
    assert len(np.unique(groups)) == groups.max() + 1 == (mini.z > 1).sum()
    for group in range(groups.max() + 1):
        members = np.flatnonzero(groups == group)
        assert (mini.z[members] > 1).sum() == 1
    gly = [mini.atom.index(a) for a in ("HA2", "HA3")]
    assert (groups[gly] == groups[mini.ca[2]]).all()
    first = [np.flatnonzero(groups == g)[0] for g in range(groups.max() + 1)]
    assert first == sorted(first)


def test_hydrogen_far_from_everything_is_refused(case):
    mini, atoms, _, frame = case
    far = frame.copy()
    far[mini.atom.index("HG")] += 3.0
    with pytest.raises(InputError, match=r"hydrogen SER 15 HG is .* Å from the nearest heavy atom"):
        bonds_from_geometry(atoms, far)


def test_hydrogen_without_bond_is_refused(case):
    mini, atoms, bonds, _ = case
    missing = bonds[(bonds != mini.atom.index("HG")).all(axis=1)]
    with pytest.raises(InputError, match="hydrogen SER 15 HG has 0 bonds"):
        constraint_groups(atoms, missing)


def test_unknown_residue_with_ca_is_named(case):
    _, atoms, bonds, frame = case
    strange = dataclasses.replace(atoms, resname=np.where(atoms.resname == "SER", "XYZ", atoms.resname))
    with pytest.raises(InputError, match=r"residue number 15: residue 'XYZ' is none of the 20"):
        map_to_beads(strange, bonds, frame)


def test_a_modified_residue_is_its_parent_only_when_asked_for(case):
    _, atoms, bonds, frame = case
    modified = dataclasses.replace(atoms, resname=np.where(atoms.resname == "SER", "SEP", atoms.resname))
    with pytest.raises(InputError, match=r"residue 'SEP' is a modified SER: set data\.modified_residues"):
        map_to_beads(modified, bonds, frame)
    plain = map_to_beads(atoms, bonds, frame).topology.species
    assert np.array_equal(map_to_beads(modified, bonds, frame, modified=True).topology.species, plain)


def test_calcium_is_no_alpha_carbon(case):
    _, atoms, bonds, frame = case
    ion = dataclasses.replace(atoms, z=np.where(np.arange(len(atoms)) == case[0].ca[0], 20, atoms.z))
    assert map_to_beads(ion, bonds, frame).topology.n_beads == 4
