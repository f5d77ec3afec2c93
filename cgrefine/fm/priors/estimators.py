"""How the parameters of each bonded form are estimated from histograms: one estimator a form.

An estimator works on quantities q that shrinkage may average: mean and variance of a harmonic coordinate;
otherwise the coefficients of the energy in units of kT (so that densities are averaged geometrically).

    bond      harmonic: mean and variance of p(r)/r², exact for a Gaussian
    angle     harmonic: maximum likelihood with the Jacobian sin θ
              spline, polynomial in cos θ, Fourier: penalised Poisson fit with sin θ, between the walls
    dihedral  Fourier, Σ k (1 + cos(nφ - γ)), periodic spline: penalised Poisson fit; no Jacobian

The switch of damped dihedrals is left out: it is 1 as long as both angles are below `damping_from_deg`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from cgrefine.config.priors import AnglePrior, BondPrior, DihedralPrior
from cgrefine.fm.priors.classes import Kind, Scheme
from cgrefine.fm.priors.designs import cosine_powers, periodic_design, spline_design, waves
from cgrefine.fm.priors.inversion import by_level, log_likelihood, penalised_poisson, shrunk

TRANS_MIN_A = 3.4
"""Bonds shorter than this are cis peptide bonds (2.95 Å), the others trans (3.80 Å)."""

_RANK = 1e-5
"""Directions of a design with a singular value below this fraction of the largest one are left out: Fourier
coefficients of some thousand kT that cancel on a part of the circle are of no use in float32."""


@runtime_checkable
class Estimator(Protocol):
    """One bonded form, for histograms of fixed bins.

    observations: counts (n, bins) → (n,) those that are used. own: q (n, q) of histograms fitted each on
    its own, one a row of the level-th scheme; NaN where there is nothing to fit; coupling (n, bins)
    multiplies the Jacobian. params: as the form reads them, of q (rows, q). curve: energies (rows, points)
    in kcal/mol at `x` (points,), up to a constant.
    """

    @property
    def kind(self) -> Kind: ...
    @property
    def scheme(self) -> Scheme: ...
    @property
    def x(self) -> np.ndarray: ...
    def observations(self, counts: np.ndarray) -> np.ndarray: ...
    def own(self, counts: np.ndarray, coupling: np.ndarray, level: int) -> np.ndarray: ...
    def params(self, q: np.ndarray, kT: float) -> dict[str, np.ndarray]: ...
    def curve(self, q: np.ndarray, kT: float) -> np.ndarray: ...


def inverted(
    estimator: Estimator, counts: np.ndarray, n0: float, coupling: list[np.ndarray] | None = None
) -> np.ndarray:
    """q (rows, q) of counts (rows, bins) in the scheme of the estimator, shrunk type → class → global.

    coupling: for each scheme from global on (rows, bins), see `iterate`; None: 1.
    """
    levels = by_level(counts, estimator.kind, estimator.scheme)
    factors = [np.ones_like(c) for c in levels] if coupling is None else coupling
    own = [estimator.own(c, m, level) for level, (c, m) in enumerate(zip(levels, factors, strict=True))]
    n = [estimator.observations(c) for c in levels]
    return shrunk(own, n, estimator.kind, estimator.scheme, n0)


@dataclass(frozen=True, eq=False)
class HarmonicBond:
    """½ k (r - x0)²; q = mean, variance of p(r)/r²: Gaussian with mean x0 and variance kT/k, exactly.

    The variance of binned data is corrected by width²/12 (Sheppard). The last row are the bonds that are
    cis in the reference, fitted where r < TRANS_MIN_A; the others where r >= TRANS_MIN_A. Of all cis bonds
    together, n observations are drawn towards (cis_r0_A, variance of the trans bonds) as n/(n + n0).
    """

    scheme: Scheme
    edges: np.ndarray
    cis_r0_A: float
    n0: float
    kind: Kind = "bond"

    @property
    def centres(self) -> np.ndarray:
        """(bins,) Å."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    @property
    def x(self) -> np.ndarray:
        """Points of the curve, Å."""
        return self.centres[(self.centres > 2.6) & (self.centres < 4.3)]

    def window(self, n_rows: int) -> np.ndarray:
        """Which bins each row uses, (rows, bins) bool."""
        trans = np.broadcast_to(self.centres >= TRANS_MIN_A, (n_rows, len(self.centres)))
        return trans ^ (np.arange(n_rows) == n_rows - 1)[:, None]

    def observations(self, counts: np.ndarray) -> np.ndarray:
        """Bonds within the window of their row."""
        return (counts * self.window(len(counts))).sum(axis=1)

    def own(self, counts: np.ndarray, coupling: np.ndarray, level: int) -> np.ndarray:
        """(mean, variance) of each row, NaN with fewer than two bonds."""
        r, width = self.centres, self.edges[1] - self.edges[0]
        weights = counts * self.window(len(counts)) / (r**2 * coupling)
        usable = self.observations(counts) >= 2
        total = np.where(usable, weights.sum(axis=1), np.nan)
        mean = weights @ r / total
        variance = (weights * (r - mean[:, None]) ** 2).sum(axis=1) / total - width**2 / 12.0
        q = np.stack([mean, np.maximum(variance, width**2 / 12.0)], axis=1)
        if level == 0:
            n = float(self.observations(counts)[-1])
            weight = n / (n + self.n0) if usable[-1] else 0.0
            expected = np.array([self.cis_r0_A, q[0, 1]])
            q[-1] = weight * np.nan_to_num(q[-1]) + (1.0 - weight) * expected
        return q

    def params(self, q: np.ndarray, kT: float) -> dict[str, np.ndarray]:
        """k kcal/mol/Å² (½k form), x0 Å."""
        return {"k": kT / q[:, 1], "x0": q[:, 0]}

    def curve(self, q: np.ndarray, kT: float) -> np.ndarray:
        """(rows, points) kcal/mol."""
        return 0.5 * kT * (self.x - q[:, :1]) ** 2 / q[:, 1:]


@dataclass(frozen=True, eq=False)
class Linear:
    """An energy Σ_m q_m g_m(x) kT, fitted by `penalised_poisson` in the bins `inside`.

    design (points, p): g_m at x, the constant among their sums. basis (p, fitted): q = basis c, c what is
    fitted: a basis in which the columns are orthonormal where the g_m themselves nearly depend on each
    other. penalty (p, p) of q. used: for each scheme from global on (rows, p) bool, or None for all.
    to_params: parameters of q and kT. to_q: what is shrunk in place of q (harmonic angles).
    """

    kind: Kind
    scheme: Scheme
    inside: np.ndarray
    x: np.ndarray
    jacobian: np.ndarray
    design: np.ndarray
    basis: np.ndarray
    penalty: np.ndarray
    to_params: Callable[[np.ndarray, float], dict[str, np.ndarray]]
    used: tuple[np.ndarray, ...] | None = None

    def observations(self, counts: np.ndarray) -> np.ndarray:
        """Counts in the bins that are fitted."""
        return counts[:, self.inside].sum(axis=1)

    def own(self, counts: np.ndarray, coupling: np.ndarray, level: int) -> np.ndarray:
        """q of each row; NaN without observations, where the global row is zero (a free coordinate)."""
        q = np.full((len(counts), self.design.shape[1]), np.nan)
        some = self.observations(counts) > 0
        if some.any():
            q[some] = self.fitted(
                counts[some][:, self.inside],
                self.jacobian * coupling[some][:, self.inside],
                None if self.used is None else self.used[level][some],
            )
        return np.nan_to_num(q) if level == 0 else q

    def fitted(self, counts: np.ndarray, measure: np.ndarray, used: np.ndarray | None) -> np.ndarray:
        """q (n, p) of counts (n, fitted bins), each with some."""
        penalty = self.basis.T @ self.penalty @ self.basis
        return penalised_poisson(counts, measure, self.design @ self.basis, penalty, used) @ self.basis.T

    def params(self, q: np.ndarray, kT: float) -> dict[str, np.ndarray]:
        """As the form reads them."""
        return self.to_params(q, kT)

    def curve(self, q: np.ndarray, kT: float) -> np.ndarray:
        """(rows, points) kcal/mol."""
        return kT * q @ self.design.T


@dataclass(frozen=True, eq=False)
class HarmonicAngle:
    """½ k (θ - x0)², q = x0 and kT/k: maximum likelihood of sin θ exp(-½ (θ - x0)²/q₂) over all angles."""

    scheme: Scheme
    quadratic: Linear
    kind: Kind = "angle"

    @property
    def x(self) -> np.ndarray:
        """Points of the curve, rad."""
        return self.quadratic.x

    def observations(self, counts: np.ndarray) -> np.ndarray:
        """All angles."""
        return counts.sum(axis=1)

    def own(self, counts: np.ndarray, coupling: np.ndarray, level: int) -> np.ndarray:
        """(x0, kT/k) of each row, NaN where no minimum is within the data's range."""
        c = self.quadratic.own(counts, coupling, level)
        with np.errstate(divide="ignore", invalid="ignore"):
            q = np.stack([-0.5 * c[:, 1] / c[:, 2], 0.5 / c[:, 2]], axis=1)
        return np.where((c[:, 2:] > 0.0) & (q[:, :1] > 0.0) & (q[:, :1] < np.pi), q, np.nan)

    def params(self, q: np.ndarray, kT: float) -> dict[str, np.ndarray]:
        """k kcal/mol/rad² (½k form), x0 rad."""
        return {"k": kT / q[:, 1], "x0": q[:, 0]}

    def curve(self, q: np.ndarray, kT: float) -> np.ndarray:
        """(rows, points) kcal/mol."""
        return 0.5 * kT * (self.x - q[:, :1]) ** 2 / q[:, 1:]


def bond_estimator(cfg: BondPrior, edges: np.ndarray, n0: float) -> HarmonicBond:
    """The estimator of the bonds."""
    return HarmonicBond(cfg.classes, edges, cfg.cis_r0_A, n0)


def angle_estimator(cfg: AnglePrior, edges: np.ndarray, low: float, high: float) -> Linear | HarmonicAngle:
    """The estimator of an angle form; all but harmonic are fitted in the bins from low to high (rad).

    Penalty of all: ½ smoothing h³ ∫ u''(θ)² dθ, h the distance of `knots` on the range; for the spline
    as ½ smoothing Σ (second difference of the coefficients)², which is the same (Eilers & Marx, Stat.
    Sci. 11, 89 (1996)). Maximum likelihood, without penalty, for harmonic.
    """
    theta = 0.5 * (edges[1:] + edges[:-1])
    if cfg.form == "harmonic":
        everywhere = np.ones(len(theta), bool)
        design = theta[:, None] ** np.arange(3)
        free = _linear("angle", cfg.classes, everywhere, theta, design, np.zeros((3, 3)), lambda q, kT: {})
        return HarmonicAngle(cfg.classes, free)
    inside = (theta > low) & (theta < high)
    x = theta[inside]
    if cfg.form == "spline":
        design = spline_design(x, low, high, cfg.knots)
        second = np.diff(np.eye(cfg.knots), 2, axis=0)
        penalty = cfg.smoothing * second.T @ second
        estimator = _linear("angle", cfg.classes, inside, x, design, penalty, _from_lowest(design))
        return replace(estimator, basis=np.eye(cfg.knots))
    if cfg.form == "polynomial":
        basis, curvature = cosine_powers(x, cfg.degree)
        to_params = _without_constant
    else:
        basis, curvature = waves(x, cfg.harmonics)
        to_params = _cos_and_sin(cfg.harmonics)
    h, width = (high - low) / (cfg.knots - 3), edges[1] - edges[0]
    penalty = cfg.smoothing * h**3 * width * curvature.T @ curvature
    return _linear("angle", cfg.classes, inside, x, basis, penalty, to_params)


def dihedral_estimator(cfg: DihedralPrior, edges: np.ndarray) -> Linear:
    """The estimator of a dihedral form.

    Penalty: ½ smoothing Σ n⁴ (a_n² + b_n²) of the Fourier coefficients in kT, the mean squared curvature up
    to a factor; of the spline ½ smoothing Σ (second difference)², around the circle.
    """
    phi = 0.5 * (edges[1:] + edges[:-1])
    everywhere = np.ones(len(phi), bool)
    if cfg.form == "spline":
        design = periodic_design(phi, cfg.knots)
        second = (
            np.roll(np.eye(cfg.knots), 1, 0) - 2.0 * np.eye(cfg.knots) + np.roll(np.eye(cfg.knots), -1, 0)
        )
        penalty, to_params = cfg.smoothing * second.T @ second, _from_lowest(design)
    else:
        order = np.arange(1, cfg.harmonics + 1)
        design, _ = waves(phi, cfg.harmonics)
        penalty = cfg.smoothing * np.diag(np.concatenate([[0.0], order**4.0, order**4.0]))
        fourier = _cos_and_sin(cfg.harmonics)
        to_params = fourier if cfg.form == "fourier" else (lambda q, kT: periodic(fourier(q, kT)))
    found = _linear("dihedral", cfg.classes, everywhere, phi, design, penalty, to_params)
    return replace(found, jacobian=np.ones(len(phi)), basis=np.eye(design.shape[1]))


def with_harmonics(estimator: Linear, chosen: tuple[np.ndarray, ...]) -> Linear:
    """A Fourier estimator in which each row of each scheme has only its first chosen (rows,) harmonics."""
    order = np.arange(1, (estimator.design.shape[1] - 1) // 2 + 1)
    used = tuple(
        np.concatenate([np.ones((len(h), 1), bool), *2 * [order <= h[:, None]]], axis=1) for h in chosen
    )
    return replace(estimator, used=used)


def chosen_harmonics(
    estimator: Linear, counts: np.ndarray, dispersion: list[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Number of harmonics of least QAIC = 2 · 2H - 2 ln L/g for each row of each scheme, (rows,) int.

    counts (rows, bins). dispersion: g >= 1 of each row of each scheme, the variance of means over that of
    independent observations (`bootstrap.dispersion`): frames of a run repeat each other, and with g = 1
    the largest number would nearly always win. Rows without counts have 1: they are their parent.
    Burnham & Anderson, Model selection and multimodel inference, 2nd ed. (2002), section 2.5.
    """
    largest = (estimator.design.shape[1] - 1) // 2
    found = []
    for level, (c, g) in enumerate(
        zip(by_level(counts, estimator.kind, estimator.scheme), dispersion, strict=True)
    ):
        some, best = np.flatnonzero(c.sum(axis=1) > 0), np.ones(len(c), int)
        if len(some):
            criterion = []
            for n in range(1, largest + 1):
                own = with_harmonics(estimator, (np.full(len(c), n),) * (level + 1))
                q = own.own(c, np.ones_like(c), level)[some]
                likelihood = log_likelihood(q, c[some], own.jacobian, own.design)
                criterion.append(4.0 * n - 2.0 * likelihood / g[some])
            best[some] = 1 + np.argmin(criterion, axis=0)
        found.append(best)
    return tuple(found)


def periodic(fourier: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """k, gamma of Σ k_n (1 + cos(nφ - γ_n)) from Fourier coefficients: exact, but for a constant."""
    cosines, sines = fourier["cos"], fourier["sin"]
    return {"k": np.hypot(cosines, sines), "gamma": np.arctan2(sines, cosines)}


def _linear(kind, scheme, inside, x, design, penalty, to_params) -> Linear:
    """With the Jacobian sin θ, and a basis of orthonormal columns."""
    _, size, rotation = np.linalg.svd(design, full_matrices=False)
    kept = size > _RANK * size[0]
    basis = rotation[kept].T / size[kept] * np.sqrt(len(design))
    return Linear(kind, scheme, inside, x, np.sin(x), design, basis, penalty, to_params)


def _from_lowest(design: np.ndarray) -> Callable[[np.ndarray, float], dict[str, np.ndarray]]:
    """Spline coefficients whose lowest energy at the points of the design is zero."""

    def to_params(q: np.ndarray, kT: float) -> dict[str, np.ndarray]:
        return {"coefficients": kT * (q - (q @ design.T).min(axis=1, keepdims=True))}

    return to_params


def _without_constant(q: np.ndarray, kT: float) -> dict[str, np.ndarray]:
    return {"coefficients": kT * q[:, 1:]}


def _cos_and_sin(harmonics: int) -> Callable[[np.ndarray, float], dict[str, np.ndarray]]:
    def to_params(q: np.ndarray, kT: float) -> dict[str, np.ndarray]:
        return {"cos": kT * q[:, 1 : 1 + harmonics], "sin": kT * q[:, 1 + harmonics :]}

    return to_params
