"""Boltzmann inversion at one temperature: prior parameters from histograms of the training frames.

Each marginal is inverted with its Jacobian, U(x) = -kT ln[p(x)/J(x)], J = r² for a bond, sin θ for an
angle, 1 for a dihedral. A class with n observations is drawn towards the fit of all classes together:
its weight is n/(n + n0), n0 = `shrinkage_frames`. Observations are counted as they come; they are
correlated in time, so that n0 must be thought of in the same units.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from cgrefine import residues
from cgrefine.config.schema import Priors, Repulsion, Walls
from cgrefine.data.store import Dataset, Domain
from cgrefine.errors import InputError
from cgrefine.fm.priors import diagnostics, forms, marginals
from cgrefine.fm.priors.marginals import Histogram, Marginals
from cgrefine.fm.priors.terms import prior_facts
from cgrefine.units import thermal_energy

TRANS_MIN_A = 3.4
"""Bonds shorter than this are cis peptide bonds (2.95 Å); they are counted, not fitted."""

TEMPERATURE_TOLERANCE_K = 0.5
_CHUNK_FRAMES = 512


@dataclass(frozen=True)
class FittedPriors:
    """facts and params as `terms.prior_terms` reads them; marginals: the counts that were inverted.

    diagnostics: JSON-able; frames, temperature_K, cis fraction, observations, and the divergence of each
    class (see `diagnostics.agreement`).
    """

    facts: dict[str, Any]
    params: dict[str, dict[str, np.ndarray]]
    diagnostics: dict[str, Any]
    marginals: Marginals

    @property
    def temperature_K(self) -> float:
        """The one temperature of the inversion, K."""
        return self.diagnostics["temperature_K"]


def fit_priors(dataset: Dataset, cfg: Priors) -> FittedPriors:
    """Priors from the training frames of a data set at `cfg.temperature_K` (None: the lowest there is).

    Raises InputError when there are no such frames, or when they have no angle between the walls.
    """
    temperature_K = inversion_temperature(dataset, cfg.temperature_K)
    kT, n0 = thermal_energy(temperature_K), cfg.shrinkage_frames
    counts, n_frames = training_marginals(dataset, temperature_K, cfg.repulsion.min_separation)
    low, high = angle_range(counts.angle, cfg.walls)
    facts = prior_facts(
        angle_low=low,
        angle_high=high,
        wall_k=cfg.walls.angle_k,
        n_knots=cfg.angle_knots,
        n_harmonics=cfg.dihedral_harmonics,
        epsilon=cfg.repulsion.epsilon_kcal_mol,
        exponent=cfg.repulsion.exponent,
        cutoff_A=cfg.repulsion.cutoff_A,
        min_separation=cfg.repulsion.min_separation,
    )
    params = {
        "bond": fit_bonds(counts.bond, kT, n0),
        "angle": fit_angles(counts.angle, kT, n0, low, high, cfg.angle_knots, cfg.smoothing),
        "dihedral": fit_dihedrals(counts.dihedral, kT, n0, cfg.dihedral_harmonics, cfg.smoothing),
        "repulsion": {"sigma": fit_sigma(counts.distance, cfg.repulsion, n0)},
    }
    short = counts.bond.pooled[counts.bond.centres < TRANS_MIN_A].sum() + counts.bond.outside.sum()
    report = {
        "temperature_K": temperature_K,
        "frames": n_frames,
        "cis_bond_fraction": float(short / (counts.bond.counts.sum() + counts.bond.outside.sum())),
        "angle_range_deg": [float(np.degrees(low)), float(np.degrees(high))],
        "agreement": diagnostics.agreement(facts, params, counts, kT),
    }
    return FittedPriors(facts, params, report, counts)


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


def training_frames(domain: Domain, temperature_K: float) -> np.ndarray:
    """Indices of the training frames of a domain at one temperature (within half a kelvin)."""
    at_T = np.abs(domain.temperature_K - temperature_K) < TEMPERATURE_TOLERANCE_K
    return np.flatnonzero(at_T & ~domain.validation)


def training_marginals(dataset: Dataset, temperature_K: float, min_separation: int) -> tuple[Marginals, int]:
    """Histograms of the training frames at one temperature, and the number of these frames."""
    counts, n_frames = marginals.empty(), 0
    for domain in dataset.domains:
        chosen = training_frames(domain, temperature_K)
        n_frames += len(chosen)
        for start in range(0, len(chosen), _CHUNK_FRAMES):
            x = domain.positions[chosen[start : start + _CHUNK_FRAMES]]
            counts = marginals.counted(counts, domain.topology, x, min_separation)
    return counts, n_frames


def angle_range(angle: Histogram, walls: Walls) -> tuple[float, float]:
    """Where the spline ends and the walls begin, rad: p0.1 % to p99.9 % of the data, within the limits."""
    if angle.counts.sum() == 0:
        raise InputError("priors: no domain has an angle (three bonded residues) to invert")
    low = max(marginals.quantile(angle.pooled, angle.edges, 0.001), np.radians(walls.angle_low_deg))
    high = min(marginals.quantile(angle.pooled, angle.edges, 0.999), np.radians(walls.angle_high_deg))
    if high - low < np.radians(5.0):
        raise InputError(
            f"priors.walls: angles of the data lie outside {walls.angle_low_deg:g} to "
            f"{walls.angle_high_deg:g} degrees, or span less than 5: there is nothing to invert"
        )
    return float(low), float(high)


def shrunk(own: np.ndarray, common: np.ndarray, n: float, n0: float) -> np.ndarray:
    """w own + (1 - w) common with w = n/(n + n0): the common value without data, whatever `own` is."""
    weight = n / (n + n0) if n > 0 else 0.0
    return common if weight == 0.0 else np.asarray(weight * own + (1.0 - weight) * common)


def fit_bonds(bond: Histogram, kT: float, n0: float) -> dict[str, np.ndarray]:
    """k (kcal/mol/Å², ½k form) and r0 (Å) of each class from mean and variance of p(r)/r², trans only.

    p(r)/r² of a harmonic bond is a Gaussian of mean r0 and variance kT/k, exactly. The variance of binned
    data is corrected by width²/12 (Sheppard). Mean and variance are what is shrunk.
    """
    r, width = bond.centres, bond.edges[1] - bond.edges[0]
    trans = r >= TRANS_MIN_A

    def moments(counts: np.ndarray) -> np.ndarray:
        weights = counts[trans] / r[trans] ** 2
        mean = np.average(r[trans], weights=weights)
        variance = np.average((r[trans] - mean) ** 2, weights=weights) - width**2 / 12.0
        return np.array([mean, max(variance, width**2 / 12.0)])

    n_trans = bond.counts[:, trans].sum(axis=1)
    if n_trans.sum() < 2:
        raise InputError("priors: the training frames hold no trans bond to invert")
    common = moments(bond.pooled)
    rows = [
        shrunk(moments(counts), common, float(n), n0) if n > 1 else common
        for counts, n in zip(bond.counts, n_trans, strict=True)
    ]
    mean, variance = np.array(rows).T
    return {"k": kT / variance, "r0": mean}


def fit_angles(
    angle: Histogram, kT: float, n0: float, low: float, high: float, n_knots: int, smoothing: float
) -> dict[str, np.ndarray]:
    """Spline coefficients (classes, knots), kcal/mol: penalised Poisson likelihood of the counts.

    counts_b ~ Poisson(sin θ_b exp(-u(θ_b))), u = U/kT, in the bins between the walls, with the penalty
    ½ smoothing Σ (second difference of the coefficients)² (Eilers & Marx, Stat. Sci. 11, 89 (1996)).
    The lowest point of each energy within the range is zero.
    """
    inside = (angle.centres > low) & (angle.centres < high)
    theta = angle.centres[inside]
    design = spline_design(theta, low, high, n_knots)
    second = np.diff(np.eye(n_knots), 2, axis=0)
    penalty = smoothing * second.T @ second

    def energy(counts: np.ndarray) -> np.ndarray:
        u = kT * penalised_poisson(counts[inside], np.sin(theta), design, penalty)
        return u - (design @ u).min()

    n = angle.counts[:, inside].sum(axis=1)
    common = energy(angle.pooled)
    rows = [
        shrunk(energy(counts), common, float(m), n0) if m > 0 else common
        for counts, m in zip(angle.counts, n, strict=True)
    ]
    lowest = [(design @ row).min() for row in rows]
    return {"coefficients": np.array(rows) - np.array(lowest)[:, None]}


def fit_dihedrals(
    dihedral: Histogram, kT: float, n0: float, n_harmonics: int, smoothing: float
) -> dict[str, np.ndarray]:
    """Fourier coefficients cos, sin (classes, harmonics), kcal/mol: penalised Poisson likelihood.

    The penalty is ½ smoothing Σ n⁴ (a_n² + b_n²) in units of kT, the mean squared curvature (up to a
    factor), as for the angles. Without any dihedral in the data all coefficients are zero.
    """
    n_classes = len(dihedral.counts)
    if dihedral.counts.sum() == 0:
        zero = np.zeros((n_classes, n_harmonics))
        return {"cos": zero, "sin": zero.copy()}
    phi, order = dihedral.centres, np.arange(1, n_harmonics + 1)
    waves = phi[:, None] * order
    design = np.concatenate([np.ones((len(phi), 1)), np.cos(waves), np.sin(waves)], axis=1)
    penalty = smoothing * np.diag(np.concatenate([[0.0], order**4.0, order**4.0]))

    def energy(counts: np.ndarray) -> np.ndarray:
        return kT * penalised_poisson(counts, np.ones(len(phi)), design, penalty)[1:]

    n = dihedral.counts.sum(axis=1)
    common = energy(dihedral.pooled)
    rows = np.array(
        [
            shrunk(energy(counts), common, float(m), n0) if m > 0 else common
            for counts, m in zip(dihedral.counts, n, strict=True)
        ]
    )
    return {"cos": rows[:, :n_harmonics], "sin": rows[:, n_harmonics:]}


def fit_sigma(distance: Histogram, cfg: Repulsion, n0: float) -> np.ndarray:
    """σ of each pair of species, (20, 20) Å: a low quantile of its contact distances, within the limits.

    Only the observations below the quantile inform it: n = quantile times the contacts counted, so that
    a pair of species has its own σ only when n is no longer small against n0.
    """
    size = residues.N_SPECIES
    if distance.counts.sum() == 0:
        raise InputError(
            f"priors: no two residues at separation {cfg.min_separation} or more come within "
            f"{distance.edges[-1]:g} Å: there is nothing to take the size of a bead from"
        )
    common = np.array(marginals.quantile(distance.pooled, distance.edges, cfg.quantile))
    sigma = np.full((size, size), float(common))
    for a, b in zip(*np.triu_indices(size), strict=True):
        counts = distance.counts[size * a + b]
        n = cfg.quantile * counts.sum()
        if n > 0:
            own = np.array(marginals.quantile(counts, distance.edges, cfg.quantile))
            sigma[a, b] = sigma[b, a] = shrunk(own, common, float(n), n0)
    return np.clip(sigma, cfg.sigma_min_A, cfg.sigma_max_A)


def spline_design(theta: np.ndarray, low: float, high: float, n_knots: int) -> np.ndarray:
    """Values of the B-splines of `forms.walled_spline` at angles within [low, high], (angles, knots)."""
    place = (theta - low) * (n_knots - 3) / (high - low)
    interval = np.clip(np.floor(place), 0, n_knots - 4)
    weights = np.asarray(forms.spline_basis(jnp.asarray(place - interval)), dtype=np.float64)
    design = np.zeros((len(theta), n_knots))
    columns = interval.astype(int)[:, None] + np.arange(4)
    np.put_along_axis(design, columns, weights, axis=1)
    return design


def penalised_poisson(
    counts: np.ndarray, measure: np.ndarray, design: np.ndarray, penalty: np.ndarray
) -> np.ndarray:
    """c that minimises Σ_b [μ_b - counts_b ln μ_b] + ½ cᵀ P c, μ_b = measure_b exp(-(design c)_b).

    design (bins, c) must span the constant, which takes up the number of observations. The function is
    convex: damped Newton. Raises RuntimeError when 200 steps do not bring the decrease below
    1e-10 of the value (the convergence is quadratic: c is then much closer than that).
    """

    def objective(c: np.ndarray) -> float:
        exponent = -design @ c
        with np.errstate(over="ignore"):
            mu = measure * np.exp(exponent)
        return float(np.sum(mu - counts * exponent) + 0.5 * c @ penalty @ c)

    start = -np.log(counts.sum() / measure.sum())
    c = np.linalg.lstsq(design, np.full(len(counts), start), rcond=None)[0]
    value = objective(c)
    for _ in range(200):
        mu = measure * np.exp(-design @ c)
        gradient = design.T @ (counts - mu) + penalty @ c
        hessian = design.T @ (mu[:, None] * design) + penalty
        # empty regions with no penalty leave the Hessian singular: the ridge keeps the step finite
        hessian += 1e-10 * np.trace(hessian) * np.eye(len(c))
        step = -np.linalg.solve(hessian, gradient)
        size, tried = 1.0, objective(c + step)
        while not tried <= value + 1e-4 * size * float(gradient @ step) and size > 1e-8:
            size *= 0.5
            tried = objective(c + size * step)
        if value - tried <= 1e-10 * (1.0 + abs(value)):
            return c if tried >= value else c + size * step
        c, value = c + size * step, tried
    raise RuntimeError(f"Poisson fit of {counts.sum():g} counts did not converge in 200 Newton steps")
