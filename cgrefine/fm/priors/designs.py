"""What the energies of `forms` are linear in: one column a parameter, one row a place."""

import jax.numpy as jnp
import numpy as np

from cgrefine.fm.priors import forms


def spline_design(theta: np.ndarray, low: float, high: float, n_knots: int) -> np.ndarray:
    """Values of the B-splines of `forms.spline` at angles within [low, high], (angles, knots)."""
    place = (theta - low) * (n_knots - 3) / (high - low)
    return _splines(place, np.clip(np.floor(place), 0, n_knots - 4), n_knots)


def periodic_design(phi: np.ndarray, n_knots: int) -> np.ndarray:
    """Values of the B-splines of `forms.periodic_spline` at torsions, (torsions, knots)."""
    place = (phi + np.pi) * n_knots / (2.0 * np.pi)
    return _splines(place, np.floor(place), n_knots)


def _splines(place: np.ndarray, interval: np.ndarray, n_knots: int) -> np.ndarray:
    weights = np.asarray(forms.spline_basis(jnp.asarray(place - interval)), np.float64)
    design = np.zeros((len(place), n_knots))
    columns = (interval.astype(int)[:, None] + np.arange(4)) % n_knots
    np.put_along_axis(design, columns, weights, axis=1)
    return design


def cosine_powers(theta: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """cosᵐ θ, m = 0 … degree, and their second derivatives in θ, (angles, degree + 1) each."""
    c, s, m = np.cos(theta)[:, None], np.sin(theta)[:, None], np.arange(degree + 1)
    first = m * c ** np.maximum(m - 1, 0)
    second = m * (m - 1) * c ** np.maximum(m - 2, 0)
    return c**m, second * s**2 - first * c


def waves(x: np.ndarray, harmonics: int) -> tuple[np.ndarray, np.ndarray]:
    """1, cos nx, sin nx, n = 1 … harmonics, and their second derivatives, (points, 1 + 2 harmonics) each."""
    order = np.arange(1, harmonics + 1)
    both = np.concatenate([np.cos(x[:, None] * order), np.sin(x[:, None] * order)], axis=1)
    constant = np.ones((len(x), 1))
    return (
        np.concatenate([constant, both], axis=1),
        np.concatenate([0.0 * constant, -np.tile(order**2.0, 2) * both], axis=1),
    )
