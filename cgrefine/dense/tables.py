"""Tables of bonded energies and forces on a regular grid, made in float64 from the terms' own functions."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine.compiling import ONCE
from cgrefine.energy import BondedTerm, Params
from cgrefine.system import Topology

POINTS = 4096
RANGES = {"bond": (0.0, 16.0), "angle": (0.0, np.pi), "dihedral": (-np.pi, np.pi)}
"""Where tables begin and end, Å or rad. A longer bond is read from the line through the last two points."""

CODES_STEP = 32


class Curves(NamedTuple):
    """Tables of one bonded kind, m places along the chain.

    force, energy (c, points + 1) of c distinct curves: -dU/dx and U on the range of the kind; place (m,)
    int32: which curve each place reads, the last one (all zero) where the chain has no such tuple.
    """

    force: Array | np.ndarray
    energy: Array | np.ndarray
    place: Array | np.ndarray


def curves_of(
    terms: Sequence[BondedTerm], params: Params, topology: Topology, kind: str, dtype: Any
) -> Curves:
    """Tables of the sum of the terms, one for each distinct curve among the types of the chain."""
    tuples, types = getattr(topology, f"{kind}s"), getattr(topology, f"{kind}_types")
    codes, which = np.unique(types, return_inverse=True)
    grid = np.linspace(*RANGES[kind], POINTS + 1)
    energies, forces = tabulated(terms, params, grid, codes)
    distinct, curve = np.unique(np.concatenate([energies, forces], axis=1), axis=0, return_inverse=True)
    zero = np.zeros((1, len(grid)))
    place = np.full(topology.n_beads - tuples.shape[1] + 1, len(distinct), np.int32)
    place[tuples[:, 0]] = curve[which]
    return Curves(
        np.concatenate([distinct[:, len(grid) :], zero]).astype(dtype),
        np.concatenate([distinct[:, : len(grid)], zero]).astype(dtype),
        place,
    )


def tabulated(
    terms: Sequence[BondedTerm], params: Params, grid: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Energy and force -dU/dx of the sum of the terms, (codes, grid) each, in float64."""
    with jax.enable_x64(True):
        double = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), {t.name: params[t.name] for t in terms})
        # a multiple of CODES_STEP codes, so that chains share a compilation
        many = np.resize(codes, CODES_STEP * -(-len(codes) // CODES_STEP)).astype(np.int32)
        energies, forces = _table(tuple(terms), double, jnp.asarray(grid), many)
    return np.asarray(energies)[: len(codes)], np.asarray(forces)[: len(codes)]


@partial(jax.jit, static_argnums=0, compiler_options=ONCE)
def _table(terms: tuple[BondedTerm, ...], params: Params, grid: Array, codes: Array) -> tuple[Array, Array]:
    def one(code):
        def energy(x):
            return sum(t.scalar(params[t.name], x, jnp.full(grid.shape, code)) for t in terms)

        return jax.jvp(energy, (grid,), (jnp.ones_like(grid),))

    energies, slopes = jax.vmap(one)(codes)
    return energies, -slopes


def read(curves: Curves, kind: str, x: Array, what: str) -> Array:
    """Values of the tables at x (R, m), linear between points and beyond the last one."""
    low, high = RANGES[kind]
    points = POINTS
    values = jnp.asarray(getattr(curves, what)).reshape(-1)
    place = (x - low) * (points / (high - low))
    index = jnp.clip(jnp.floor(place), 0, points - 1)
    t = place - index
    at = index.astype(jnp.int32) + (points + 1) * jnp.asarray(curves.place)
    here = values.at[at].get(mode="promise_in_bounds")
    there = values.at[at + 1].get(mode="promise_in_bounds")
    return here + t * (there - here)
