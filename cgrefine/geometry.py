"""Internal coordinates with gradients that stay finite everywhere, and masks made harmless.

Every singular operation of the package (norms, angles, torsions) is here, once.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

AnyArray = Array | np.ndarray
"""A device or a host array: topologies are numpy until a jitted function receives them."""


def safe_norm(vectors: Float[AnyArray, "... 3"]) -> Float[Array, "..."]:
    """Length of each vector; exactly 0 with zero gradient at the zero vector."""
    squared = jnp.sum(vectors * vectors, axis=-1)
    zero = squared == 0.0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))


def masked_rows(
    values: Float[AnyArray, "n 3"], mask: Bool[AnyArray, " n"], fill: float = 0.0
) -> Float[Array, "n 3"]:
    """Rows with a False mask replaced by a constant: NaN in them reaches neither value nor gradient."""
    return jnp.where(mask[:, None], values, jnp.asarray(fill, values.dtype))


def displacements(
    positions: Float[AnyArray, "beads 3"],
    senders: Int[AnyArray, " edges"],
    receivers: Int[AnyArray, " edges"],
    edge_mask: Bool[AnyArray, " edges"],
) -> Float[Array, "edges 3"]:
    """Vector from sender to receiver, Å; masked edges give (1, 1, 1), a harmless constant."""
    return masked_rows(positions[receivers] - positions[senders], edge_mask, fill=1.0)


def bond_lengths(positions: Float[AnyArray, "beads 3"], bonds: Int[AnyArray, "n 2"]) -> Float[Array, " n"]:
    """Length of each bond, Å."""
    return safe_norm(positions[bonds[:, 1]] - positions[bonds[:, 0]])


def bond_angles(positions: Float[AnyArray, "beads 3"], triples: Int[AnyArray, "n 3"]) -> Float[Array, " n"]:
    """Angle at the middle bead of each triple i-j-k, rad, in [0, π].

    atan2 of |u×v| and u·v, not arccos: value and gradient stay finite at a straight angle, where the
    gradient (undefined) is returned as zero. Coincident beads give angle 0 with zero gradient.
    """
    i, j, k = triples[:, 0], triples[:, 1], triples[:, 2]
    u, v = positions[i] - positions[j], positions[k] - positions[j]
    sine, cosine = safe_norm(jnp.cross(u, v)), jnp.sum(u * v, axis=-1)
    coincident = (sine == 0.0) & (cosine == 0.0)
    return jnp.arctan2(sine, jnp.where(coincident, 1.0, cosine))


def dihedrals(positions: Float[AnyArray, "beads 3"], quads: Int[AnyArray, "n 4"]) -> Float[Array, " n"]:
    """Signed torsion of each bead quadruple i-j-k-l, rad, in (-π, π]; trans is π.

    Positive when l is turned clockwise from i, looking from j to k (IUPAC; LAMMPS and mdtraj agree).
    Three beads in a line leave the torsion undefined: it is 0 there, with zero gradient.
    Blondel & Karplus, J. Comput. Chem. 17, 1132 (1996).
    """
    i, j, k, m = (positions[quads[:, c]] for c in range(4))
    b1, b2, b3 = j - i, k - j, m - k
    n1, n2 = jnp.cross(b1, b2), jnp.cross(b2, b3)
    y = jnp.sum(b1 * n2, axis=-1) * safe_norm(b2)
    x = jnp.sum(n1 * n2, axis=-1)
    line = (x == 0.0) & (y == 0.0)
    return jnp.arctan2(jnp.where(line, 0.0, y), jnp.where(line, 1.0, x))
