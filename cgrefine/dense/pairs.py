"""Forces of pair terms from the (L, L) matrix of squared distances of each replica."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine.dense.chain import Chain
from cgrefine.energy import PairTerm, Params
from cgrefine.system import Topology


@runtime_checkable
class FastPair(Protocol):
    """A pair scalar that gives -U'(r)/r of the squared distance from constants of each pair.

    Without it the slope is taken by differentiation at each step, from the species.
    """

    def pair_constants(self, params: Params, species_i: Array, species_j: Array, acts: Array) -> Any:
        """Arrays (L, L) in a tuple, made once; a pair where acts is 0 (else 1) has no slope."""
        ...

    def slope_over_r(self, constants: Any, squared: Array) -> Array:
        """-U'(r)/r, kcal/mol/Å², of r² in Å²; 0 beyond the cutoff, finite at 0."""
        ...


def pair_constants(term: PairTerm, params: Params, topology: Topology, acts: np.ndarray, dtype: Any) -> Any:
    """What `pair_forces` reads of a term: constants of each pair, or the parameters as they are."""
    i, j = (np.broadcast_to(s, acts.shape) for s in (topology.species[:, None], topology.species[None]))
    if not isinstance(term.scalar, FastPair):
        return jax.tree.map(lambda p: np.asarray(p, dtype), params)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
        made = term.scalar.pair_constants(
            double, jnp.asarray(i), jnp.asarray(j), jnp.asarray(acts, jnp.float64)
        )
    return jax.tree.map(lambda value: np.asarray(value, dtype), made)


def pair_forces(terms: tuple[PairTerm, ...], chain: Chain, x: Array) -> Array:
    """x_i Σ_j s_ij - Σ_j s_ij x_j with s = -U'(r)/r: (3, R, L) kcal/mol/Å, of positions (3, R, L) Å."""
    if not terms:
        return jnp.zeros_like(x)
    d = [x[c, :, :, None] - x[c, :, None, :] for c in range(3)]
    squared = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    s = jnp.zeros_like(squared)
    for term, constants, acts in zip(terms, chain.pairs, chain.acts, strict=True):
        s = s + _slope_over_r(term, constants, acts, chain, squared)
    rows = jnp.moveaxis(jnp.concatenate([x, jnp.ones_like(x[:1])]), 0, 1)
    sums = jnp.moveaxis(jnp.einsum("rcj,rji->rci", rows, s), 1, 0)
    return x * sums[3] - sums[:3]


def _slope_over_r(term: PairTerm, constants: Any, acts: Any, chain: Chain, squared: Array) -> Array:
    if isinstance(term.scalar, FastPair):
        return term.scalar.slope_over_r(constants, squared)
    i, j = (jnp.broadcast_to(s, squared.shape) for s in _both(chain.species))
    zero = squared == 0.0
    r = jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)))
    inside = r < term.cutoff_A
    at = jnp.where(inside, r, term.cutoff_A)
    _, slope = jax.jvp(lambda v: term.scalar(constants, v, i, j), (at,), (jnp.ones_like(at),))
    return jnp.where(inside & ~zero, -slope / jnp.where(zero, 1.0, r), 0.0) * jnp.asarray(acts)


def _both(species: Array | np.ndarray) -> tuple[Array, Array]:
    kinds = jnp.asarray(species)
    return kinds[:, None], kinds[None]
