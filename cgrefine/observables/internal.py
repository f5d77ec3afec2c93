"""Distributions of bond lengths, angles and dihedrals; the same geometry as the energy terms."""

import jax.numpy as jnp
import numpy as np

from cgrefine import geometry
from cgrefine.observables.histogram import bins, mass
from cgrefine.observables.structure import Observable
from cgrefine.system import Topology

BOND_RANGE_A = (2.6, 5.0)


def bond_distribution(topology: Topology, width_A: float) -> Observable:
    """Histogram of all Cα-Cα bond lengths, Å, from 2.6 to 5.0 (cis-proline at 2.95 is inside)."""
    grid = bins(*BOND_RANGE_A, width_A)
    return Observable(
        "bond", "Å", (grid.size,), lambda x: mass(geometry.bond_lengths(x, topology.bonds), grid), grid
    )


def angle_distribution(topology: Topology, width_deg: float) -> Observable:
    """Histogram of all Cα angles in degrees, 0 to 180, without a Jacobian factor."""
    grid = bins(0.0, 180.0, width_deg)

    def per_frame(x):
        return mass(jnp.rad2deg(geometry.bond_angles(x, topology.angles)), grid)

    return Observable("angle", "°", (grid.size,), per_frame, grid)


def dihedral_distribution(topology: Topology, width_deg: float) -> Observable:
    """Histogram of all Cα dihedrals in degrees, -180 to 180, IUPAC sign; +180 falls into the first bin."""
    grid = bins(-180.0, 180.0, width_deg)

    def per_frame(x):
        degrees = jnp.rad2deg(geometry.dihedrals(x, topology.dihedrals))
        return mass(jnp.where(degrees >= 180.0, degrees - 360.0, degrees), grid)

    return Observable("dihedral", "°", (grid.size,), per_frame, grid)


def internal_distributions(
    topology: Topology, bond_A: float, angle_deg: float, dihedral_deg: float
) -> list[Observable]:
    """Those of the three that the chain is long enough for; the arguments are bin widths."""
    made = []
    if np.size(topology.bonds):
        made.append(bond_distribution(topology, bond_A))
    if np.size(topology.angles):
        made.append(angle_distribution(topology, angle_deg))
    if np.size(topology.dihedrals):
        made.append(dihedral_distribution(topology, dihedral_deg))
    return made
