"""Spline tables of the prior terms, in the forms that LAMMPS reads, made from the terms' own functions.

Everything is evaluated in float64. LAMMPS takes F = -dE/dx per Å (bond, pair) and per *degree* (angle,
dihedral); its dihedral has the sign of `geometry.dihedrals`. Each grid is the one that LAMMPS makes for
itself from the number of points, so its cubic spline passes through the values written here; files leave
out those that LAMMPS fills in by a spline of its own.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from cgrefine.energy import BondedTerm, PairTerm
from cgrefine.export.program import cast_params

BOND_RANGE_A = (0.1, 20.1)
"""A bond outside its table stops LAMMPS: the range is wider than any chain that lives."""
BOND_POINTS = 4001
BOND_LOOKUP = 32001
"""Points that LAMMPS makes of a bond table: those of near pairs are steep at contact and end at cutoffs."""
ANGLE_POINTS = (7201, 28801, 57601, 230401)
DIHEDRAL_POINTS = (1440, 14400, 57600, 230400)
"""Choices, from which the terms take the first that is fine enough, see `angular_curves`."""
FIRST_TRY = 64
"""Of how many points one is written where the curves are smoothest."""
SPLINE_TOLERANCE = 1.0e-8
PAIR_INNER_A = 0.1
CONTACT_A, AROUND_CUTOFF_A = 7.0, 0.1
AT_CONTACT, ELSEWHERE = 4, 16
"""Tables of near pairs have every point of their grid this near to a cutoff, every fourth one in the range of
contacts, and every sixteenth one beyond."""


class Curve(NamedTuple):
    """energy and force = -dE/dx of one table on its grid: (points,) float64, kcal/mol and per unit of x.

    end_slopes: dF/dx at the first and last point, from within: a pair term ends at its cutoff.
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
        ends = np.array([x[0], np.nextafter(x[-1], x[0])])
        rows = [evaluate(x, ends, label) for label in labels]
        return [Curve(np.asarray(e), np.asarray(f), (float(s[0]), float(s[1]))) for e, f, s in rows]


def bond_grid() -> np.ndarray:
    """Distances of the bond tables, Å."""
    return np.linspace(*BOND_RANGE_A, BOND_POINTS)


def angle_grid(points: int) -> np.ndarray:
    """Angles of the angle tables, 0 to 180 degrees with both ends."""
    return np.linspace(0.0, 180.0, points)


def dihedral_grid(points: int) -> np.ndarray:
    """Torsions of the dihedral tables, degrees from -180 without the end point."""
    return -180.0 + np.arange(points) * 360.0 / points


def angular_curves(
    terms: Sequence[BondedTerm], params: Any, kind: Literal["angle", "dihedral"], codes: Sequence[int]
) -> tuple[Float[np.ndarray, " points"], list[Curve]]:
    """A grid in degrees, and on it a curve for each code, as `bonded_curves` gives it.

    The grid is the smallest whose cubic splines give the force of each curve to SPLINE_TOLERANCE,
    kcal/mol/rad; the largest there is, if none does. A form that is smooth needs few points. Third
    derivatives jump at the knots of splines and at the edges of walls: there the error, spread over some ten
    points on both sides, falls with the square of the spacing.
    """
    choices, grid, period = {
        "angle": (ANGLE_POINTS, angle_grid, 0),
        "dihedral": (DIHEDRAL_POINTS, dihedral_grid, 1),
    }[kind]
    degrees = grid(choices[-1])
    x = np.deg2rad(degrees)
    curves = bonded_curves(terms, params, x, codes)
    # The grid of each choice is part of that of the last one.
    steps = [(len(x) - 1 + period) // (points - 1 + period) for points in choices[:-1]]

    def enough(every: int) -> bool:
        return all(_spline_error(x, c.force, every, bool(period)) < SPLINE_TOLERANCE for c in curves)

    every = next((step for step in steps if enough(step)), 1)
    return degrees[::every], [Curve(c.energy[::every], c.force[::every], c.end_slopes) for c in curves]


def _spline_error(x: np.ndarray, force: np.ndarray, every: int, periodic: bool) -> float:
    """Largest error of the spline through every so many points, at all points."""
    chosen = np.arange(0, len(x), every)
    ends = None if periodic else "not-a-knot"
    return float(_errors(x, force, chosen, ends).max())


def _errors(x: np.ndarray, values: np.ndarray, chosen: np.ndarray, ends: Any) -> np.ndarray:
    """Error at all points of the spline through the chosen ones; ends: its condition there, None if it is
    periodic (rad)."""
    nodes, at_nodes = x[chosen], values[chosen]
    if ends is None:
        nodes, at_nodes = np.append(nodes, nodes[0] + 2.0 * np.pi), np.append(at_nodes, at_nodes[0])
    spline = CubicSpline(nodes, at_nodes, bc_type="periodic" if ends is None else ends)
    return np.abs(spline(x) - values)


def points_written(
    x: Float[np.ndarray, " points"], curves: Sequence[Curve], kind: Literal["angle", "dihedral"]
) -> np.ndarray:
    """Indices of the points from which a cubic spline gives energy and force of all curves at all others to
    SPLINE_TOLERANCE (kcal/mol, kcal/mol/rad): many at knots, few where the curves are smooth.

    x: the whole grid in rad. The spline is the one of LAMMPS: periodic for a dihedral, and with the slopes at
    both ends for an angle.
    """
    last = len(x) - 1
    chosen = np.unique(np.append(np.arange(0, len(x), FIRST_TRY), last))
    while True:
        wrong = np.zeros(len(x), bool)
        for energy, force, slopes in curves:
            of_energy, of_force = (
                (None, None)
                if kind == "dihedral"
                else (((1, -force[0]), (1, -force[-1])), ((1, slopes[0]), (1, slopes[1])))
            )
            wrong |= _errors(x, energy, chosen, of_energy) > SPLINE_TOLERANCE
            wrong |= _errors(x, force, chosen, of_force) > SPLINE_TOLERANCE
        if not wrong.any():
            return chosen
        # A point between nodes k and k+1 is mended by halving that interval and those beside it.
        interval = np.searchsorted(chosen, np.flatnonzero(wrong), side="right") - 1
        near = np.unique(np.concatenate([interval - 1, interval, interval + 1]))
        ends = np.append(chosen, last + 1)
        near = near[(near >= 0) & (near < len(chosen))]
        chosen = np.union1d(chosen, (ends[near] + ends[near + 1]) // 2)


def near_grid(longest_A: float, cutoffs_A: Sequence[float]) -> np.ndarray:
    """Distances of the tables of near pairs, Å: a part of the grid that LAMMPS makes from 0.1 Å to longest_A,
    dense at contact and where a term ends; LAMMPS fills in the others by a cubic spline."""
    r = np.linspace(BOND_RANGE_A[0], longest_A, BOND_LOOKUP)
    index = np.arange(BOND_LOOKUP)
    kept = (
        (index % ELSEWHERE == 0) | (index == BOND_LOOKUP - 1) | ((r < CONTACT_A) & (index % AT_CONTACT == 0))
    )
    for cutoff_A in cutoffs_A:
        kept |= np.abs(r - cutoff_A) < AROUND_CUTOFF_A
    return r[kept]


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
