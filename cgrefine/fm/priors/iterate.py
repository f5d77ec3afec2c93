"""Iterative Boltzmann inversion: prior-only simulations correct the bonded terms against double counting.

The marginals of a chain are not independent: what one term does to the coordinate of another is in the
reference marginal of both. One step is U ← U + kT ln(p_sim/p_ref) (Reith, Pütz & Müller-Plathe, J. Comput.
Chem. 24, 1624 (2003), eq. 7). It is made as the same fit of the same counts as the inversion, with the
Jacobian J replaced by the effective one that the simulation shows,

    m(x) = p_sim(x) exp(u(x)) ∝ J(x) p_sim(x)/p_u(x),    p_u = J exp(-u)/Z, u = U/kT of the simulation:

-ln(p_ref/m) is u + ln(p_sim/p_ref). Smoothing, count weights, shrinkage and number of harmonics stay those
of the inversion; when the simulation gives p_u nothing changes.
"""

from dataclasses import replace

import numpy as np

from cgrefine.config.priors import Priors
from cgrefine.errors import InputError
from cgrefine.fm.priors import diagnostics, marginals
from cgrefine.fm.priors.classes import KINDS, Kind
from cgrefine.fm.priors.fit import (
    FittedPriors,
    bonded_counts,
    bonded_params,
    estimators_of,
    quantities,
    require_estimates,
    schemes_of,
    with_agreement,
)
from cgrefine.fm.priors.inversion import by_level
from cgrefine.fm.priors.marginals import Marginals
from cgrefine.units import thermal_energy

PSEUDO_COUNTS = 20.0
"""Added to the simulated and to the expected counts of each bin (of `diagnostics.COARSE` fine ones): where
the simulation has much fewer, the plain Jacobian stands."""


def corrected(fitted: FittedPriors, simulated: Marginals, cfg: Priors) -> FittedPriors:
    """The priors after one step, from the marginals of a simulation of `fitted` alone at its temperature.

    Bonds, angles and dihedrals change; pair terms, walls and errors stay. diagnostics["rounds"] counts the
    steps. Raises InputError when a bonded term has an energy weight: the steps would take it back.
    """
    _require_no_weights(cfg)
    kT = thermal_energy(fitted.temperature_K)
    low, high = np.radians(fitted.diagnostics["angle_range_deg"])
    harmonics = fitted.diagnostics["harmonics"]
    chosen = harmonics and {scheme: np.asarray(rows, int) for scheme, rows in harmonics.items()}
    estimators = estimators_of(cfg, float(low), float(high), chosen)
    factors: dict[Kind, list[np.ndarray]] = {kind: coupling(fitted, simulated, kind, cfg) for kind in KINDS}
    q = quantities(estimators, bonded_counts(fitted.marginals, cfg), cfg, factors)
    require_estimates(q, cfg)
    report = {**fitted.diagnostics, "rounds": fitted.diagnostics["rounds"] + 1}
    params = {**fitted.params, **bonded_params(estimators, q, kT)}
    return with_agreement(replace(fitted, params=params, diagnostics=report))


def coupling(fitted: FittedPriors, simulated: Marginals, kind: Kind, cfg: Priors) -> list[np.ndarray]:
    """p_sim/p_u of a kind in every fine bin, (rows, bins) for each scheme from global to that of the term.

    Both are counts: those of the simulation, and those expected of as many observations in each row if the
    row's term were alone. Coarser rows add up both.
    """
    scheme, factor = schemes_of(cfg)[kind], diagnostics.COARSE[kind]
    seen = marginals.grouped(getattr(simulated, kind), kind, scheme)
    term = diagnostics.bonded_terms(fitted.facts)[kind]
    kT = thermal_energy(fitted.temperature_K)
    alone = diagnostics.implied(term, fitted.params[kind], kT, seen.edges)
    expected = seen._replace(counts=seen.counts.sum(axis=1, keepdims=True) * alone)
    found, due = (marginals.coarser(h, factor).counts for h in (seen, expected))
    return [
        np.repeat((n + PSEUDO_COUNTS) / (e + PSEUDO_COUNTS), factor, axis=1)
        for n, e in zip(by_level(found, kind, scheme), by_level(due, kind, scheme), strict=True)
    ]


def _require_no_weights(cfg: Priors) -> None:
    for kind in KINDS:
        if (weight := getattr(cfg.weights, kind)) != 1.0:
            raise InputError(
                f"priors.weights.{kind} = {weight:g}: iterative inversion would take the weight back; set "
                "priors.iterate.rounds to 0, or the weight to 1"
            )
