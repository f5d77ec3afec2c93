"""The scalar forms against hand values, finite differences, and their promises of smoothness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import BSpline

from cgrefine.fm.priors import forms

LOW, HIGH, WALL_K = 1.3, 2.7, 100.0
ROWS = np.random.default_rng(4).normal(size=(3, 11))
SIGMA, CUTOFF = 3.8, 6.5
KIND = jnp.asarray(1)


def spline(theta, rows=ROWS):
    return forms.walled_spline(theta, KIND, jnp.asarray(rows), LOW, HIGH, WALL_K)


def dihedral(phi):
    return forms.fourier(phi, jnp.array([0.3, -0.2, 0.7]), jnp.array([-0.5, 0.4, 0.1]))


def repulsion(r):
    return forms.shifted_repulsion(r, jnp.asarray(SIGMA, r.dtype), 1.5, 12, CUTOFF)


def bond(r):
    return forms.harmonic(r, jnp.asarray(160.0), jnp.asarray(3.8))


def values(form, points):
    """The form at each point."""
    return np.asarray(jax.jit(jax.vmap(form))(jnp.asarray(points)))


def slopes(form, points):
    """Derivative by autodiff at each point."""
    return np.asarray(jax.jit(jax.vmap(jax.grad(form)))(jnp.asarray(points)))


def one_sided(form, x, side, h=1e-5):
    """First derivative from one side, second order: an error of h² f'''/3."""
    f = np.asarray(values(form, x + side * h * np.arange(3)))
    return side * (-3 * f[0] + 4 * f[1] - f[2]) / (2 * h)


FORMS = {
    "bond": (bond, [2.9, 3.8, 4.4]),
    "spline": (spline, [0.2, 1.29, 1.31, 1.7, 2.1, 2.69, 2.71, 3.1]),
    "fourier": (dihedral, [-3.1, -1.0, 0.0, 0.9, 3.1]),
    "repulsion": (repulsion, [0.1, 1.0, 1.89, 1.91, 2.5, 3.8, 5.0, 6.4, 6.6, 9.0]),
}


@pytest.mark.parametrize("name", FORMS)
def test_derivative_is_the_finite_difference(name):
    """Central difference; 1e-6 of the derivative or of one kcal/mol per unit. No point is a junction."""
    form, points = FORMS[name]
    x = np.array(points)
    h = 1e-5 * np.maximum(np.abs(x), 0.1)
    numeric = (values(form, x + h) - values(form, x - h)) / (2 * h)
    assert slopes(form, x) == pytest.approx(numeric, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "junction"), [("spline", LOW), ("spline", HIGH), ("repulsion", SIGMA / 2), ("repulsion", CUTOFF)]
)
def test_slope_goes_on_through_a_junction(name, junction):
    """Slopes from both sides and that of autodiff at the very point agree."""
    form, _ = FORMS[name]
    left, right = one_sided(form, junction, -1), one_sided(form, junction, 1)
    assert left == pytest.approx(right, rel=1e-6, abs=1e-6)
    assert slopes(form, [junction])[0] == pytest.approx(right, rel=1e-6, abs=1e-6)


def test_harmonic_by_hand():
    assert float(bond(jnp.asarray(4.0))) == pytest.approx(3.2)  # ½ · 160 · 0.04


def test_spline_within_is_a_cubic_b_spline():
    """Against scipy, coefficients of uniform knots that begin three intervals below the range."""
    n = ROWS.shape[1]
    width = (HIGH - LOW) / (n - 3)
    reference = BSpline(LOW + width * np.arange(-3, n + 1), ROWS[1], 3)
    theta = np.linspace(LOW, HIGH, 101)
    assert np.allclose(spline(jnp.asarray(theta)), reference(theta), rtol=1e-12, atol=1e-12)


def test_spline_curvature_is_continuous_at_knots():
    knots = np.linspace(LOW, HIGH, ROWS.shape[1] - 2)[1:-1]
    left, right = (slopes(jax.grad(spline), knots + e) for e in (-1e-9, 1e-9))
    assert left == pytest.approx(right, abs=1e-4)  # third derivative ~1e3 times 2e-9, and rounding


@pytest.mark.parametrize(("edge", "side"), [(LOW, -1), (HIGH, 1)])
def test_wall_by_hand(edge, side):
    """Straight line from the edge plus ½ k d²; the coefficients i give S = place + 1, slope 1/width."""
    rows = np.tile(np.arange(11.0), (3, 1))
    width, d = (HIGH - LOW) / 8, 0.3
    at_edge = (edge - LOW) / width + 1.0
    expected = at_edge + side * d / width + 0.5 * WALL_K * d**2
    assert float(spline(jnp.asarray(edge + side * d), rows)) == pytest.approx(expected, rel=1e-12)


def test_walls_rise_on_both_sides():
    """20° beyond the range any spline of a few kcal/mol is uphill, steeply."""
    below, above = slopes(spline, [LOW - 0.35, HIGH + 0.35])
    assert below < -20.0 and above > 20.0


def test_fourier_by_hand():
    """φ = 90°: cos nφ = 0, -1, 0 and sin nφ = 1, 0, -1."""
    assert float(dihedral(jnp.asarray(np.pi / 2))) == pytest.approx(0.2 - 0.5 - 0.1, abs=1e-12)
    assert float(dihedral(jnp.asarray(np.pi))) == pytest.approx(float(dihedral(jnp.asarray(-np.pi))))


def test_repulsion_by_hand():
    """Shift and tilt of n = 12, σ = 3.8 at a cutoff of 6.5 Å: (3.8/6.5)¹² = 1.5932e-3."""
    edge = (3.8 / 6.5) ** 12
    assert edge == pytest.approx(1.5932e-3, rel=1e-3)
    for r, bare in ((3.0, 17.07), (3.5, 2.683), (3.8, 1.0), (4.5, 0.1314)):
        expected = 1.5 * ((3.8 / r) ** 12 - edge * (1.0 + 12.0 * (1.0 - r / 6.5)))
        assert float(repulsion(jnp.asarray(r))) == pytest.approx(expected, rel=1e-12)
        assert (3.8 / r) ** 12 == pytest.approx(bare, rel=1e-3)


def test_repulsion_ends_at_the_cutoff():
    r = [CUTOFF, CUTOFF + 1e-9, 7.0, 1e6]
    assert np.all(values(repulsion, r) == 0.0)
    assert np.all(slopes(repulsion, r) == 0.0)
    assert float(repulsion(jnp.asarray(CUTOFF - 1e-3))) == pytest.approx(0.0, abs=1e-6)


def test_repulsion_is_linear_in_the_core_and_finite_in_float32():
    """Slope below σ/2 is that at σ/2; no overflow down to contact, nor in the gradient to σ."""
    slope = slopes(repulsion, [0.0, 0.7, SIGMA / 2])
    assert np.allclose(slope, slope[2], rtol=1e-12)
    small = jnp.asarray(np.array([0.0, 1e-6, 0.3]), jnp.float32)
    assert np.all(np.isfinite(repulsion(small))) and repulsion(small).dtype == jnp.float32

    def of_sigma(sigma):
        return forms.shifted_repulsion(small, jnp.full(3, sigma), 1.5, 12, CUTOFF).sum()

    assert np.isfinite(float(jax.jit(jax.grad(of_sigma))(jnp.asarray(3.8, jnp.float32))))


def test_repulsion_always_pushes_apart():
    assert np.all(slopes(repulsion, np.linspace(0.0, CUTOFF - 1e-3, 500)) < 0.0)
