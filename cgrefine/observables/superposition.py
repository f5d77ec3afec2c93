"""Optimal superposition by proper rotations alone, RMSD and RMSF: a mirror image is not superposed."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import geometry
from cgrefine.geometry import AnyArray
from cgrefine.observables.structure import Measure, Observable


def optimal_rotation(
    mobile: Float[AnyArray, "beads 3"], target: Float[AnyArray, "beads 3"]
) -> Float[Array, "3 3"]:
    """R that makes Σ |R m - t|² of centred structures least; det R = 1 always. It counts as a constant.

    The eigenvector of the largest eigenvalue of Horn's 4x4 matrix is the quaternion of the rotation: a
    quaternion cannot turn into a reflection. Horn, J. Opt. Soc. Am. A 4, 629 (1987).
    Beads on a line leave the rotation about it free: one of the best is returned.
    """
    s = jnp.asarray(mobile).T @ jnp.asarray(target)  # s[a, b] = Σ m_a t_b
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = s
    key = jnp.array(
        [
            [xx + yy + zz, yz - zy, zx - xz, xy - yx],
            [yz - zy, xx - yy - zz, xy + yx, zx + xz],
            [zx - xz, xy + yx, yy - xx - zz, yz + zy],
            [xy - yx, zx + xz, yz + zy, zz - xx - yy],
        ]
    )
    _, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(key))
    w, x, y, z = vectors[:, -1]
    return jnp.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    )


def _deviations(positions: Array, reference: Array) -> Array:
    """(n, 3) of the superposed frame from the reference, both centred."""
    mobile = positions - jnp.mean(positions, axis=0)
    target = reference - jnp.mean(reference, axis=0)
    return mobile @ optimal_rotation(mobile, target).T - target


def rmsd_to(reference: Float[np.ndarray, "beads 3"]) -> Measure:
    """RMSD(positions), Å, to a reference after optimal superposition, beads of equal weight.

    Its gradient is exact although the rotation counts as a constant: the rotation is optimal, so a change
    of it changes nothing in first order. Zero with zero gradient at the reference itself.
    """

    def rmsd(positions):
        off = _deviations(positions, jnp.asarray(reference, positions.dtype))
        return geometry.safe_norm(off.reshape(-1)) / np.sqrt(len(reference))

    return rmsd


def fluctuation(reference: Float[np.ndarray, "beads 3"]) -> Observable:
    """RMSF of each bead, Å, after superposition of every frame on the reference: (n,) by of_mean.

    per_frame gives (n, 4): the bead's deviation u from the reference and |u|²; RMSF = √(⟨|u|²⟩ - |⟨u⟩|²).
    """

    def moments(positions):
        off = _deviations(positions, jnp.asarray(reference, positions.dtype))
        return jnp.concatenate([off, jnp.sum(off**2, axis=1, keepdims=True)], axis=1)

    def of_mean(mean: np.ndarray) -> np.ndarray:
        variance = mean[:, 3] - np.sum(mean[:, :3] ** 2, axis=1)
        # of identical frames the variance is zero but for rounding, of either sign
        return np.sqrt(np.maximum(variance, 0.0))

    return Observable("RMSF", "Å", (len(reference), 4), moments, None, of_mean)
