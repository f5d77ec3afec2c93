"""Internal coordinates with gradients that stay finite everywhere, and masks made harmless.

Every singular operation of the package (norms, angles, torsions) is here, once.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

AnyArray = Array | np.ndarray
"""A device or a host array: topologies are numpy until a jitted function receives them."""


_NO_DIRECTION = 1e-30


def safe_norm(vectors: Float[AnyArray, "... components"]) -> Float[Array, "..."]:
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
    return _direction(safe_norm(jnp.cross(u, v)), jnp.sum(u * v, axis=-1))


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
    return _direction(y, jnp.sum(n1 * n2, axis=-1))


def _direction(y: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """atan2(y, x), rad; 0 with zero gradient where both are below 1e-30, as for beads on one spot.

    Both are divided by the larger one first: x² + y² in the gradient of atan2 is a product of up to eight
    lengths, out of the range of float32 where beads are 1e-5 Å or 1e5 Å apart. The factor counts as a
    constant, on which the angle does not depend, so that derivatives of every order are exact. It is
    multiplied: of quotients of quotients XLA makes products that underflow.
    """
    larger = jax.lax.stop_gradient(jnp.maximum(jnp.abs(x), jnp.abs(y)))
    nowhere = larger < _NO_DIRECTION
    factor = 1.0 / jnp.where(nowhere, 1.0, larger)
    return jnp.arctan2(jnp.where(nowhere, 0.0, y) * factor, jnp.where(nowhere, 1.0, x) * factor)
