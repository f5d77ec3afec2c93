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
"""A bond outside its table stops LAMMPS: the range is wider than any chain that lives."""
BOND_POINTS = 4001
ANGLE_POINTS = 7201
DIHEDRAL_POINTS = 1440
PAIR_INNER_A = 0.1
FINE_A = 8.0
COARSER = 8
"""Tables of near pairs have every eighth point of their grid beyond this distance, where they are smooth."""


class Curve(NamedTuple):
    """energy and force = -dE/dx of one table on its grid: (points,) float64, kcal/mol and per unit of x.

    end_slopes: dF/dx at the first and last point, for pair tables.
    """

    energy: np.ndarray
    force: np.ndarray
    end_slopes: tuple[float, float]


def bonded_curves(
    terms: Sequence[BondedTerm], params: Any, x: Float[np.ndarray, " points"], codes: Iterable[int]
) -> list[Curve]:
    """One curve for each type code: the sum of the given terms (of one kind) at x, Å or rad, undamped."""

    def total(double, coordinate, code):
        codes = jnp.full(coordinate.shape, code, jnp.int32)
        return sum((t.scalar(double[t.name], coordinate, codes) for t in terms), jnp.zeros_like(coordinate))

    return _curves(total, params, x, [np.int32(code) for code in codes])


def pair_curves(
    terms: Sequence[PairTerm], params: Any, r: Float[np.ndarray, " points"], pairs: Iterable[tuple[int, int]]
) -> list[Curve]:
    """One curve for each pair of species: the sum of the given terms, each up to its cutoff, at r in Å."""

    def total(double, coordinate, pair):
        first, second = (jnp.full(coordinate.shape, pair[c], jnp.int32) for c in (0, 1))
        energy = jnp.zeros_like(coordinate)
        for term in terms:
            inside = jnp.where(coordinate < term.cutoff_A, coordinate, term.cutoff_A)
            shares = term.scalar(double[term.name], inside, first, second)
            energy += jnp.where(coordinate < term.cutoff_A, shares, 0.0)
        return energy

    return _curves(total, params, r, [np.asarray(pair, np.int32) for pair in pairs])


def distinct(curves: Sequence[Curve]) -> tuple[np.ndarray, list[Curve]]:
    """Which of the different curves each one is, and the different curves, in order of appearance."""
    seen: dict[bytes, int] = {}
    index = [seen.setdefault(c.energy.tobytes() + c.force.tobytes(), len(seen)) for c in curves]
    first = [index.index(i) for i in range(len(seen))]
    return np.asarray(index, np.int64), [curves[i] for i in first]


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


def near_grid(longest_A: float) -> np.ndarray:
    """Distances of the tables of near pairs, Å: those of LAMMPS' own grid from 0.1 Å to longest_A, every one
    up to FINE_A and every COARSER-th beyond; LAMMPS fills in the others by a cubic spline."""
    r = np.linspace(BOND_RANGE_A[0], longest_A, BOND_POINTS)
    index = np.arange(BOND_POINTS)
    return r[(r < FINE_A) | (index % COARSER == 0) | (index == BOND_POINTS - 1)]


def pair_points(cutoff_A: float) -> int:
    """Points of a pair table: LAMMPS looks them up in r², so that a long cutoff makes them sparse."""
    return 2000 if cutoff_A <= 10.0 else 4000


def pair_grid(cutoff_A: float) -> np.ndarray:
    """Distances of the pair tables, Å, equally spaced in r² up to the cutoff, as LAMMPS looks them up."""
    return np.sqrt(np.linspace(PAIR_INNER_A**2, cutoff_A**2, pair_points(cutoff_A)))


def section(keyword: str, header: str, x: np.ndarray, curve: Curve, per_x: float = 1.0) -> str:
    """One table as text; per_x converts the curve's forces to the table's unit of x."""
    rows = zip(x.tolist(), curve.energy.tolist(), (curve.force * per_x).tolist(), strict=True)
    lines = [f"{i} {a:.12g} {e:.16g} {f:.16g}" for i, (a, e, f) in enumerate(rows, start=1)]
    return "\n".join([keyword, header, "", *lines, "", ""])
