"""What networks are made of, in numpy and bead by bead: the other side of tests of their equations."""

import numpy as np

from cgrefine.fm.models.layers import SILU_GAIN
from tests.chains import random_chain, random_topology

N, CUTOFF = 7, 9.0
TOPOLOGY, X = random_topology(N, seed=2), random_chain(N, seed=4)


def silu(x):
    return SILU_GAIN * x / (1.0 + np.exp(-x))


class Weights:
    """Linear layers and MLPs by name."""

    def __init__(self, params):
        self.params = params

    def linear(self, name, x):
        entry = self.params[name]
        return x @ entry["w"] + entry.get("b", 0.0)

    def mlp(self, name, x):
        return self.linear(f"{name}_1", silu(self.linear(f"{name}_0", x)))


def radial(r):
    """Bessel functions n = 1..5 and the polynomial envelope of exponent 6."""
    basis = np.sin(np.arange(1, 6) * np.pi * r / CUTOFF) * CUTOFF / (np.sqrt(2.0) * r)
    y = r / CUTOFF
    return basis, 1.0 - 28.0 * y**6 + 48.0 * y**7 - 21.0 * y**8


def near(i):
    """(j, distance, unit vector from i) of all neighbours of i."""
    for j in range(N):
        d = X[j] - X[i]
        r = np.linalg.norm(d)
        if j != i and r < CUTOFF:
            yield j, r, d / r
