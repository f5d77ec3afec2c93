"""Parameters of the pair terms: sizes from close distances, charges from residue names."""

import numpy as np

from cgrefine import residues
from cgrefine.config.priors import Priors, Repulsion
from cgrefine.errors import InputError
from cgrefine.fm.priors import marginals
from cgrefine.fm.priors.marginals import Histogram

_CHARGES = {"ARG": 1.0, "LYS": 1.0, "ASP": -1.0, "GLU": -1.0}


def pair_params(distance: Histogram, cfg: Priors) -> dict[str, dict[str, np.ndarray]]:
    """Parameters of the pair terms that are asked for, by name."""
    size = residues.N_SPECIES
    params = {"repulsion": {"sigma": fit_sigma(distance, cfg.repulsion, cfg.shrinkage_frames)}}
    if cfg.excluded_volume is not None:
        params["excluded_volume"] = {"sigma": np.full((size, size), cfg.excluded_volume.sigma_A)}
    if cfg.electrostatics is not None:
        params["electrostatics"] = {"charge": charges(cfg.electrostatics.histidine_charge)}
    return params


def charges(histidine: float) -> np.ndarray:
    """Charge of each species at pH 7, (20,) elementary charges; that of histidine is given."""
    return np.array([{**_CHARGES, "HIS": histidine}.get(name, 0.0) for name in residues.RESIDUES])


def fit_sigma(distance: Histogram, cfg: Repulsion, n0: float) -> np.ndarray:
    """σ of each pair of species, (20, 20) Å: a low quantile of its contact distances, within the limits.

    It is where the energy is about ε, for the power (but for the shift) as for WCA. Only the observations
    below the quantile inform it: n = quantile times the contacts counted, so that a pair of species has
    its own σ only when n is no longer small against n0; the parent is the quantile of all pairs.
    """
    size = residues.N_SPECIES
    if distance.counts.sum() == 0:
        raise InputError(
            f"priors: no two residues at separation {cfg.min_separation} or more come within "
            f"{distance.edges[-1]:g} Å: there is nothing to take the size of a bead from"
        )
    common = marginals.quantile(distance.pooled, distance.edges, cfg.quantile)
    sigma = np.full((size, size), common)
    for a, b in zip(*np.triu_indices(size), strict=True):
        counts = distance.counts[size * a + b]
        n = cfg.quantile * counts.sum()
        if n > 0:
            own = marginals.quantile(counts, distance.edges, cfg.quantile)
            sigma[a, b] = sigma[b, a] = (n * own + n0 * common) / (n + n0)
    return np.clip(sigma, cfg.sigma_min_A, cfg.sigma_max_A)
