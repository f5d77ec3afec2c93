"""Spline tables of the prior terms, in the forms that LAMMPS reads, made from the terms' own functions.

Everything is evaluated in float64. LAMMPS takes F = -dE/dx per Å (bond, pair) and per *degree* (angle,
dihedral); its dihedral has the sign of `geometry.dihedrals`. Each grid is the one that LAMMPS makes for
itself from the number of points, so its cubic spline passes through the values written here.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cgrefine.energy import BondedTerm, PairTerm
from cgrefine.export.program import cast_params

BOND_RANGE_A = (0.1, 20.1)
BOND_POINTS = 4001
ANGLE_POINTS = 7201
DIHEDRAL_POINTS = 1440
PAIR_POINTS = 2000
PAIR_INNER_A = 0.1
"""A bond or a distance outside its table stops LAMMPS: these ranges are wider than any chain that lives."""


class Curve(NamedTuple):
    """energy and force = -dE/dx of one table on its grid: (points,) float64, kcal/mol and per unit of x.

    end_slopes: dF/dx at the first and last point.
    """

    energy: np.ndarray
    force: np.ndarray
    end_slopes: tuple[float, float]


def bonded_curves(
    terms: Sequence[BondedTerm], params: Any, x: Float[np.ndarray, " points"], n_types: int
) -> list[Curve]:
    """One curve for each type: the sum of the given terms (of one kind) at x, Å or rad."""

    def total(double, coordinate, kind):
        kinds = jnp.full(coordinate.shape, kind, jnp.int32)
        return sum((t.scalar(double[t.name], coordinate, kinds) for t in terms), jnp.zeros_like(coordinate))

    return _curves(total, params, x, range(n_types))


def pair_curves(
    term: PairTerm, params: Any, r: Float[np.ndarray, " points"], pairs: Sequence[tuple[int, int]]
) -> list[Curve]:
    """One curve for each pair of species, at distances r in Å."""

    def total(double, coordinate, pair):
        first, second = (jnp.full(coordinate.shape, pair[c], jnp.int32) for c in (0, 1))
        return term.scalar(double[term.name], coordinate, first, second)

    return _curves(total, params, r, [np.asarray(pair, np.int32) for pair in pairs])


def _curves(function: Any, params: Any, x: np.ndarray, labels: Iterable[Any]) -> list[Curve]:
    with jax.enable_x64(True):
        double = cast_params(params, jnp.float64)

        def force(coordinate, label):
            # The function is elementwise: the gradient of the sum is the derivative at each point.
            return -jax.grad(lambda v: jnp.sum(function(double, v, label)))(coordinate)

        def slope(coordinate, label):
            return jax.grad(lambda v: jnp.sum(force(v, label)))(coordinate)

        evaluate = jax.jit(
            lambda v, ends, label: (function(double, v, label), force(v, label), slope(ends, label))
        )
        ends = x[[0, -1]]
        rows = [evaluate(x, ends, label) for label in labels]
        return [Curve(np.asarray(e), np.asarray(f), (float(s[0]), float(s[1]))) for e, f, s in rows]


def bond_grid() -> np.ndarray:
    """Distances of the bond tables, Å."""
    return np.linspace(*BOND_RANGE_A, BOND_POINTS)


def angle_grid() -> np.ndarray:
    """Angles of the angle tables, 0 to 180 degrees with both ends."""
    return np.linspace(0.0, 180.0, ANGLE_POINTS)


def dihedral_grid() -> np.ndarray:
    """Torsions of the dihedral tables, degrees from -180 without the end point."""
    return -180.0 + np.arange(DIHEDRAL_POINTS) * 360.0 / DIHEDRAL_POINTS


def pair_grid(cutoff_A: float) -> np.ndarray:
    """Distances of the pair tables, Å, equally spaced in r² up to the cutoff, as LAMMPS looks them up."""
    return np.sqrt(np.linspace(PAIR_INNER_A**2, cutoff_A**2, PAIR_POINTS))


def section(keyword: str, header: str, x: np.ndarray, curve: Curve, per_x: float = 1.0) -> str:
    """One table as text; per_x converts the curve's forces to the table's unit of x."""
    rows = zip(x.tolist(), curve.energy.tolist(), (curve.force * per_x).tolist(), strict=True)
    lines = [f"{i} {a:.12g} {e:.16g} {f:.16g}" for i, (a, e, f) in enumerate(rows, start=1)]
    return "\n".join([keyword, header, "", *lines, "", ""])
