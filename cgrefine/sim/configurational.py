"""Temperature of the configurations alone: what forces and curvature say of where the replicas have been."""

import math

import numpy as np

from cgrefine import units
from cgrefine.sim.audit import Estimate


def configurational_temperature(
    squared_forces: np.ndarray, laplacians: np.ndarray, replicas: np.ndarray
) -> Estimate:
    """kT = ⟨|∇U|²⟩ / ⟨∇²U⟩ over frames (f,), in K, with the jackknife error over their replicas (f,).

    It follows by parts from the Boltzmann distribution, so it is off where the sampling is (a time step too
    long, a start not forgotten) and where forces are not the gradient of one smooth energy: a kink has
    curvature that no derivative sees. Rugh, Phys. Rev. Lett. 78, 772 (1997); Butler et al., J. Chem. Phys.
    109, 6519 (1998). One replica alone has no error.
    """
    labels = np.unique(replicas)
    f2 = np.array([np.sum(squared_forces[replicas == r]) for r in labels])
    curvature = np.array([np.sum(laplacians[replicas == r]) for r in labels])
    value = f2.sum() / curvature.sum() / units.KB
    m = len(labels)
    if m < 2:
        return Estimate(float(value), math.nan)
    without = (f2.sum() - f2) / (curvature.sum() - curvature) / units.KB
    spread = math.sqrt((m - 1) / m * float(((without - without.mean()) ** 2).sum()))
    return Estimate(float(value), spread)
