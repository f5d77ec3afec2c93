"""Distributions of bond lengths, angles and dihedrals, pooled or one for each; the geometry of the energy.

smear: see `histogram.mass`; with it the distributions are smooth functions of the positions.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cgrefine import geometry
from cgrefine.observables.histogram import Bins, bins, mass, mass_of_each
from cgrefine.observables.structure import Observable
from cgrefine.system import Topology

BOND_RANGE_A = (2.6, 5.0)


def bond_distribution(
    topology: Topology, width_A: float, each: bool = False, smear_A: float = 0.0
) -> Observable:
    """Histogram of Cα-Cα bond lengths, Å, from 2.6 to 5.0 (cis-proline at 2.95 is inside).

    each: (bonds, bins), one histogram a bond in the order of topology.bonds, instead of one of all.
    """
    grid = bins(*BOND_RANGE_A, width_A)

    def lengths(x):
        return geometry.bond_lengths(x, topology.bonds)

    return _distribution("bond", "Å", lengths, len(topology.bonds), grid, each, smear_A)


def angle_distribution(
    topology: Topology, width_deg: float, each: bool = False, smear_deg: float = 0.0
) -> Observable:
    """Histogram of Cα angles in degrees, 0 to 180, without a Jacobian factor. each: as of bonds."""
    grid = bins(0.0, 180.0, width_deg)

    def degrees(x):
        return jnp.rad2deg(geometry.bond_angles(x, topology.angles))

    return _distribution("angle", "°", degrees, len(topology.angles), grid, each, smear_deg)


def dihedral_distribution(
    topology: Topology, width_deg: float, each: bool = False, smear_deg: float = 0.0
) -> Observable:
    """Histogram of Cα dihedrals in degrees, -180 to 180, IUPAC sign; +180 falls into the first bin.

    The grid is periodic. each: as of bonds.
    """
    grid = bins(-180.0, 180.0, width_deg, periodic=True)

    def degrees(x):
        return jnp.rad2deg(geometry.dihedrals(x, topology.dihedrals))

    return _distribution("dihedral", "°", degrees, len(topology.dihedrals), grid, each, smear_deg)


def internal_distributions(
    topology: Topology, bond_A: float, angle_deg: float, dihedral_deg: float, each: bool = False
) -> list[Observable]:
    """Those of the three that the chain is long enough for; the numbers are bin widths."""
    made = []
    if np.size(topology.bonds):
        made.append(bond_distribution(topology, bond_A, each))
    if np.size(topology.angles):
        made.append(angle_distribution(topology, angle_deg, each))
    if np.size(topology.dihedrals):
        made.append(dihedral_distribution(topology, dihedral_deg, each))
    return made


def _distribution(
    name: str,
    unit: str,
    values: Callable[[Array], Array],
    count: int,
    grid: Bins,
    each: bool,
    smear: float,
) -> Observable:
    if each:
        shape = (count, grid.size)
        return Observable(
            f"{name} of each residue", unit, shape, lambda x: mass_of_each(values(x), grid, smear), grid
        )
    return Observable(name, unit, (grid.size,), lambda x: mass(values(x), grid, smear), grid)
