"""Perturbed structures change what they say they do, and a spring that breaks is found where it breaks."""

import numpy as np
import pytest

from cgrefine.residues import PRO
from cgrefine.sim import evaluation, holes
from cgrefine.sim.holes import Limits, Path
from cgrefine.system import topology_from_species
from tests import planted
from tests.chains import ideal_helix, random_chain

N = 9
KT = 0.6
LIMITS = Limits(bond_A=0.3, second_A=3.8, overlap_A=2.8, overlap_separation=3)
CHAIN = planted.topology(N)


def distance(x, pair):
    return np.linalg.norm(x[..., pair[1], :] - x[..., pair[0], :], axis=-1)


def test_paths_change_the_named_distance_and_keep_the_others():
    """Bond paths keep all other bonds and angles; hinge paths all bonds, and turn by what was asked."""
    x = random_chain(N, 3)
    found = holes.paths(CHAIN, x, np.full(N - 1, 3.8), LIMITS)
    assert {p.kind for p in found} == {"bond", "angle", "pair"}
    bonds = [(i, i + 1) for i in range(N - 1)]
    for path in found:
        np.testing.assert_allclose(path.structures[0], x, atol=1e-9)
        np.testing.assert_allclose(distance(path.structures, path.beads), path.distance_A, atol=1e-9)
        for bond in bonds:
            if bond != path.beads:
                np.testing.assert_allclose(distance(path.structures, bond), distance(x, bond), atol=1e-9)
    bond = next(p for p in found if p.kind == "bond")
    assert bond.distance_A[-1] == pytest.approx(3.8 + 1.3)
    assert np.abs(bond.distance_A[bond.watched] - 3.8).min() >= 0.3 - 1e-6
    seconds = [(i, i + 2) for i in range(2, N - 2)]
    for second in seconds:
        np.testing.assert_allclose(distance(bond.structures, second), distance(x, second), atol=1e-9)


def test_bonds_across_a_break_and_compressed_prolines_are_left_out():
    broken = topology_from_species([0] * 4 + [PRO] * 5, breaks=[4])
    x = np.concatenate([random_chain(4, 1), random_chain(5, 2) + 30.0])
    found = [p for p in holes.paths(broken, x, np.full(7, 3.8), LIMITS) if p.kind == "bond"]
    stretched = [p.beads for p in found if p.distance_A[-1] > 3.8]
    assert stretched == [(0, 1), (1, 2), (2, 3), (4, 5), (5, 6), (6, 7), (7, 8)]
    assert len([p for p in found if p.distance_A[-1] < 3.8]) == 3
    np.testing.assert_array_equal(found[0].structures[-1][4:], x[4:])


def path_with(energies):
    r = np.linspace(3.8, 5.1, len(energies))
    return Path("bond", (0, 1), np.zeros((len(r), 2, 3)), r, r >= 4.1), np.asarray(energies, float) * KT


def test_a_path_that_rises_has_no_hole_and_one_that_stops_has():
    r = np.linspace(3.8, 5.1, 14)
    rising = 50 * (r - 3.8) ** 2
    assert holes.hole_of_path(*path_with(rising), KT, LIMITS) is None
    flat = np.minimum(rising, rising[5])
    found = holes.hole_of_path(*path_with(flat), KT, LIMITS)
    assert found is not None and found.at_A == pytest.approx(r[5]) and found.depth_kT == 0.0
    assert found.barrier_kT == pytest.approx(rising[5])
    falling = np.where(r > r[5] + 1e-6, flat - 3.0, flat)
    deep = holes.hole_of_path(*path_with(falling), KT, LIMITS)
    assert deep is not None and deep.depth_kT == pytest.approx(3.0)
    behind_a_wall = np.where(r < 4.15, 100 * (r - 3.8) * 10, 350.0)
    assert holes.hole_of_path(*path_with(behind_a_wall), KT, LIMITS) is None
    lost = np.where(r > 4.4, np.nan, rising)
    nothing = holes.hole_of_path(*path_with(lost), KT, LIMITS)
    assert nothing is not None and nothing.depth_kT == np.inf


@pytest.mark.parametrize(("bond", "breaks_at"), [(3, 4.3), (6, 4.3), (0, 3.3)])
def test_a_planted_hole_is_found_at_its_bond(bond, breaks_at):
    """½·60 (r - 3.8)² up to 4.3 Å (or down to 3.3) in one bond: flat from there, behind 12.5 kT."""
    found = planted_search(planted.params(N, {bond: breaks_at}))
    assert [(h.kind, h.beads) for h in found] == [("bond", (bond, bond + 1))]
    assert found[0].at_A == pytest.approx(breaks_at, abs=holes.STEP_A["bond"])
    assert found[0].barrier_kT == pytest.approx(0.5 * 60 * 0.25 / KT, rel=0.2)


def test_the_healthy_chain_has_no_hole():
    assert planted_search(planted.params(N, {})) == []


def planted_search(params):
    frames = planted.frames(N, 2, KT, 5)
    found = []
    for frame in frames:
        every = holes.paths(CHAIN, frame, np.full(N - 1, 3.8), LIMITS)
        structures = np.concatenate([p.structures for p in every])
        u = evaluation.energies(planted.MODEL, params, CHAIN, structures, planted.REACH_A).sum(axis=1)
        ends = np.cumsum([len(p.distance_A) for p in every])[:-1]
        judged = [holes.hole_of_path(p, e, KT, LIMITS) for p, e in zip(every, np.split(u, ends), strict=True)]
        found += [h for h in judged if h is not None]
    merged = holes.merged(found)
    assert all(h.frames == len(frames) for h in merged)
    return merged


def test_a_displacement_into_a_pit_names_the_bead():
    """Bead 2 gains -30 kT at the third size; the lowest reference frame is at 0."""
    reference = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    sizes = len(holes.SIZES_A)
    per_bead = np.full((sizes, 4), 5.0)
    assert holes.hole_of_displacement(per_bead, reference, 0, KT, LIMITS) is None
    per_bead[2] = [2.0, 2.0, -30 * KT - 4.0, 2.0]
    found = holes.hole_of_displacement(per_bead, reference, 0, KT, LIMITS)
    assert found is not None and found.beads == (2,) and found.at_A == holes.SIZES_A[2]
    assert found.depth_kT == pytest.approx(30 - 2.0 / KT)
    per_bead[1, 3] = np.nan
    found = holes.hole_of_displacement(per_bead, reference, 0, KT, LIMITS)
    assert found is not None and found.beads == (3,) and found.depth_kT == np.inf


def test_displacements_are_graded():
    x = ideal_helix(200)
    moved = holes.displaced(x, 1) - x
    rms = np.sqrt((moved**2).mean(axis=(1, 2)))
    np.testing.assert_allclose(rms / holes.SIZES_A, rms[0] / holes.SIZES_A[0])
    assert abs(rms[0] / holes.SIZES_A[0] - 1) < 4 / np.sqrt(2 * 600)
