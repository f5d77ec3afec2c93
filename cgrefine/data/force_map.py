"""Aggregation of atomic forces onto Cα beads: W with E[W F | R] = −∇(potential of mean force).

Sufficient for a configuration map R = M r that slices out Cα: (a) W Mᵀ = I, and (b) equal coefficients
inside each group of rigidly bonded atoms (a heavy atom and its hydrogens). Among such W the least mean
square of W F has the least noise. With constrained atoms merged into groups, bead I's coefficient is 1 on
its own group and 0 on the other beads' groups, and minimises ‖f_I + Σ_g x_g f_g‖² over the free groups g:
ridge regression with one design for all beads, so one Gram matrix, one Cholesky, N right-hand sides.
Ciccotti, Kapral & Vanden-Eijnden, ChemPhysChem 6, 1809 (2005); Krämer et al., J. Phys. Chem. Lett. 14,
3970 (2023).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cho_factor, cho_solve


class GramState(NamedTuple):
    """gram: (groups, groups) float64, Σ weight · f_g f_h over frames and components. weight: Σ weight."""

    gram: np.ndarray
    weight: float


def gram_init(n_groups: int) -> GramState:
    """No frame seen yet."""
    return GramState(np.zeros((n_groups, n_groups)), 0.0)


def gram_step(
    state: GramState,
    forces: Float[np.ndarray, "frames groups 3"],
    weights: Float[np.ndarray, " frames"],
) -> GramState:
    """Add a block of group forces. weights: 1/T of each frame, so that hot frames do not decide alone."""
    n_groups = forces.shape[1]
    scaled = np.asarray(forces, np.float64) * np.sqrt(weights)[:, None, None]
    rows = np.ascontiguousarray(scaled.transpose(1, 0, 2)).reshape(n_groups, -1)
    # a matrix times its own transpose: numpy calls the symmetric kernel, half the work
    return GramState(state.gram + rows @ rows.T, state.weight + 3.0 * float(weights.sum()))


def group_forces(
    forces: Float[np.ndarray, "frames atoms 3"], groups: Int[np.ndarray, " atoms"]
) -> Float[np.ndarray, "frames groups 3"]:
    """Sum of the atomic forces in each group, float64. groups: every number from 0 to the largest occurs."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    return np.add.reduceat(forces[:, order].astype(np.float64), starts, axis=1)


def basic_map(
    groups: Int[np.ndarray, " atoms"], ca: Int[np.ndarray, " beads"]
) -> Float[np.ndarray, "beads atoms"]:
    """W with weight 1 on each Cα and what is constrained to it, 0 elsewhere."""
    return (groups[ca][:, None] == groups[None, :]).astype(np.float64)


def optimal_map(
    state: GramState, groups: Int[np.ndarray, " atoms"], ca: Int[np.ndarray, " beads"], ridge: float
) -> Float[np.ndarray, "beads atoms"]:
    """W of least mean-square force, plus ridge · (mean diagonal of the free Gram matrix) · Σ_g x_g².

    Raises ValueError when the Gram matrix of the free groups is singular, which a ridge above 0 prevents.
    """
    n_groups = len(state.gram)
    own = groups[ca]
    free = np.setdiff1d(np.arange(n_groups), own)
    by_group = np.zeros((len(ca), n_groups))
    by_group[np.arange(len(ca)), own] = 1.0
    if len(free):
        design = state.gram[np.ix_(free, free)]
        design[np.diag_indices(len(free))] += ridge * np.mean(np.diag(design))
        try:
            factor = cho_factor(design, lower=True, overwrite_a=True)
        except LinAlgError as error:
            raise ValueError(
                f"the Gram matrix of {len(free)} free groups is singular with force_map.ridge {ridge:g}: "
                "use more frames or a larger ridge"
            ) from error
        by_group[:, free] = -cho_solve(factor, state.gram[np.ix_(free, own)]).T
    return by_group[:, groups]


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
