"""Maps of short reach: the band of Gram elements, equality with the dense map, application in tiles."""

from functools import reduce

import numpy as np
import osqp
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine.data import force_map as fm
from cgrefine.data import force_window as fw
from cgrefine.data.mdcath import domain_names, read_domain, sample_folder
from cgrefine.data.source import first_valid_frame, frame_blocks
from cgrefine.data.topology import Atoms, BeadMapping, constraint_groups, map_to_beads
from cgrefine.system import topology_from_species
from tests.data.linear_anchors import slope, toy, trajectory

RIDGE = 1e-3


def summed(band, forces, weight=1.0):
    return fw.band_step(band, fw.band_init(band), forces, weight)


@pytest.fixture(scope="module")
def sample():
    """Atoms, mapping, groups and forces of the longest sample peptide."""
    path = sample_folder() / "mdcath_dataset_helix25.h5"
    domain = read_domain(path, domain_names(path)[0])
    frame, _ = first_valid_frame(domain, domain.runs, 1e4, 1, 64)
    assert domain.bonds is not None
    forces = np.concatenate([b.forces for run in domain.runs for b in frame_blocks(domain, run, 1, 64)])
    mapping = map_to_beads(domain.atoms, domain.bonds, frame)
    return domain.atoms, mapping, constraint_groups(domain.atoms, domain.bonds), forces


@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_band_holds_the_gram_elements_of_every_window(k):
    """30 residues are several tiles; float32 products: 1e-6 of the diagonal."""
    case = toy("AGAPSAGAAK" * 3)
    forces, _ = trajectory(case, 40, 0)
    band = fw.make_band(case.atoms.residue, case.groups, case.mapping.ca, k)
    state = summed(band, forces, 0.5)
    by_group = fm.group_forces(forces, case.groups)
    gram = 0.5 * np.einsum("fgc,fhc->gh", by_group, by_group, optimize=True)
    scale = np.sqrt(np.diag(gram))
    for bead, own in enumerate(band.own):
        columns = np.append(own, band.window(bead))
        exact = gram[np.ix_(band.group[columns], band.group[columns])]
        limit = 1e-6 * np.outer(scale[band.group[columns]], scale[band.group[columns]])
        assert (np.abs(fw.band_gram(band, state, *np.meshgrid(columns, columns)) - exact) < limit).all()
        near = np.abs(case.atoms.residue[case.mapping.ca[bead]] - np.arange(len(scale)) // 5) <= k
        near[case.groups[case.mapping.ca]] = False
        assert set(band.group[band.window(bead)]) == set(np.flatnonzero(near))
    assert state.weight == 60.0 and state.n_frames == 40


def test_band_does_not_depend_on_blocks(sample):
    atoms, mapping, groups, forces = sample
    band = fw.make_band(atoms.residue, groups, mapping.ca, 1)
    whole = summed(band, forces)
    parts = reduce(
        lambda s, part: fw.band_step(band, s, part, 1.0), np.array_split(forces, 7), fw.band_init(band)
    )
    scale = np.abs(whole.values).max()
    assert np.abs(parts.values - whole.values).max() < 1e-6 * scale and parts.weight == whole.weight
    halves = [summed(band, part) for part in np.array_split(forces, 2)]
    assert np.abs(fw.band_total(halves).values - whole.values).max() < 1e-6 * scale


def test_a_window_over_the_chain_is_the_dense_map(sample):
    """Coefficients differ by float32 rounding of products (1e-6) times the condition number."""
    atoms, mapping, groups, forces = sample
    band = fw.make_band(atoms.residue, groups, mapping.ca, len(mapping.ca) + 2)
    local = fw.window_fit(band, summed(band, forces), RIDGE)
    state = fm.gram_step(
        fm.gram_init(int(groups.max()) + 1), fm.group_forces(forces, groups), np.ones(len(forces))
    )
    dense = fm.optimal_map(state, groups, mapping.ca, RIDGE)
    assert np.abs(fw.to_dense(local) - dense).max() < 1e-4
    ours, best = (fm.mean_square(fm.apply(w, forces)) for w in (fw.to_dense(local), dense))
    assert ours == pytest.approx(best, rel=1e-6)


def test_objective_equals_that_of_a_qp_solver_on_the_sample(sample):
    """Each bead: minimise wᵀ G w + ridge over group coefficients that are 0 outside its window."""
    atoms, mapping, groups, forces = sample
    band = fw.make_band(fw.residue_numbers(atoms, mapping), groups, mapping.ca, 1)
    weights = fw.to_dense(fw.window_fit(band, summed(band, forces), RIDGE))
    by_group = fm.group_forces(forces, groups)
    gram = np.einsum("fgc,fhc->gh", by_group, by_group, optimize=True)
    _, first = np.unique(groups, return_index=True)
    for bead in range(0, len(mapping.ca), 4):
        own, free = groups[mapping.ca[bead]], band.group[band.window(bead)]
        size = np.diag(gram)[free].mean()
        penalty = np.zeros(len(gram))
        penalty[free] = RIDGE * size
        quadratic = gram + np.diag(penalty)
        lower, upper = np.zeros(len(gram)), np.zeros(len(gram))
        lower[free], upper[free] = -np.inf, np.inf
        lower[own] = upper[own] = 1.0
        solver = osqp.OSQP()
        solver.setup(
            sp.csc_matrix(np.triu(2.0 * quadratic / size)),
            np.zeros(len(gram)),
            sp.csc_matrix(np.eye(len(gram))),
            lower,
            upper,
            eps_abs=1e-9,
            eps_rel=1e-9,
            max_iter=20000,
            polishing=True,
            verbose=False,
        )
        best = solver.solve(raise_error=True).x
        ours = weights[bead, first]
        assert ours @ quadratic @ ours == pytest.approx(best @ quadratic @ best, rel=1e-6)


def test_conditions_hold_to_rounding(sample):
    atoms, mapping, groups, forces = sample
    for k in (0, 1, 3):
        band = fw.make_band(fw.residue_numbers(atoms, mapping), groups, mapping.ca, k)
        weights = fw.to_dense(fw.window_fit(band, summed(band, forces), RIDGE))
        assert fm.identity_residual(weights, mapping.ca) < 1e-10
        assert fm.constraint_residual(weights, groups) < 1e-10
        assert np.abs(weights).sum() > len(groups[mapping.ca]) + 1


def test_cross_fit_is_a_refit_on_the_other_folds(sample):
    atoms, mapping, groups, forces = sample
    band = fw.make_band(atoms.residue, groups, mapping.ca, 1)
    parts = np.array_split(forces, 3)
    maps = fw.cross_fit(band, [summed(band, part) for part in parts], RIDGE)
    for fold in range(3):
        others = np.concatenate([part for i, part in enumerate(parts) if i != fold])
        refit = fw.window_fit(band, summed(band, others), RIDGE)
        assert np.abs(maps.folds[fold].coefficients - refit.coefficients).max() < 1e-4
    whole = fw.window_fit(band, summed(band, forces), RIDGE)
    assert np.abs(maps.all.coefficients - whole.coefficients).max() < 1e-4
    assert np.abs(maps.folds[0].coefficients - maps.all.coefficients).max() > 1e-3
    with pytest.raises(ValueError, match="needs at least 2"):
        fw.cross_fit(band, [summed(band, forces), fw.band_init(band)], RIDGE)


def test_singular_window_is_refused_and_a_ridge_helps(sample):
    atoms, mapping, groups, forces = sample
    band = fw.make_band(atoms.residue, groups, mapping.ca, 1)
    few = summed(band, forces[:2])
    with pytest.raises(ValueError, match=r"residues of bead \d+ is singular with force_map\.ridge 0"):
        fw.window_fit(band, few, 0.0)
    assert np.isfinite(fw.window_fit(band, few, RIDGE).coefficients).all()


@pytest.mark.parametrize("lonely", [True, False])
def test_beads_without_free_groups_have_the_basic_map(lonely):
    """All of them, or all but the last one."""
    groups, residue = np.asarray([0, 0, 1, 1, 2, 2, 3]), np.asarray([0, 0, 1, 1, 5, 5, 5])
    groups[-1] = 2 if lonely else 3
    ca = np.asarray([0, 2, 4])
    forces = np.random.default_rng(0).normal(size=(9, 7, 3)).astype(np.float32)
    band = fw.make_band(residue, groups, ca, 1)
    weights = fw.to_dense(fw.window_fit(band, summed(band, forces), RIDGE))
    same = slice(None) if lonely else slice(0, 2)
    assert np.array_equal(weights[same], fm.basic_map(groups, ca)[same])
    assert (weights[2, 6] in (0.0, 1.0)) == lonely


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(0, 70), st.integers(0, 3), st.booleans())
def test_apply_local_is_the_dense_product(seed, frames, k, shuffled):
    """Any number of frames, atoms of a residue in any order; float32 sums: 1e-5 of their size."""
    rng = np.random.default_rng(seed)
    case = toy("AGPS" * int(rng.integers(1, 6)))
    groups, ca = case.groups, case.mapping.ca
    if shuffled:
        order = np.concatenate([9 * i + rng.permutation(9) for i in range(len(ca))])
        rank = np.argsort(order)
        groups, ca = groups[order], rank[ca]
    band = fw.make_band(case.atoms.residue, groups, ca, k)
    local = fw.local_map(band, [rng.normal(size=len(band.window(b))) for b in range(len(ca))])
    weights = fw.to_dense(local)
    assert fm.identity_residual(weights, ca) == 0.0 and fm.constraint_residual(weights, groups) == 0.0
    forces = rng.normal(0, 20, (frames, len(groups), 3)).astype(np.float32)
    found = fw.apply_local(local, forces)
    assert found.dtype == np.float32 and found.shape == (frames, len(ca), 3)
    if frames:
        assert np.abs(found - fm.apply(weights, forces)).max() < 1e-5 * 20 * np.abs(weights).sum(axis=1).max()


def test_apply_local_takes_views_and_refuses_another_molecule(sample):
    atoms, mapping, groups, forces = sample
    band = fw.make_band(atoms.residue, groups, mapping.ca, 1)
    local = fw.window_fit(band, summed(band, forces), RIDGE)
    assert np.array_equal(
        fw.apply_local(local, forces[::3]), fw.apply_local(local, np.ascontiguousarray(forces[::3]))
    )
    with pytest.raises(ValueError, match=f"forces have {len(atoms) - 1} atoms, the map was made for"):
        fw.apply_local(local, forces[:, :-1])


def test_windows_do_not_reach_across_chain_breaks():
    """Two capped chains in one file: NME ends the first, ACE begins the second."""
    names = ["ACE", "ALA", "ALA", "NME", "ACE", "GLY", "GLY"]
    caps = ("ACE", "NME")
    residue = np.repeat(np.arange(7), 2)
    atoms = Atoms(
        "two chains",
        np.asarray([a for name in names for a in (("N", "C") if name in caps else ("CA", "C"))]),
        np.repeat(names, 2),
        np.full(14, "0"),
        residue + 1,
        np.full(14, 6),
        residue,
    )
    ca = np.flatnonzero(atoms.name == "CA")
    mapping = BeadMapping(topology_from_species([0, 0, 7, 7], (2,)), ca, (2,))
    numbers = fw.residue_numbers(atoms, mapping)
    assert numbers[::2].tolist() == [0, 1, 2, 3, *(fw.SEGMENT_GAP + i for i in (4, 5, 6))]
    band = fw.make_band(numbers, np.arange(14), ca, 3)
    reached = [sorted(set(residue[band.group[band.window(bead)]].tolist())) for bead in range(4)]
    assert reached == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6], [4, 5, 6]]


def test_cross_fitted_window_recovers_the_mean_force():
    """All anchors are within ±1 residue, so the window holds the exact map. 3 standard errors (0.006).

    p = 12 free groups of N = 240 samples: in-sample it keeps 1 − 0.047 (fewer at the two ends).
    """
    case = toy("AGAPSAGAAK" * 3)
    forces, exact = trajectory(case, 80, 3)
    band = fw.make_band(case.atoms.residue, case.groups, case.mapping.ca, 1)
    parts = np.array_split(np.arange(80), 4)
    maps = fw.cross_fit(band, [summed(band, forces[part]) for part in parts], 1e-6)
    crossed = [fw.apply_local(m, forces[part]) for m, part in zip(maps.folds, parts, strict=True)]
    kept, error = slope(np.concatenate(crossed), exact)
    assert error < 0.01 and abs(kept - 1.0) < 3 * error
    removed = np.mean([len(band.window(bead)) for bead in range(30)]) / 240
    kept, error = slope(fw.apply_local(maps.all, forces), exact)
    assert abs(kept - (1.0 - removed)) < 3 * error
    assert 1.0 - kept > 6 * error


@pytest.mark.parametrize("spoil", [None, "own", "other", "group"])
def test_local_residuals_are_those_of_the_dense_matrix(spoil):
    """Also for maps that violate the conditions: own weight 1.1, another Cα used, unequal in a group."""
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4, 5])
    ca = np.array([0, 3, 7])
    local = fw.LocalMap(
        10, np.array([0, 0, 3]), np.array([0, 6, 16, 23]), np.concatenate([
            [1, 1, 0.3, 0, 0, 0], [0, 0, 0.5, 1, 1, 1, 0.2, 0, 0, 0], [0, 0, 0, 0.7, 1, 1, 0.1],
        ]),
    )  # fmt: skip
    place, value = {"own": (9, 1.1), "other": (0 + 6, 0.25), "group": (22 - 2, 0.4), None: (22, 0.1)}[spoil]
    local.coefficients[place] = value
    dense = fw.to_dense(local)
    found = fw.local_residuals(local, groups, ca)
    assert found == (fm.identity_residual(dense, ca), fm.constraint_residual(dense, groups))
    assert (max(found) > 0) == (spoil is not None)
