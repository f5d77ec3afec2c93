"""The force map: conditions, optimality against a QP solver, and mean forces known in closed form."""

import numpy as np
import osqp
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cgrefine.data import force_map as fm
from cgrefine.data.mdcath import domain_names, read_domain, sample_folder
from cgrefine.data.source import first_valid_frame, frame_blocks
from cgrefine.data.topology import bonds_from_geometry, constraint_groups, map_to_beads
from tests.data.linear_anchors import slope, toy, trajectory
from tests.data.mini import Mini

RIDGE = 1e-2


def gram_of(forces, groups, weights=None):
    ones = np.ones(len(forces)) if weights is None else weights
    return fm.gram_step(fm.gram_init(int(groups.max()) + 1), fm.group_forces(forces, groups), ones)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Forces, groups and Cα of the mini domain."""
    mini = Mini(frames=100)
    domain = read_domain(mini.write(tmp_path_factory.mktemp("mini") / "mini.h5"), mini.name)
    assert domain.bonds is not None
    return mini.trajectory(320, 0)[1], constraint_groups(domain.atoms, domain.bonds), mini.ca


def test_conditions_hold_to_rounding(case):
    forces, groups, ca = case
    slice_map = np.zeros((len(ca), len(groups)))
    slice_map[np.arange(len(ca)), ca] = 1.0
    for weights in (fm.basic_map(groups, ca), fm.optimal_map(gram_of(forces, groups), groups, ca, RIDGE)):
        assert np.abs(weights @ slice_map.T - np.eye(len(ca))).max() < 1e-10
        for group in range(groups.max() + 1):
            assert np.ptp(weights[:, groups == group], axis=1).max() < 1e-10
        assert fm.identity_residual(weights, ca) < 1e-10
        assert fm.constraint_residual(weights, groups) < 1e-10


def test_residuals_see_a_violation(case):
    _, groups, ca = case
    weights = fm.basic_map(groups, ca)
    weights[0, ca[1]] = 0.01
    assert fm.identity_residual(weights, ca) == pytest.approx(0.01)
    assert fm.constraint_residual(weights, groups) == pytest.approx(0.01)


def test_basic_map_sums_ca_and_its_hydrogens(case):
    forces, groups, ca = case
    mapped = fm.apply(fm.basic_map(groups, ca), forces)
    gly = ca[2]  # CA, HA2, HA3 follow one another
    assert np.allclose(mapped[:, 2], forces[:, gly : gly + 3].astype(np.float64).sum(axis=1), atol=1e-12)


def test_gram_does_not_depend_on_blocks(case):
    forces, groups, _ = case
    whole = gram_of(forces, groups)
    state = fm.gram_init(int(groups.max()) + 1)
    for block in np.array_split(forces, 7):
        state = fm.gram_step(state, fm.group_forces(block, groups), np.ones(len(block)))
    assert np.allclose(state.gram, whole.gram, rtol=1e-12, atol=1e-9) and state.weight == whole.weight


def test_weight_two_is_the_frame_twice(case):
    forces, groups, _ = case
    weights = np.where(np.arange(len(forces)) < 10, 2.0, 1.0)
    twice = np.concatenate([forces, forces[:10]])
    assert np.allclose(
        gram_of(forces, groups, weights).gram, gram_of(twice, groups).gram, rtol=1e-12, atol=1e-9
    )


def test_gram_of_float32_forces_is_summed_in_double():
    """A small force after a large one: float32 sums would lose it (1e8 + 1 = 1e8)."""
    forces = np.zeros((2, 1, 3), np.float32)
    forces[0, 0, 0], forces[1, 0, 0] = 1e4, 1.0
    assert gram_of(forces, np.zeros(1, int)).gram[0, 0] == 1e8 + 1.0


def test_singular_gram_is_refused_and_a_ridge_helps(case):
    forces, groups, ca = case
    state = gram_of(forces[:3], groups)  # 9 samples for 25 free groups
    with pytest.raises(ValueError, match=r"singular with force_map\.ridge 0"):
        fm.optimal_map(state, groups, ca, 0.0)
    assert np.isfinite(fm.optimal_map(state, groups, ca, RIDGE)).all()


def test_no_free_groups_is_the_basic_map():
    forces = np.random.default_rng(0).normal(size=(5, 4, 3))
    groups, ca = np.asarray([0, 0, 1, 1]), np.asarray([0, 2])
    assert np.array_equal(
        fm.optimal_map(gram_of(forces, groups), groups, ca, RIDGE), fm.basic_map(groups, ca)
    )


def qp_objectives(forces, groups, ca, ridge):
    """Objective of each bead's QP over atoms, by OSQP: no groups merged, all conditions as constraints.

    minimise wᵀ G w + ridge · d · Σ_g w_g² (g: free groups, d: mean square of their forces), subject to
    w = 1 on the own Cα, 0 on other Cα, equal in each group.
    """
    n = len(groups)
    flat = forces.astype(np.float64).transpose(1, 0, 2).reshape(n, -1)
    gram = flat @ flat.T
    free = [g for g in range(groups.max() + 1) if g not in groups[ca]]
    first = np.asarray([np.flatnonzero(groups == g)[0] for g in range(groups.max() + 1)])
    size = np.mean([np.square(flat[groups == g].sum(axis=0)).sum() for g in free])
    penalty = np.zeros(n)
    penalty[first[free]] = ridge * size
    quadratic = gram + np.diag(penalty)
    followers = np.setdiff1d(np.arange(n), first)
    rows = np.zeros((len(ca) + len(followers), n))
    rows[np.arange(len(ca)), ca] = 1.0
    rows[len(ca) + np.arange(len(followers)), followers] = 1.0
    rows[len(ca) + np.arange(len(followers)), first[groups[followers]]] -= 1.0
    values = []
    for bead in range(len(ca)):
        target = np.zeros(len(rows))
        target[bead] = 1.0
        solver = osqp.OSQP()
        solver.setup(
            sp.csc_matrix(np.triu(2.0 * quadratic / size)),
            np.zeros(n),
            sp.csc_matrix(rows),
            target,
            target,
            eps_abs=1e-9,
            eps_rel=1e-9,
            max_iter=20000,
            polishing=True,
            verbose=False,
        )
        w = solver.solve(raise_error=True).x
        values.append(w @ quadratic @ w)
    return np.asarray(values), quadratic


def check_against_qp(forces, groups, ca):
    weights = fm.optimal_map(gram_of(forces, groups), groups, ca, RIDGE)
    values, quadratic = qp_objectives(forces, groups, ca, RIDGE)
    ours = np.einsum("ia,ab,ib->i", weights, quadratic, weights)
    assert np.allclose(ours, values, rtol=1e-6, atol=0.0)
    basic = fm.basic_map(groups, ca)
    assert (ours < np.einsum("ia,ab,ib->i", basic, quadratic, basic)).all()


def test_objective_equals_that_of_a_qp_solver(case):
    check_against_qp(*case)


@pytest.mark.parametrize("path", sorted(sample_folder().glob("*.h5")), ids=lambda path: path.stem)
def test_objective_equals_that_of_a_qp_solver_on_the_sample(path):
    domain = read_domain(path, domain_names(path)[0])
    frame, _ = first_valid_frame(domain, domain.runs, 1e4, 1, 64)
    bonds = bonds_from_geometry(domain.atoms, frame) if domain.bonds is None else domain.bonds
    forces = np.concatenate([b.forces for run in domain.runs for b in frame_blocks(domain, run, 1, 64)])
    check_against_qp(
        forces, constraint_groups(domain.atoms, bonds), map_to_beads(domain.atoms, bonds, frame).ca
    )


def test_mean_force_of_a_gaussian_network_is_exact():
    """U = ½ xᵀ K x: integrating out the free atoms leaves the Schur complement S, so E[W F | R] = −S R.

    With E[x_free | R] = −K_ff⁻¹ K_fR R, W K E[x | R] must equal S R for every valid W, at any force noise.
    """
    rng = np.random.default_rng(4)
    n, ca = 9, np.asarray([1, 4, 7])
    springs = np.triu(rng.uniform(1, 20, (n, n)) * (rng.random((n, n)) < 0.5), 1)
    springs += springs.T
    stiffness = np.diag(springs.sum(axis=1)) - springs + np.diag(rng.uniform(0.5, 2, n))
    free = np.setdiff1d(np.arange(n), ca)
    response = np.zeros((n, 3))
    response[ca] = np.eye(3)
    response[free] = -np.linalg.solve(stiffness[np.ix_(free, free)], stiffness[np.ix_(free, ca)])
    schur = stiffness[ca] @ response
    groups = np.arange(n)
    for forces in (rng.normal(size=(40, n, 3)), rng.normal(3.0, 2.0, size=(40, n, 3))):
        weights = fm.optimal_map(gram_of(forces, groups), groups, ca, RIDGE)
        assert np.abs(weights @ stiffness @ response - schur).max() < 1e-10
    wrong = fm.basic_map(groups, ca) + 0.1  # breaks W Mᵀ = I
    assert np.abs(wrong @ stiffness @ response - schur).max() > 0.1


STIFF, KT, PULL, ARM = 200.0, 0.6, 30.0, np.asarray([1.0, 0.3, 0.0])


def dimer(n, seed):
    """n frames of Cα1, H (rigid on Cα1), Y, Cα2; forces, and the exact mean force on the two beads.

    U = ¼|R1−R2|⁴ + ½·STIFF·|Y − (R1+R2)/2|² + ½·PULL·|H|², H = R1 + ARM: rigid, so a function of R1.
    Integrating out Y leaves −∇W = −∇(¼|R1−R2|⁴) and, on bead 1, −PULL·H.
    """
    rng = np.random.default_rng(seed)
    r1, r2 = rng.normal(0.5, 0.7, (2, n, 3))
    fluctuation = rng.normal(0.0, np.sqrt(KT / STIFF), (n, 3))  # Y − (R1+R2)/2
    quartic = np.square(r1 - r2).sum(axis=1, keepdims=True) * (r1 - r2)
    on_h = -PULL * (r1 + ARM)
    share = 0.5 * STIFF * fluctuation
    forces = np.stack([-quartic + share, on_h, -2.0 * share, quartic + share], axis=1)
    return forces, np.stack([-quartic + on_h, quartic], axis=1)


GROUPS, BEADS = np.asarray([0, 0, 1, 2]), np.asarray([0, 3])


def test_optimal_map_recovers_the_mean_force_of_an_anharmonic_dimer():
    """The noise is ½·STIFF·(Y − centre) on each bead; weight ½ on Y removes it, and the fit must find ½.

    Error of a fitted weight: rms(mean force)/(rms(f_Y) √(3n)) < 0.015 here; five of them (false alarm 1e-6).
    """
    n = 20000
    forces, _ = dimer(n, 0)
    weights = fm.optimal_map(gram_of(forces, GROUPS), GROUPS, BEADS, 0.0)
    assert np.abs(weights[:, 2] - 0.5).max() < 5 * 0.015
    fresh, exact = dimer(n, 1)
    noise = {
        k: fm.mean_square(fm.apply(w, fresh) - exact)
        for k, w in (("optimal", weights), ("basic", fm.basic_map(GROUPS, BEADS)))
    }
    assert noise["basic"] == pytest.approx(0.25 * STIFF * KT, rel=0.03)  # (½·STIFF)²·KT/STIFF; 3 % is 5 σ
    assert noise["optimal"] < 0.03 * noise["basic"]  # (0.075/0.5)² = 0.0225


@pytest.mark.parametrize("kind", ["basic", "optimal"])
def test_mapped_force_is_unbiased_in_every_direction(kind):
    """Residual W F − mean force has zero mean and no slope on R-dependent features: 4.5 standard errors.

    16 numbers each, false alarm 1e-4; fitted on other frames than it is judged on.
    """
    n = 20000
    weights = fm.basic_map(GROUPS, BEADS)
    if kind == "optimal":
        weights = fm.optimal_map(gram_of(dimer(2000, 2)[0], GROUPS), GROUPS, BEADS, RIDGE)
    forces, exact = dimer(n, 3)
    residual = (fm.apply(weights, forces) - exact).reshape(n, -1)
    for feature in (np.ones((n, 1)), exact.reshape(n, -1)):
        products = residual * feature
        assert (np.abs(products.mean(axis=0)) < 4.5 * products.std(axis=0) / np.sqrt(n)).all()


def test_a_forgotten_constraint_gives_a_wrong_mean_force():
    """Without the rigid bond in the groups the pull on H, known to act on bead 1, is fitted away."""
    forces, exact = dimer(5000, 5)
    blind = np.arange(4)
    weights = fm.optimal_map(gram_of(forces, blind), blind, BEADS, RIDGE)
    bias = fm.apply(weights, forces) - exact
    assert np.abs(bias[:, 0].mean(axis=0)).max() > 5.0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 12), st.integers(1, 40))
def test_group_forces_are_sums_over_members_in_any_order(seed, n_atoms, n_groups, frames):
    """Against a sum atom by atom; frames beyond one cached part; groups of any size."""
    rng = np.random.default_rng(seed)
    groups = np.unique(rng.integers(0, n_groups, n_atoms), return_inverse=True)[1].reshape(-1)
    forces = rng.normal(0, 30, (frames, n_atoms, 3)).astype(np.float32)
    sums = np.zeros((frames, groups.max() + 1, 3))
    for atom, group in enumerate(groups):
        sums[:, group] += forces[:, atom]
    found = fm.group_forces(forces, groups)
    assert found.dtype == np.float64 and np.allclose(found, sums, rtol=0, atol=1e-12)
    single = fm.group_planes(forces, fm.summation(groups), np.float32)
    assert np.allclose(single.transpose(0, 2, 1), sums, rtol=0, atol=1e-3)


def test_gram_is_added_in_place():
    """The promise on memory: one matrix, whatever the number of blocks."""
    forces = np.random.default_rng(0).normal(size=(20, 6, 3))
    state = fm.gram_init(6)
    for _ in range(3):
        after = fm.gram_step(state, forces, np.ones(20))
        assert np.shares_memory(after.gram, state.gram)
        state = after
    full = fm.sub_gram(state, np.arange(6), np.arange(6))
    assert np.allclose(full, 3 * np.einsum("fgc,fhc->gh", forces, forces), rtol=1e-12)
    assert state.n_frames == 60 and state.weight == 180.0


def folds_of(forces, groups, n_folds):
    return [gram_of(part, groups) for part in np.array_split(forces, n_folds)]


def test_cross_fit_is_a_refit_on_the_other_folds(case):
    forces, groups, ca = case
    parts = np.array_split(forces, 3)
    maps = fm.cross_fit(folds_of(forces, groups, 3), groups, ca, RIDGE)
    for fold in range(3):
        others = np.concatenate([part for i, part in enumerate(parts) if i != fold])
        refit = fm.optimal_map(gram_of(others, groups), groups, ca, RIDGE)
        assert np.abs(maps.folds[fold] - refit).max() < 1e-10
    assert np.abs(maps.all - fm.optimal_map(gram_of(forces, groups), groups, ca, RIDGE)).max() < 1e-10
    assert np.abs(maps.folds[0] - maps.all).max() > 1e-3
    for weights in (*maps.folds, maps.all):
        assert fm.identity_residual(weights, ca) < 1e-10 and fm.constraint_residual(weights, groups) < 1e-10


def test_cross_fit_needs_two_folds_with_frames(case):
    forces, groups, ca = case
    empty = fm.gram_init(int(groups.max()) + 1)
    with pytest.raises(ValueError, match="1 fold has frames, cross-fitting needs at least 2"):
        fm.cross_fit([gram_of(forces, groups), empty], groups, ca, RIDGE)
    maps = fm.cross_fit([*folds_of(forces, groups, 2), empty], groups, ca, RIDGE)
    assert np.abs(maps.folds[2] - maps.all).max() < 1e-10


def test_cross_fitted_map_is_unbiased_and_the_in_sample_map_shrinks_by_p_over_n():
    """200 frames, p = 40 free groups, N = 600: the in-sample map keeps 1 − 1/15 of the mean force.

    3 standard errors each (0.007); the shrinkage is 10 of them, so that the two are told apart.
    """
    case = toy("AGAPSAGAAK")
    forces, exact = trajectory(case, 200, 1)
    parts = np.array_split(np.arange(200), 5)
    states = [gram_of(forces[part], case.groups) for part in parts]
    maps = fm.cross_fit(states, case.groups, case.mapping.ca, 1e-6)
    crossed = [fm.apply(w, forces[part]) for w, part in zip(maps.folds, parts, strict=True)]
    kept, error = slope(np.concatenate(crossed), exact)
    assert error < 0.01 and abs(kept - 1.0) < 3 * error
    kept, error = slope(fm.apply(maps.all, forces), exact)
    assert abs(kept - (1.0 - 40 / 600)) < 3 * error
    assert 1.0 - kept > 6 * error


def rigid_motion(positions):
    """(f, n, 3, 6): displacements of n beads under 3 translations and 3 rotations."""
    moves = np.zeros((*positions.shape, 6))
    moves[..., :3] = np.eye(3)
    for axis in range(3):
        moves[..., 3 + axis] = np.cross(np.eye(3)[axis], positions)
    return moves


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from(["one", "two", "line", "plane", "any"]), st.floats(0, 1e3))
def test_projection_onto_zero_net_force_and_torque(seed, shape, shift):
    """Idempotent, nothing left of force and torque, and equal to least squares on rigid motions."""
    rng = np.random.default_rng(seed)
    n = {"one": 1, "two": 2}.get(shape, 6)
    keep = {"line": (1, 0, 0), "plane": (1, 1, 0)}.get(shape, (1, 1, 1))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    x = (rng.normal(0, 5, (3, n, 3)) * np.asarray(keep)) @ turn + shift
    forces = rng.normal(0, 10, (3, n, 3))
    found = fm.remove_net_force_and_torque(x, forces)
    moves = rigid_motion(x - x.mean(axis=1, keepdims=True)).reshape(3, 3 * n, 6)
    removed = (forces - found).reshape(3, -1)
    for frame in range(3):
        best = np.linalg.lstsq(moves[frame], forces[frame].reshape(-1), rcond=1e-9)[0]
        assert np.allclose(moves[frame] @ best, removed[frame], rtol=0, atol=1e-8)
    assert np.abs(found.reshape(3, 1, -1) @ moves).max() < 1e-8 * (1 + shift)
    assert np.abs(fm.remove_net_force_and_torque(x, found) - found).max() < 1e-8


def test_projection_leaves_internal_forces():
    """Central forces between pairs have neither net force nor torque; positions far from the origin."""
    rng = np.random.default_rng(2)
    x = (rng.normal(0, 8, (4, 7, 3)) + 50.0).astype(np.float32)
    pair = x[:, :, None].astype(np.float64) - x[:, None]
    strength = rng.normal(size=(4, 7, 7))
    forces = ((strength + strength.transpose(0, 2, 1))[..., None] * pair).sum(axis=2)
    assert np.abs(fm.remove_net_force_and_torque(x, forces) - forces).max() < 1e-10
    pushed = forces + np.cross([0.3, -0.2, 0.9], x - x.mean(axis=1, keepdims=True, dtype=np.float64)) + 4.0
    assert np.abs(fm.remove_net_force_and_torque(x, pushed) - forces).max() < 1e-10
