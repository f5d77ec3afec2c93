"""The two operations of every inversion: a penalised Poisson fit of histograms, and shrinkage along classes.

A marginal p(x) with Jacobian J(x) is inverted as U(x) = -kT ln[p(x)/J(x)]. For an energy that is linear in
its parameters this is the fit of counts_b ~ Poisson(J_b exp(-u(x_b))), u = U/kT: the variance of ln p is
1/counts, so that every bin has the weight of what it holds, and empty bins count as what they are.
"""

from collections.abc import Sequence

import numpy as np

from cgrefine.fm.priors.classes import SCHEMES, Kind, Scheme, labels, parents
from cgrefine.fm.priors.marginals import row_sums

MAX_STEPS = 200


def penalised_poisson(
    counts: np.ndarray,
    measure: np.ndarray,
    design: np.ndarray,
    penalty: np.ndarray,
    used: np.ndarray | None = None,
) -> np.ndarray:
    """c (n, p) that minimises Σ_b [μ_b - counts_b ln μ_b] + ½ cᵀ P c, μ_b = measure_b exp(-(design c)_b).

    counts (n, bins): n histograms, each fitted on its own, none without counts. measure (n, bins) or
    (bins,). design (bins, p) must span the constant, which takes up the number of observations. used
    (n, p) bool: the other parameters stay zero. The function is convex: damped Newton, all rows at a
    time, until half the Newton decrement is below 1e-6 nats (or rounding), where convergence is quadratic.
    Raises RuntimeError after MAX_STEPS steps.
    """
    measure = np.broadcast_to(measure, counts.shape)
    used = np.ones((len(counts), design.shape[1]), bool) if used is None else used
    constant = np.linalg.lstsq(design, np.ones(len(design)), rcond=None)[0]
    start = -np.log(counts.sum(axis=1) / measure.sum(axis=1))
    c = np.where(used, start[:, None] * constant, 0.0)
    value = _objective(c, counts, measure, design, penalty)
    active = np.arange(len(counts))
    for _ in range(MAX_STEPS):
        n, m = counts[active], measure[active]
        step, slope = _newton(c[active], n, m, design, penalty, used[active])
        rounding = 1e-13 * (np.abs(value[active]) + _penalty_terms(c[active], penalty))
        settled = -0.5 * slope < 1e-6 + rounding
        c[active[settled]] += step[settled]
        going = ~settled
        active = active[going]
        step, slope, rounding = step[going], slope[going], rounding[going]
        if not len(active):
            return c
        target = value[active] + rounding
        size = _step_size(c[active], target, step, slope, counts[active], measure[active], design, penalty)
        c[active] += size[:, None] * step
        value[active] = _objective(c[active], counts[active], measure[active], design, penalty)
    left = ", ".join(f"{counts[row].sum():g}" for row in active[:5])
    raise RuntimeError(f"Poisson fit of {left} counts did not converge in {MAX_STEPS} Newton steps")


def log_likelihood(c: np.ndarray, counts: np.ndarray, measure: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Σ_b counts_b ln p_b of each row, p the normalised measure exp(-design c): (n,) nats."""
    exponent = -c @ design.T
    total = np.log((measure * np.exp(exponent)).sum(axis=1))
    return (counts * (np.log(measure) + exponent)).sum(axis=1) - counts.sum(axis=1) * total


def _objective(c, counts, measure, design, penalty) -> np.ndarray:
    exponent = -c @ design.T
    with np.errstate(over="ignore"):
        mu = measure * np.exp(exponent)
    return (mu - counts * exponent).sum(axis=1) + 0.5 * ((c @ penalty) * c).sum(axis=1)


def _newton(c, counts, measure, design, penalty, used) -> tuple[np.ndarray, np.ndarray]:
    """Newton step (n, p) and the slope of the objective along it (n,), negative."""
    p = design.shape[1]
    mu = measure * np.exp(-c @ design.T)
    gradient = ((counts - mu) @ design + c @ penalty) * used
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), p * p)
    hessian = (mu @ products).reshape(-1, p, p) + penalty
    hessian *= used[:, :, None] & used[:, None, :]
    # empty regions with no penalty leave the Hessian singular: the ridge keeps the step finite
    ridge = 1e-10 * np.trace(hessian, axis1=1, axis2=2)[:, None] + ~used
    hessian += ridge[:, :, None] * np.eye(p)
    step = -np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
    return step, (gradient * step).sum(axis=1)


def _penalty_terms(c, penalty) -> np.ndarray:
    """Size of what cancels in cᵀ P c, (n,)."""
    return ((np.abs(c) @ np.abs(penalty)) * np.abs(c)).sum(axis=1)


def _step_size(c, value, step, slope, counts, measure, design, penalty) -> np.ndarray:
    """Largest of 1, ½, ¼, … of each row that takes the objective below value (n,) (Armijo, 1e-4)."""
    size = np.ones(len(c))
    for _ in range(40):
        tried = _objective(c + size[:, None] * step, counts, measure, design, penalty)
        too_far = ~(tried <= value + 1e-4 * size * slope)
        if not too_far.any():
            break
        size[too_far] *= 0.5
    return size


def schemes_down_to(scheme: Scheme) -> tuple[Scheme, ...]:
    """The schemes from global to this one."""
    return SCHEMES[: SCHEMES.index(scheme) + 1]


def by_level(values: np.ndarray, kind: Kind, scheme: Scheme) -> list[np.ndarray]:
    """values (rows of scheme, ...) and their sums in every coarser scheme, from global to scheme itself."""
    found = [values]
    for own in reversed(schemes_down_to(scheme)[1:]):
        coarser = SCHEMES[SCHEMES.index(own) - 1]
        found.insert(0, row_sums(found[0], parents(kind, own), len(labels(kind, coarser))))
    return found


def shrunk(
    levels: Sequence[np.ndarray], observations: Sequence[np.ndarray], kind: Kind, scheme: Scheme, n0: float
) -> np.ndarray:
    """Estimates (rows of scheme, q), each row drawn to its parent: w own + (1 - w) parent, w = n/(n + n0).

    levels: own estimates of each scheme from global on, the parent itself being drawn to its parent first;
    the rows of `global` stand as they are. A row whose estimate is not finite, or without observations,
    is its parent.
    """
    current = levels[0]
    for own_scheme, own, n in zip(schemes_down_to(scheme)[1:], levels[1:], observations[1:], strict=True):
        above = current[parents(kind, own_scheme)]
        usable = np.isfinite(own).all(axis=1) & (n > 0)
        weight = np.where(usable, n / np.where(usable, n + n0, 1.0), 0.0)[:, None]
        current = weight * np.where(usable[:, None], own, 0.0) + (1.0 - weight) * above
    return current
