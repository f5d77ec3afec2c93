"""Units and constants. Inside: Å, kcal/mol, g/mol, rad; the time unit follows from them.

A number that a person writes carries its unit in its name and is converted once, at the edge.
"""

import math

KCAL_PER_MOL_IN_SI = 4184.0  # J/mol, thermochemical calorie (exact)
GAS_CONSTANT_SI = 8.31446261815324  # J/mol/K, CODATA 2018 (exact)

KB = GAS_CONSTANT_SI / KCAL_PER_MOL_IN_SI
"""Boltzmann constant, kcal/mol/K."""

ELEMENTARY_CHARGE_SI = 1.602176634e-19  # C, CODATA 2018 (exact)
AVOGADRO = 6.02214076e23  # 1/mol, CODATA 2018 (exact)
VACUUM_PERMITTIVITY_SI = 8.8541878128e-12  # F/m, CODATA 2018

COULOMB = (
    ELEMENTARY_CHARGE_SI**2 * AVOGADRO * 1e10 / (4.0 * math.pi * VACUUM_PERMITTIVITY_SI * KCAL_PER_MOL_IN_SI)
)
"""e²/(4π ε₀), kcal Å/mol for elementary charges: 332.0637. LAMMPS `units real` has the same."""

FS_PER_TIME_UNIT = math.sqrt(1e-3 * 1e-20 / KCAL_PER_MOL_IN_SI) * 1e15
"""One internal time unit, sqrt(g/mol Å² / (kcal/mol)), in fs: 48.888."""

RESIDUE_MASS = 110.0
"""Mean mass of an amino-acid residue, g/mol."""


def thermal_energy(temperature_K: float) -> float:
    """kT in kcal/mol."""
    return KB * temperature_K


def from_fs(time_fs: float) -> float:
    """Time in internal units."""
    return time_fs / FS_PER_TIME_UNIT


def to_fs(time: float) -> float:
    """Internal time in fs."""
    return time * FS_PER_TIME_UNIT


def from_per_ps(rate_per_ps: float) -> float:
    """A rate (friction) in 1/ps as internal 1/time."""
    return rate_per_ps * FS_PER_TIME_UNIT / 1000.0
