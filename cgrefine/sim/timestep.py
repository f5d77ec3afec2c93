"""A time step from the fastest vibration of a model: what bonds and masses give, and what the forces say.

Every explicit integrator here is unstable from h ω = 2 on (h is the period over π). The fraction of the
period that is taken, and why, is at `PERIOD_FRACTION`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cgrefine import units

PERIOD_FRACTION = 1.0 / 16.0
"""Time step over the shortest period: h ω = 0.39. A harmonic bond then has a kinetic temperature low by
(hω)²/4 = 4 % at full steps and an exact length distribution (BAOAB); the anharmonic ones of the priors, and
the hotter ones of a replica at its worst, keep a factor of five to the limit of stability."""

STEP_FS = 0.5
"""Time steps are rounded down to a multiple of this, fs."""


class Stiffest(NamedTuple):
    """The fastest bond vibration. bond: its index; curvature kcal/mol/Å²; masses of its beads, g/mol."""

    period_fs: float
    bond: int
    curvature: float
    masses: tuple[float, float]


def stiffest_bond(curvature: np.ndarray, bonds: np.ndarray, mass: np.ndarray) -> Stiffest:
    """The shortest period of bonds (b, 2) with curvature (b,) kcal/mol/Å² between masses (n,) g/mol.

    That of a straight chain: with B the incidence of bonds and beads, ω² are the eigenvalues of
    K^½ B M⁻¹ Bᵀ K^½. Bonds at an angle couple less, so this is a lower bound. The bond is the one that has
    the largest share of the mode. Bonds of no or negative curvature do not vibrate. Raises ValueError when
    none does.
    """
    k = np.maximum(np.asarray(curvature, float), 0.0)
    inverse = 1.0 / np.asarray(mass, float)
    if not (k > 0).any():
        raise ValueError("no bond has a positive curvature: there is no period to take a time step from")
    incidence = np.zeros((len(bonds), len(inverse)))
    rows = np.arange(len(bonds))
    incidence[rows, bonds[:, 0]], incidence[rows, bonds[:, 1]] = -1.0, 1.0
    stretch = np.sqrt(k)[:, None] * incidence * np.sqrt(inverse)
    values, modes = np.linalg.eigh(stretch @ stretch.T)
    bond = int(np.argmax(modes[:, -1] ** 2))
    i, j = bonds[bond]
    period = units.to_fs(2.0 * math.pi / math.sqrt(values[-1]))
    return Stiffest(period, bond, float(k[bond]), (float(mass[i]), float(mass[j])))


def timestep_fs(period_fs: float) -> float:
    """PERIOD_FRACTION of the period, rounded down to STEP_FS. Raises ValueError when that leaves nothing."""
    steps = math.floor(PERIOD_FRACTION * period_fs / STEP_FS + 1e-9)
    if steps == 0:
        raise ValueError(
            f"the fastest vibration has a period of {period_fs:.3g} fs: 1/{1 / PERIOD_FRACTION:g} of it is "
            f"below the smallest time step of {STEP_FS} fs"
        )
    return steps * STEP_FS


def bond_curvatures(
    forces: Callable[[np.ndarray], np.ndarray], positions: np.ndarray, bonds: np.ndarray, step_A: float = 0.01
) -> np.ndarray:
    """d²U/dr² along each bond (b,), kcal/mol/Å², of any energy, at positions (n, 3), by central differences.

    forces(x (c, n, 3)) -> (c, n, 3) of c copies. Both beads move by half along the bond, in opposite
    directions, and the difference of their forces along it is -2 dU/dr. What else the model does to the
    two beads is in it: a network adds its stiffness, and the neighbouring bonds a part of theirs.
    """
    x = np.asarray(positions, np.float64)
    along = x[bonds[:, 1]] - x[bonds[:, 0]]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    rows = np.arange(len(bonds))
    shift = np.zeros((len(bonds), *x.shape))
    shift[rows, bonds[:, 0]], shift[rows, bonds[:, 1]] = -0.5 * along, 0.5 * along
    pulls = []
    for sign in (1.0, -1.0):
        f = np.asarray(forces(x + sign * step_A * shift), np.float64)
        pulls.append(0.5 * ((f[rows, bonds[:, 1]] - f[rows, bonds[:, 0]]) * along).sum(1))
    return (pulls[1] - pulls[0]) / (2.0 * step_A)
