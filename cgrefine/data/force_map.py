"""Aggregation of atomic forces onto Cα beads: W with E[W F | R] = −∇(potential of mean force).

Sufficient for a configuration map R = M r that slices out Cα: (a) W Mᵀ = I, and (b) equal coefficients
inside each group of rigidly bonded atoms (a heavy atom and its hydrogens). Among such W the least mean
square of W F has the least noise. With constrained atoms merged into groups, bead I's coefficient is 1 on
its own group and 0 on the other beads' groups, and minimises ‖f_I + Σ_g x_g f_g‖² over the free groups g:
ridge regression with one design for all beads, so one Gram matrix, one Cholesky, N right-hand sides.
Ciccotti, Kapral & Vanden-Eijnden, ChemPhysChem 6, 1809 (2005); Krämer et al., J. Phys. Chem. Lett. 14,
3970 (2023).

A map that is fitted on the frames it is applied to removes a share (free groups)/(3 · frames) of everything,
the signal included. `cross_fit` takes Gram matrices by fold (say replicas) and fits the map of each fold on
the other ones: unbiased. Neighbours of this module: `force_window` (only groups near the bead along the
chain), `force_pooled` (one coefficient a residue type, for all proteins), `force_noise` (comparison).

    plan = summation(groups)
    state = gram_init(plan.n_groups)                                           # one per fold
    state = gram_step(state, group_forces(block.forces, plan), weights)        # block after block
    maps = cross_fit(states, groups, ca, ridge)                                # maps.folds[r], maps.all
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cho_factor, cho_solve, get_blas_funcs

RIGID_RCOND = 1e-10
"""Principal moments of inertia below this share of the largest count as zero (one bead, beads in a line)."""

CACHED_FRAMES = 8
"""Frames whose atomic forces are summed into groups at a time: 10⁴ atoms stay in a cache of 1 MB."""


class Summation(NamedTuple):
    """How atoms are summed into groups, made once for a molecule by `summation`.

    columns: (atoms,) atom at each gathered place: first members of all groups, then second members, ...;
    groups are sorted by falling size, so that the j-th members belong to the first counts[j] groups.
    counts: (largest group,) number of groups with more than j atoms. place: (groups,) place of each group.
    """

    columns: np.ndarray
    counts: tuple[int, ...]
    place: np.ndarray

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.place)


class GramState(NamedTuple):
    """Sums over frames. gram: (groups, groups) float64, column-major: lower triangle of Σ weight · f_g f_h
    over frames and components; the upper one stays 0. weight: 3 Σ weight. n_frames: frames seen.
    """

    gram: np.ndarray
    weight: float
    n_frames: int = 0


class CrossFit(NamedTuple):
    """folds: (folds, beads, atoms), map r fitted on all folds but r. all: (beads, atoms), fitted on all."""

    folds: np.ndarray
    all: np.ndarray


def summation(groups: Int[np.ndarray, " atoms"]) -> Summation:
    """The plan of `group_forces`. groups: every number from 0 to the largest occurs."""
    size = np.bincount(groups)
    by_group = np.argsort(groups, kind="stable")
    starts = np.concatenate([[0], np.cumsum(size)[:-1]])
    falling = np.argsort(-size, kind="stable")
    counts = tuple(int((size > j).sum()) for j in range(size.max()))
    columns = np.concatenate([by_group[starts[falling[:n]] + j] for j, n in enumerate(counts)])
    place = np.empty(len(size), np.int64)
    place[falling] = np.arange(len(size))
    return Summation(columns, counts, place)


def group_planes(
    forces: Float[np.ndarray, "frames atoms 3"], plan: Summation, dtype: type = np.float64
) -> Float[np.ndarray, "frames 3 groups"]:
    """Sum of the atomic forces in each group, one row a frame and component, summed in `dtype`.

    A few gathers and additions, whatever the order of the atoms, on CACHED_FRAMES frames at a time.
    """
    frames, atoms, _ = forces.shape
    columns = (3 * plan.columns[None, :] + np.arange(3)[:, None]).reshape(-1)
    flat = forces.reshape(frames, 3 * atoms)
    planes = np.empty((frames, 3, plan.n_groups), dtype)
    for first in range(0, frames, CACHED_FRAMES):
        part = slice(first, first + CACHED_FRAMES)
        members = np.take(flat[part], columns, axis=1, mode="clip").reshape(-1, 3, atoms)
        members = members.astype(dtype, copy=False)
        start = plan.n_groups
        sums = members[:, :, :start]
        for count in plan.counts[1:]:
            sums[:, :, :count] += members[:, :, start : start + count]
            start += count
        np.take(sums, plan.place, axis=2, mode="clip", out=planes[part])
    return planes


def group_forces(
    forces: Float[np.ndarray, "frames atoms 3"], groups: Int[np.ndarray, " atoms"] | Summation
) -> Float[np.ndarray, "frames groups 3"]:
    """Sum of the atomic forces in each group, float64. groups: their numbers, or the plan made from them."""
    plan = groups if isinstance(groups, Summation) else summation(groups)
    return group_planes(forces, plan).transpose(0, 2, 1)


def gram_init(n_groups: int) -> GramState:
    """No frame seen yet."""
    return GramState(np.zeros((n_groups, n_groups), order="F"), 0.0)


def gram_step(
    state: GramState,
    forces: Float[np.ndarray, "frames groups 3"],
    weights: Float[np.ndarray, " frames"],
) -> GramState:
    """Add a block of group forces; the given state is used up: its Gram matrix is the new one's.

    weights: 1/T of each frame, so that hot frames do not decide alone. BLAS DSYRK adds onto one triangle;
    blocks of 64 frames or more keep it near its peak.
    """
    planes = forces.transpose(0, 2, 1) * np.sqrt(weights)[:, None, None]
    rows = np.ascontiguousarray(planes, np.float64).reshape(-1, forces.shape[1])
    (syrk,) = get_blas_funcs(("syrk",), dtype=np.float64)
    gram = syrk(1.0, rows.T, beta=1.0, c=state.gram, lower=1, overwrite_c=1)
    return GramState(gram, state.weight + 3.0 * float(weights.sum()), state.n_frames + len(forces))


def gram_total(states: Sequence[GramState]) -> GramState:
    """The sum of states in the given order, in a new matrix."""
    gram = states[0].gram.copy(order="F")
    for state in states[1:]:
        gram += state.gram
    return GramState(gram, sum(s.weight for s in states), sum(s.n_frames for s in states))


def sub_gram(
    state: GramState, rows: Int[np.ndarray, " r"], columns: Int[np.ndarray, " c"]
) -> Float[np.ndarray, "r c"]:
    """The full (symmetric) Gram matrix between two lists of groups, from its lower triangle."""
    lower = rows[:, None] >= columns[None, :]
    return np.where(lower, state.gram[np.ix_(rows, columns)], state.gram[np.ix_(columns, rows)].T)


def basic_map(
    groups: Int[np.ndarray, " atoms"], ca: Int[np.ndarray, " beads"]
) -> Float[np.ndarray, "beads atoms"]:
    """W with weight 1 on each Cα and what is constrained to it, 0 elsewhere."""
    return (groups[ca][:, None] == groups[None, :]).astype(np.float64)


def optimal_map(
    state: GramState,
    groups: Int[np.ndarray, " atoms"],
    ca: Int[np.ndarray, " beads"],
    ridge: float,
    without: GramState | None = None,
) -> Float[np.ndarray, "beads atoms"]:
    """W of least mean-square force, plus ridge · (mean diagonal of the free Gram matrix) · Σ_g x_g².

    without: sums to leave out of `state`, those of one fold. Work space is one matrix of free groups.
    Raises ValueError when the Gram matrix of the free groups is singular, which a ridge above 0 prevents.
    """
    n_groups = len(state.gram)
    own = groups[ca]
    free = np.setdiff1d(np.arange(n_groups), own)
    by_group = np.zeros((len(ca), n_groups))
    by_group[np.arange(len(ca)), own] = 1.0
    if len(free):
        # of the transpose, so that the factorisation gets the column-major array it overwrites
        design = state.gram.T[np.ix_(free, free)].T
        target = sub_gram(state, free, own)
        if without is not None:
            design -= without.gram.T[np.ix_(free, free)].T
            target -= sub_gram(without, free, own)
        design[np.diag_indices(len(free))] += ridge * np.mean(np.diag(design))
        try:
            factor = cho_factor(design, lower=True, overwrite_a=True)
        except LinAlgError as error:
            raise ValueError(
                f"the Gram matrix of {len(free)} free groups is singular with force_map.ridge {ridge:g}: "
                "use more frames or a larger ridge"
            ) from error
        by_group[:, free] = -cho_solve(factor, target, overwrite_b=True).T
    return by_group[:, groups]


def cross_fit(
    states: Sequence[GramState],
    groups: Int[np.ndarray, " atoms"],
    ca: Int[np.ndarray, " beads"],
    ridge: float,
) -> CrossFit:
    """For each fold the map fitted on the other folds, and the map fitted on all, for frames in no fold.

    states: the sums of each fold; a fold without frames is allowed. Raises ValueError when fewer than two
    folds have frames, or a Gram matrix is singular.
    """
    check_folds([state.n_frames for state in states])
    total = gram_total(states)
    folds = np.empty((len(states), len(ca), len(groups)))
    for fold, state in enumerate(states):
        folds[fold] = optimal_map(total, groups, ca, ridge, without=state)
    return CrossFit(folds, optimal_map(total, groups, ca, ridge))


def check_folds(n_frames: Sequence[int]) -> None:
    """Raises ValueError when fewer than two folds have frames: nothing to fit the map of one on."""
    filled = sum(n > 0 for n in n_frames)
    if filled < 2:
        raise ValueError(f"{filled} fold has frames, cross-fitting needs at least 2: set cross_fit to false")


def apply(
    weights: Float[np.ndarray, "beads atoms"], forces: Float[np.ndarray, "frames atoms 3"]
) -> Float[np.ndarray, "frames beads 3"]:
    """Bead forces W F of each frame, in float64."""
    frames, atoms, _ = forces.shape
    flat = forces.astype(np.float64).transpose(1, 0, 2).reshape(atoms, frames * 3)
    return (weights @ flat).reshape(len(weights), frames, 3).transpose(1, 0, 2)


def mean_square(forces: Float[np.ndarray, "frames beads 3"]) -> float:
    """Mean square per component, (kcal/mol/Å)²."""
    return float(np.mean(np.square(forces, dtype=np.float64)))


def identity_residual(weights: Float[np.ndarray, "beads atoms"], ca: Int[np.ndarray, " beads"]) -> float:
    """Largest element of |W Mᵀ − I|: condition (a)."""
    return float(np.abs(weights[:, ca] - np.eye(len(ca))).max())


def constraint_residual(
    weights: Float[np.ndarray, "beads atoms"], groups: Int[np.ndarray, " atoms"]
) -> float:
    """Largest difference of coefficients inside a group of rigidly bonded atoms: condition (b)."""
    _, first = np.unique(groups, return_index=True)
    return float(np.abs(weights - weights[:, first][:, groups]).max())


def remove_net_force_and_torque(
    positions: Float[np.ndarray, "frames beads 3"], forces: Float[np.ndarray, "frames beads 3"]
) -> Float[np.ndarray, "frames beads 3"]:
    """Orthogonal projection of each frame's forces onto zero net force and zero net torque, float64.

    A potential of mean force does not change when the molecule moves as a rigid body, so its forces are
    left as they are; what is removed is noise. With x = r − ⟨r⟩ and forces f − ⟨f⟩ the torque Σ x × f is
    taken up by ω × x, ω = J⁺ Σ x × f, J = Σ (|x|² 1 − x xᵀ). The pseudo-inverse leaves out rotations that
    move nothing: a single bead, or beads in a line.
    """
    x = positions - positions.mean(axis=1, keepdims=True, dtype=np.float64)
    f = forces - forces.mean(axis=1, keepdims=True, dtype=np.float64)
    torque = np.cross(x, f).sum(axis=1)
    inertia = np.square(x).sum(axis=(1, 2))[:, None, None] * np.eye(3) - x.transpose(0, 2, 1) @ x
    omega = np.linalg.pinv(inertia, rcond=RIGID_RCOND, hermitian=True) @ torque[:, :, None]
    return f - np.cross(omega.transpose(0, 2, 1), x)
