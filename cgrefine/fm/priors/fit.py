"""Boltzmann inversion at one temperature: prior parameters from histograms of the training frames.

Each marginal is inverted with its Jacobian, U(x) = -kT ln[p(x)/J(x)], J = r² for a bond, sin θ for an
angle, 1 for a dihedral (`estimators`). A row with n observations is drawn towards the coarser row that it
is part of, with the weight n/(n + n0), n0 = `shrinkage_frames` (`inversion.shrunk`). Observations are
counted as they come; they are correlated in time, so that n0 must be thought of in the same units.
Temperatures are never pooled: -kT ln p is a free energy at one T.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cgrefine.config.priors import Priors, Walls
from cgrefine.data.store import Dataset
from cgrefine.errors import InputError
from cgrefine.fm.priors import bootstrap, diagnostics, marginals
from cgrefine.fm.priors.bootstrap import TEMPERATURE_TOLERANCE_K, Counts, Training
from cgrefine.fm.priors.bootstrap import training_frames as training_frames
from cgrefine.fm.priors.classes import KINDS, Kind, Scheme, labels
from cgrefine.fm.priors.estimators import (
    TRANS_MIN_A,
    Estimator,
    angle_estimator,
    bond_estimator,
    chosen_harmonics,
    dihedral_estimator,
    inverted,
    with_harmonics,
)
from cgrefine.fm.priors.facts import Params, facts_of, weighted
from cgrefine.fm.priors.inversion import schemes_down_to
from cgrefine.fm.priors.marginals import Histogram, Marginals
from cgrefine.fm.priors.pairs import pair_params
from cgrefine.units import thermal_energy

Harmonics = dict[Scheme, np.ndarray]
"""Number of dihedral harmonics of each row of each scheme."""

BONDED: tuple[Kind, ...] = KINDS
"""Kinds of the bonded terms, which are their names too."""


@dataclass(frozen=True)
class FittedPriors:
    """facts and params as `terms.prior_terms` reads them; marginals: the counts that were inverted.

    diagnostics: JSON-able; frames, runs, rounds (steps of `iterate`), temperature_K, cis_bond_fraction,
    angle_range_deg, observations and agreement of each row with data (see `diagnostics.agreement`),
    harmonics (of each row of each scheme, when chosen), weights, bootstrap.
    errors: standard errors of params by bootstrap of runs, the same tree; bands: for each bonded term
    (x, standard error of each row's energy (rows, points) in kcal/mol, with its mean over the row's data
    taken off). Both None without bootstrap.
    """

    facts: dict[str, Any]
    params: Params
    diagnostics: dict[str, Any]
    marginals: Marginals
    errors: Params | None = None
    bands: dict[str, tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def temperature_K(self) -> float:
        """The one temperature of the inversion, K."""
        return self.diagnostics["temperature_K"]


def fit_priors(dataset: Dataset, cfg: Priors) -> FittedPriors:
    """Priors from the training frames of a data set at `cfg.temperature_K` (None: the lowest there is).

    Raises InputError when there are no such frames, or when they hold nothing to invert.
    """
    temperature_K = inversion_temperature(dataset, cfg.temperature_K)
    kT = thermal_energy(temperature_K)
    training = bootstrap.training_counts(
        dataset, temperature_K, cfg.repulsion.min_separation, schemes_of(cfg)
    )
    counts = training.marginals
    low, high = angle_range(counts.angle, cfg.angle.walls)
    chosen = harmonics(training, cfg)
    estimators = estimators_of(cfg, low, high, chosen)
    q = quantities(estimators, bonded_counts(counts, cfg), cfg)
    require_estimates(q, cfg)
    params = {**bonded_params(estimators, q, kT), **pair_params(counts.distance, cfg)}
    facts = facts_of(cfg, low, high)
    report = {
        **_report(training, cfg),
        "temperature_K": temperature_K,
        "rounds": 0,
        "angle_range_deg": [float(np.degrees(low)), float(np.degrees(high))],
        "harmonics": chosen and {scheme: rows.tolist() for scheme, rows in chosen.items()},
    }
    errors, bands, used = None, None, 0
    if cfg.bootstrap and training.n_blocks > 1:
        samples = _resampled(estimators, training, cfg)
        used = len(samples)
        if used > 1:
            errors = weighted(facts, _errors(estimators, params, samples, training, kT), cfg.weights)[1]
            bands = _bands(estimators, samples, training, cfg, kT)
    report["bootstrap"] = {
        "resamples": cfg.bootstrap,
        "used": used,
        "blocks": training.n_blocks,
        "unit": training.unit,
    }
    facts, params = weighted(facts, params, cfg.weights)
    return with_agreement(FittedPriors(facts, params, report, counts, errors, bands))


def inversion_temperature(dataset: Dataset, wanted_K: float | None) -> float:
    """The temperature to invert at, K: the wanted one, or the lowest of the training frames.

    Raises InputError, naming the temperatures there are, when none is within half a kelvin.
    """
    found = sorted(
        {round(float(t), 2) for d in dataset.domains for t in np.unique(d.temperature_K[~d.validation])}
    )
    if not found:
        raise InputError("priors: the data set has no training frames, all are validation")
    if wanted_K is None:
        return found[0]
    nearest = min(found, key=lambda t: abs(t - wanted_K))
    if abs(nearest - wanted_K) > TEMPERATURE_TOLERANCE_K:
        known = ", ".join(f"{t:g}" for t in found)
        raise InputError(
            f"priors.temperature_K = {wanted_K:g}: training frames are at {known} K; choose one of these"
        )
    return nearest


def training_marginals(dataset: Dataset, temperature_K: float, min_separation: int) -> tuple[Marginals, int]:
    """Histograms of the training frames at one temperature, and the number of these frames."""
    everything: dict[Kind, Scheme] = dict.fromkeys(KINDS, "global")
    training = bootstrap.training_counts(dataset, temperature_K, min_separation, everything)
    return training.marginals, training.n_frames


def angle_range(angle: Histogram, walls: Walls) -> tuple[float, float]:
    """Where the walls begin, rad: p0.1 % to p99.9 % of the data, within the limits of the walls."""
    if angle.counts.sum() == 0:
        raise InputError("priors: no domain has an angle (three bonded residues) to invert")
    low = max(marginals.quantile(angle.pooled, angle.edges, 0.001), np.radians(walls.angle_low_deg))
    high = min(marginals.quantile(angle.pooled, angle.edges, 0.999), np.radians(walls.angle_high_deg))
    if high - low < np.radians(5.0):
        raise InputError(
            f"priors.angle.walls: angles of the data lie outside {walls.angle_low_deg:g} to "
            f"{walls.angle_high_deg:g} degrees, or span less than 5: there is nothing to invert"
        )
    return float(low), float(high)


def schemes_of(cfg: Priors) -> dict[Kind, Scheme]:
    """The classes of each bonded term."""
    return {"bond": cfg.bond.classes, "angle": cfg.angle.classes, "dihedral": cfg.dihedral.classes}


def bonded_counts(counts: Marginals, cfg: Priors) -> Counts:
    """Counts (rows, bins) of the bonded kinds in the rows of their schemes."""
    return {
        kind: marginals.grouped(getattr(counts, kind), kind, scheme).counts
        for kind, scheme in schemes_of(cfg).items()
    }


def harmonics(training: Training, cfg: Priors) -> Harmonics | None:
    """The number of harmonics of each row of each scheme by AIC; None when it is not to be chosen."""
    wanted = cfg.dihedral
    if wanted.form == "spline" or wanted.choice == "fixed":
        return None
    full = dihedral_estimator(wanted, training.marginals.dihedral.edges)
    spread = bootstrap.dispersion(training.blocks["dihedral"], "dihedral", wanted.classes, full.design[:, 1:])
    chosen = chosen_harmonics(full, training.blocks["dihedral"].sum(axis=0), spread)
    return dict(zip(schemes_down_to(wanted.classes), chosen, strict=True))


def estimators_of(cfg: Priors, low: float, high: float, chosen: Harmonics | None) -> dict[Kind, Estimator]:
    """The estimator of each bonded term, for the bins of `marginals`; low, high: the angle range, rad."""
    edges = {kind: getattr(marginals.empty(), kind).edges for kind in BONDED}
    dihedral = cfg.dihedral
    if chosen is not None:
        largest = max(int(rows.max()) for rows in chosen.values())
        dihedral = dihedral.model_copy(update={"harmonics": largest})
    torsion = dihedral_estimator(dihedral, edges["dihedral"])
    return {
        "bond": bond_estimator(cfg.bond, edges["bond"], cfg.shrinkage_frames),
        "angle": angle_estimator(cfg.angle, edges["angle"], low, high),
        "dihedral": torsion if chosen is None else with_harmonics(torsion, tuple(chosen.values())),
    }


def quantities(
    estimators: dict[Kind, Estimator],
    counts: Counts,
    cfg: Priors,
    coupling: dict[Kind, list[np.ndarray]] | None = None,
) -> dict[Kind, np.ndarray]:
    """q of each bonded term from counts (rows, bins) by kind, see `estimators.inverted`."""
    return {
        kind: inverted(
            estimator, counts[kind], cfg.shrinkage_frames, None if coupling is None else coupling[kind]
        )
        for kind, estimator in estimators.items()
    }


def bonded_params(estimators: dict[Kind, Estimator], q: dict[Kind, np.ndarray], kT: float) -> Params:
    """Parameters of the bonded terms."""
    return {kind: estimator.params(q[kind], kT) for kind, estimator in estimators.items()}


def with_agreement(fitted: FittedPriors) -> FittedPriors:
    """With diagnostics["agreement"] of its facts, parameters and marginals."""
    kT = thermal_energy(fitted.temperature_K)
    found = diagnostics.agreement(fitted.facts, fitted.params, fitted.marginals, kT)
    return replace(fitted, diagnostics={**fitted.diagnostics, "agreement": found})


def require_estimates(q: dict[Kind, np.ndarray], cfg: Priors) -> None:
    """Raises InputError when bonds or angles gave no estimate."""
    if not np.isfinite(q["bond"]).all():
        raise InputError("priors: the training frames hold no trans bond to invert")
    if not np.isfinite(q["angle"]).all():
        raise InputError(
            f"priors.angle.form = {cfg.angle.form}: all angles together have no minimum that a "
            "parabola fits; choose spline, polynomial or fourier"
        )


def _report(training: Training, cfg: Priors) -> dict[str, Any]:
    """What the priors were made from."""
    bond, own = training.marginals.bond, bonded_counts(training.marginals, cfg)
    short = bond.pooled[bond.centres < TRANS_MIN_A].sum() + bond.outside.sum()
    return {
        "frames": training.n_frames,
        "runs": training.n_runs,
        "cis_bond_fraction": float(short / max(bond.counts.sum() + bond.outside.sum(), 1.0)),
        "observations": {
            kind: {
                label: int(n)
                for label, n in zip(labels(kind, scheme), own[kind].sum(axis=1), strict=True)
                if n > 0
            }
            for kind, scheme in schemes_of(cfg).items()
        },
        "weights": cfg.weights.model_dump(),
    }


Sample = tuple[dict[Kind, np.ndarray], Params]
"""q of the bonded terms and parameters of the pair terms from one resample."""


def _resampled(estimators: dict[Kind, Estimator], training: Training, cfg: Priors) -> list[Sample]:
    """The fit of each resample of the blocks; resamples that lack a kind altogether are left out."""
    seen = {kind for kind, counts in training.blocks.items() if counts.sum() > 0}
    distance, samples = training.marginals.distance, []
    for counts in bootstrap.resampled(training.blocks, cfg.bootstrap, cfg.seed):
        if all(counts[kind].sum() > 0 for kind in seen):
            pairs = pair_params(distance._replace(counts=counts["distance"]), cfg)
            samples.append((quantities(estimators, counts, cfg), pairs))
    return samples


def _errors(
    estimators: dict[Kind, Estimator], best: Params, samples: list[Sample], training: Training, kT: float
) -> Params:
    """Standard errors of the parameters, the same tree."""
    found = [{**bonded_params(estimators, q, kT), **pairs} for q, pairs in samples]
    return {
        name: {
            key: bootstrap.standard_error(
                np.stack([params[name][key] for params in found]),
                leaf,
                training.n_blocks,
                2.0 * np.pi if key == "gamma" else None,
            )
            for key, leaf in group.items()
        }
        for name, group in best.items()
    }


def _bands(
    estimators: dict[Kind, Estimator], samples: list[Sample], training: Training, cfg: Priors, kT: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Standard errors of the energy curves, see `FittedPriors.bands`."""
    bands = {}
    for kind, estimator in estimators.items():
        shown = np.isin(getattr(training.marginals, kind).centres, estimator.x)
        # rows without data are the curves of their parents: all points count alike
        weight = training.blocks[kind].sum(axis=0)[:, shown] + 1e-9
        curves = np.stack([estimator.curve(q[kind], kT) for q, _ in samples])
        curves -= (curves * weight).sum(-1, keepdims=True) / weight.sum(-1, keepdims=True)
        spread = bootstrap.standard_error(curves, curves[0], training.n_blocks)
        bands[kind] = (estimator.x, getattr(cfg.weights, kind) * spread)
    return bands
