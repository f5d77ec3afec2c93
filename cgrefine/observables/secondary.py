"""Secondary structure from Cα alone: the share of frames in which each residue is in a helix or strand."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cgrefine import geometry
from cgrefine.geometry import AnyArray
from cgrefine.observables.structure import Observable
from cgrefine.system import Topology

HELIX, STRAND = 0, 1
"""Rows of `secondary_structure`."""

HELIX_RESIDUES, STRAND_RESIDUES = 5, 3
"""Consecutive residues that make a helix or a strand."""


def secondary_structure(topology: Topology) -> Observable | None:
    """(2, n): probability that each residue is helical, and extended (rows HELIX, STRAND).

    The criteria of P-SEA, Labesse, Colloc'h, Pothier & Mornon, CABIOS 13, 291 (1997), at residue i:
    τ the angle i-1..i+1, α the dihedral i-1..i+2, d2, d3, d4 the distances from i-1 to i+1, i+2, i+3.
        helix:  τ = 89 ± 12° and α = 50 ± 20°, or d3 = 5.3 ± 0.5 and d4 = 6.4 ± 0.6 Å
        strand: τ = 124 ± 14° and α = -170 ± 45°, or d2 = 6.7 ± 0.6, d3 = 9.9 ± 0.9 and d4 = 12.4 ± 1.1 Å
    Five consecutive residues make a helix, three a strand. Three departures: the distances of a helix count
    only with a positive α, as they do not tell a left-handed helix from a right-handed one; strands need no
    partner; ends are not extended. None when the chain has no five residues in a row.
    """
    if not len(_stretches(topology, 4)):
        return None

    def per_frame(x):
        helix, strand = _criteria(topology, x)
        found = [
            _runs(helix, _stretches(topology, HELIX_RESIDUES - 1)),
            _runs(strand, _stretches(topology, STRAND_RESIDUES - 1)),
        ]
        return jnp.stack(found).astype(jnp.result_type(float))

    return Observable("secondary structure", "", (2, topology.n_beads), per_frame)


def _stretches(topology: Topology, reach: int) -> np.ndarray:
    """(s, reach + 1) beads i..i+reach with no break between them."""
    first = np.arange(max(topology.n_beads - reach, 0))
    whole = first[topology.sequence[first + reach] - topology.sequence[first] == reach]
    return whole[:, None] + np.arange(reach + 1)


def _criteria(topology: Topology, x: Float[AnyArray, "n 3"]) -> tuple[Bool[Array, " n"], Bool[Array, " n"]]:
    n = topology.n_beads
    missing = jnp.full(n, jnp.inf, x.dtype)

    def at_second(values: Array, tuples: np.ndarray) -> Array:
        """Values of tuples i-1, i, ... at residue i; inf, which meets no criterion, where there is none."""
        return missing.at[tuples[:, 0] + 1].set(values)

    def distance(reach: int) -> Array:
        pairs = _stretches(topology, reach)[:, [0, -1]]
        return at_second(geometry.bond_lengths(x, pairs), pairs)

    def near(value: Array, centre: float, tolerance: float) -> Array:
        return jnp.abs(value - centre) <= tolerance

    tau = at_second(jnp.rad2deg(geometry.bond_angles(x, topology.angles)), topology.angles)
    alpha = at_second(jnp.rad2deg(geometry.dihedrals(x, topology.dihedrals)), topology.dihedrals)
    d2, d3, d4 = distance(2), distance(3), distance(4)
    right_handed = (alpha > 0.0) & (alpha <= 180.0)
    helix = (near(tau, 89.0, 12.0) & near(alpha, 50.0, 20.0)) | (
        near(d3, 5.3, 0.5) & near(d4, 6.4, 0.6) & right_handed
    )
    # -170 ± 45° goes through ±180°
    trans = near(jnp.where(alpha > 0.0, alpha - 360.0, alpha), -170.0, 45.0)
    strand = (near(tau, 124.0, 14.0) & trans) | (
        near(d2, 6.7, 0.6) & near(d3, 9.9, 0.9) & near(d4, 12.4, 1.1)
    )
    return helix, strand


def _runs(meets: Bool[Array, " n"], stretches: np.ndarray) -> Bool[Array, " n"]:
    """Residues of those stretches whose members all meet the criterion."""
    whole = jnp.all(meets[stretches], axis=1)
    hits = jnp.zeros(meets.shape, jnp.int32).at[stretches].add(whole[:, None].astype(jnp.int32))
    return hits > 0
