"""Strain: how far a frame is past the thresholds of warning, bounded, as an observable that training lowers.

Of bonds, second neighbours and overlaps each the sum of h(d) over its members, where d goes from 0 at the
threshold of warning to 1 at that of failure, and h(d) = 3d² - 2d³ between them is smooth. Its covariance with
the energy is large where frames are about to fail, and no frame counts without bound.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cgrefine import geometry
from cgrefine.config.running import Criteria, Unusual
from cgrefine.observables.structure import Observable
from cgrefine.sim.stability import CIS_PROLINE_A, Checks

KINDS = ("bonds", "second neighbours", "overlaps")


def strain(limits: Checks, warn: Unusual, fatal: Criteria) -> Observable:
    """The strain of one molecule, in the order of KINDS: (3,), no unit.

    limits: of that molecule alone (its bonds, usual lengths and pairs). Raises ValueError when a threshold of
    warning is not on the safe side of that of failure.
    """
    widths = {
        "bond_deviation_A": fatal.bond_deviation_A - warn.bond_deviation_A,
        "second_neighbor_min_A": warn.second_neighbor_min_A - fatal.second_neighbor_min_A,
        "overlap_min_A": warn.overlap_min_A - fatal.overlap_min_A,
    }
    for name, width in widths.items():
        if width <= 0.0:
            raise ValueError(
                f"refine.warn.{name} = {getattr(warn, name):g}: is not on the safe side of "
                f"sim.criteria.{name} = {getattr(fatal, name):g}"
            )
    per_frame = partial(_strain, limits, warn, tuple(widths.values()))
    return Observable("strain", "", (len(KINDS),), per_frame)


def _strain(limits: Checks, warn: Unusual, widths: tuple[float, ...], positions: Array) -> Array:
    r = geometry.bond_lengths(positions, jnp.asarray(limits.bonds))
    deviation = jnp.abs(r - limits.r0)
    cis = jnp.where(limits.may_be_cis, jnp.abs(r - CIS_PROLINE_A), deviation)
    excess = jnp.minimum(deviation, cis) - warn.bond_deviation_A
    bonds = jnp.where(limits.bond_mask, _bounded(excess / widths[0]), 0.0)
    second = geometry.bond_lengths(positions, jnp.asarray(limits.seconds))
    near = _bounded((warn.second_neighbor_min_A - second) / widths[1])
    pairs = geometry.bond_lengths(positions, jnp.asarray(limits.pairs))
    close = _bounded((warn.overlap_min_A - pairs) / widths[2])
    return jnp.stack([bonds.sum(), jnp.where(limits.second_mask, near, 0.0).sum(), close.sum()])


def _bounded(d: Float[Array, "..."] | np.ndarray) -> Array:
    u = jnp.clip(d, 0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)
