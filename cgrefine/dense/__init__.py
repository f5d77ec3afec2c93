"""Forces of many replicas of one chain, for MD with priors alone: no neighbour list, no edge, no gather.

Positions are components first, (3, replicas, beads): chain neighbours are slices, and pairs an (L, L)
matrix of each replica, whose sums over pairs are small matrix products,

    F_i = Σ_j s_ij (x_i - x_j) = x_i Σ_j s_ij - Σ_j s_ij x_j,      s = -U'(r)/r.

Bonded forces are read from tables of -dU/dx that `dense` makes in float64 from the terms' own functions,
linear in between: the gradient of a piecewise quadratic energy next to the term's own. Fourier series of
dihedrals are summed instead. The gradients of angles and dihedrals are written out. Up to some hundred
beads this is faster than lists of pairs.
"""

from cgrefine.dense.chain import Chain
from cgrefine.dense.forces import DenseForces, applies, dense, replicas_of
from cgrefine.dense.pairs import FastPair

__all__ = ["Chain", "DenseForces", "FastPair", "applies", "dense", "replicas_of"]
