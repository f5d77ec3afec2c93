"""Samples of known densities, exactly, and their histograms on the bins of `marginals`."""

import numpy as np

from cgrefine.fm.priors import marginals


def sampled(log_density, low, high, n, seed):
    """n independent samples of a density on (low, high), by inversion on a grid of 20000 points."""
    x = np.linspace(low, high, 20001)
    p = np.exp(log_density(x))
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]))])
    return np.interp(np.random.default_rng(seed).random(n) * cumulative[-1], cumulative, x)


def edges(kind):
    """Bin edges of a kind, (bins + 1,)."""
    return getattr(marginals.empty(), kind).edges


def counts(values, kind, n_rows=1, row=0):
    """Histogram of values in one of n_rows rows, (rows, bins)."""
    found = np.zeros((n_rows, len(edges(kind)) - 1))
    found[row] = np.histogram(values, edges(kind))[0]
    return found
