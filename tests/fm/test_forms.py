"""The scalar forms against hand values, finite differences, and their promises of smoothness."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from cgrefine import geometry, units
from cgrefine.fm.priors import forms
from tests.chains import chain_from_internal, ideal_helix

LOW, HIGH, WALL_K, RAMP = 1.3, 2.7, 100.0, 0.035
ROWS = np.random.default_rng(4).normal(size=(3, 11))
SERIES = np.array([[0.3, -0.2, 0.7], [-0.5, 0.4, 0.1]])
SIGMA, CUTOFF = 3.8, 6.5
LAMBDA, FAR = 8.0, 24.0
ROW = jnp.asarray(1)


def walled(form, x):
    return forms.walled(
        lambda at, row: form(at, row, jnp.asarray(ROWS, x.dtype)), x, ROW, 3, LOW, HIGH, WALL_K, RAMP
    )


def spline(theta):
    return walled(lambda at, row, c: forms.spline(at, row, c, LOW, HIGH), theta)


def polynomial(theta):
    return walled(lambda at, row, a: forms.cosine_polynomial(at, a[row, :5]), theta)


def angle_fourier(theta):
    return walled(lambda at, row, c: forms.fourier(at, c[row, :4], c[row, 4:8]), theta)


def dihedral(phi):
    return forms.fourier(phi, *jnp.asarray(SERIES, phi.dtype))


def periodic_sum(phi):
    return forms.periodic_sum(
        phi, jnp.asarray(SERIES[0], phi.dtype), jnp.asarray([0.4, -2.0, 3.0], phi.dtype)
    )


def periodic_spline(phi):
    return forms.periodic_spline(phi, ROW, jnp.asarray(ROWS, phi.dtype))


def repulsion(r):
    return forms.shifted_repulsion(r, jnp.asarray(SIGMA, r.dtype), 1.5, 12, CUTOFF)


def wca(r):
    return forms.wca(r, jnp.asarray(SIGMA, r.dtype), 1.5)


def charged(r):
    return forms.debye_huckel(r, jnp.asarray(-1.0, r.dtype), 78.5, LAMBDA, FAR)


def bond(r):
    return forms.harmonic(r, jnp.asarray(160.0, r.dtype), jnp.asarray(3.8, r.dtype))


@cache
def compiled(form):
    return jax.jit(jax.vmap(jax.value_and_grad(form)))


def values_and_slopes(form, points):
    """The form and its derivative by autodiff at each point; padded, so that a form is compiled once."""
    x = np.asarray(points)
    return (np.asarray(y)[: len(x)] for y in compiled(form)(np.pad(x, (0, 128 - len(x)), mode="edge")))


def values(form, points):
    """The form at each point."""
    return next(values_and_slopes(form, points))


def slopes(form, points):
    """Derivative by autodiff at each point."""
    return list(values_and_slopes(form, points))[1]


def one_sided(form, x, side, h=1e-5):
    """First derivative from one side, second order: an error of h² f'''/3."""
    f = np.asarray(values(form, x + side * h * np.arange(3)))
    return side * (-3 * f[0] + 4 * f[1] - f[2]) / (2 * h)


WALLED = [0.2, 1.29, 1.31, 1.7, 2.1, 2.69, 2.71, 3.1]
AROUND = [-3.1, -1.0, 0.0, 0.9, 3.1]
WCA_END = 2.0 ** (1.0 / 6.0) * SIGMA
FORMS = {
    "bond": (bond, [2.9, 3.8, 4.4]),
    "spline": (spline, WALLED),
    "polynomial": (polynomial, WALLED),
    "angle fourier": (angle_fourier, WALLED),
    "fourier": (dihedral, AROUND),
    "periodic sum": (periodic_sum, AROUND),
    "periodic spline": (periodic_spline, AROUND),
    "repulsion": (repulsion, [0.1, 1.0, 1.89, 1.91, 2.5, 3.8, 5.0, 6.4, 6.6, 9.0]),
    "wca": (wca, [0.1, 1.0, 1.89, 1.91, 2.5, 3.8, 4.2, 4.3, 9.0]),
    "debye_huckel": (charged, [0.1, 0.99, 1.01, 3.0, 8.0, 20.0, 23.9, 24.1, 50.0]),
}
SEAMS = [
    *((name, edge) for name in ("spline", "polynomial", "angle fourier") for edge in (LOW, HIGH)),
    ("repulsion", SIGMA / 2),
    ("repulsion", CUTOFF),
    ("wca", SIGMA / 2),
    ("wca", WCA_END),
    ("debye_huckel", forms.CHARGE_CORE_A),
    ("debye_huckel", FAR),
    ("periodic spline", -np.pi),
    ("periodic spline", np.pi),
]


@pytest.mark.parametrize("name", FORMS)
def test_derivative_is_the_finite_difference(name):
    """Central difference; 1e-6 of the derivative or of one kcal/mol per unit. No point is a junction."""
    form, points = FORMS[name]
    x = np.array(points)
    h = 1e-5 * np.maximum(np.abs(x), 0.1)
    numeric = (values(form, x + h) - values(form, x - h)) / (2 * h)
    assert slopes(form, x) == pytest.approx(numeric, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("name", "junction"), SEAMS)
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
    assert np.allclose(values(spline, theta), reference(theta), rtol=1e-12, atol=1e-12)


def test_spline_curvature_is_continuous_at_knots():
    knots = np.linspace(LOW, HIGH, ROWS.shape[1] - 2)[1:-1]
    left, right = (slopes(jax.grad(spline), knots + e) for e in (-1e-9, 1e-9))
    assert left == pytest.approx(right, abs=1e-4)  # third derivative ~1e3 times 2e-9, and rounding


@pytest.mark.parametrize(("edge", "side"), [(LOW, -1), (HIGH, 1)])
def test_wall_by_hand(edge, side):
    """A straight line from the edge, and a curvature that rises as s(t) = 3t² - 2t³ over the ramp: on it
    k r² (t⁴/4 - t⁵/10), beyond 3/20 k r² with the slope ½ k r. The coefficients i give S = place + 1, slope
    1/width."""
    rows = np.tile(np.arange(8.0), (3, 1))
    width, at_half, d = (HIGH - LOW) / 5, RAMP / 2, RAMP + 0.3
    at_edge = (edge - LOW) / width + 1.0
    on_ramp = WALL_K * RAMP**2 * (1 / 64 - 1 / 320)
    beyond = WALL_K * (0.15 * RAMP**2 + 0.5 * RAMP * 0.3 + 0.5 * 0.3**2)
    for distance, wall in ((at_half, on_ramp), (d, beyond)):
        value, _ = walled_at("spline")(jnp.full(3, edge + side * distance), jnp.asarray(rows))
        assert value == pytest.approx(at_edge + side * distance / width + wall, rel=1e-12)


@pytest.mark.parametrize(("curvature", "expected"), [(400.0, 400.0), (20.0, WALL_K), (-300.0, WALL_K)])
@pytest.mark.parametrize("edge", [LOW, HIGH])
def test_curvature_of_the_wall_is_that_of_the_form_or_the_floor(curvature, expected, edge):
    """A stiff form goes on as it is, a soft or a concave one gets the floor; the coordinate is any."""

    def parabola(x, row):
        del row
        return 0.5 * curvature * (x - 2.0) ** 2

    def extended(x):
        return forms.walled(parabola, x, ROW, 3, LOW, HIGH, WALL_K, RAMP)

    side = 1 if edge == HIGH else -1
    second = slopes(jax.grad(extended), [edge + 0.2 * side, edge - 0.2 * side])
    assert second == pytest.approx([expected, curvature], rel=1e-9)


@pytest.mark.parametrize("name", ["spline", "polynomial", "angle fourier"])
def test_walls_rise_on_both_sides(name):
    """Far enough out the slope points back, whatever it was at the edge, and ever more so."""
    form, _ = FORMS[name]
    outside = slopes(form, [LOW - 1.0, LOW - 0.5, HIGH + 0.5, HIGH + 1.0])
    assert outside[0] < outside[1] < -10.0 and outside[3] > outside[2] > 10.0
    assert (outside[1] - outside[0]) / 0.5 >= WALL_K * (1 - 1e-9)


@given(
    st.lists(st.floats(-20, 20), min_size=8, max_size=8),
    st.sampled_from([LOW, HIGH]),
    st.sampled_from(["spline", "polynomial", "fourier"]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_walled_forms_are_smooth_at_any_edge(row, edge, kind):
    """Any coefficients: autodiff slopes 1e-9 rad to both sides and at the edge agree to curvature × 1e-9."""
    rows = jnp.asarray(np.tile(row, (3, 1)))
    _, (left, at, right) = walled_at(kind)(jnp.asarray([edge - 1e-9, edge, edge + 1e-9]), rows)
    scale = 1.0 + np.abs(row).max()
    assert abs(left - right) < 1e-5 * scale and abs(at - right) < 1e-5 * scale


@pytest.mark.parametrize("name", ["spline", "polynomial", "angle fourier"])
def test_curvature_does_not_jump_at_a_wall(name):
    """At the edges and where the floor is reached: a spline table can hold the wall, see export/tables.py."""
    form, _ = FORMS[name]
    for at in (LOW - RAMP, LOW, HIGH, HIGH + RAMP):
        left, right = slopes(jax.grad(form), [at - 1e-9, at + 1e-9])
        assert left == pytest.approx(right, abs=1e-4)  # third derivative ~1e4 times 2e-9, and rounding


@cache
def walled_at(kind):
    """Values and slopes at three points, of rows of eight coefficients."""
    inside = {
        "spline": lambda x, row, c: forms.spline(x, row, c, LOW, HIGH),
        "polynomial": lambda x, row, c: forms.cosine_polynomial(x, c[row]),
        "fourier": lambda x, row, c: forms.fourier(x, c[row, :4], c[row, 4:]),
    }[kind]

    def form(x, rows):
        return forms.walled(lambda at, row: inside(at, row, rows), x, ROW, 3, LOW, HIGH, WALL_K, RAMP)

    return jax.jit(jax.vmap(jax.value_and_grad(form), in_axes=(0, None)))


def test_polynomial_by_hand():
    """cos θ = ½: Σ a_m 2^-m; θ inside the walls."""
    expected = sum(ROWS[1, m - 1] * 0.5**m for m in range(1, 6))
    theta = jnp.asarray(np.pi / 3)
    found = forms.cosine_polynomial(theta, jnp.asarray(ROWS[1, :5]))
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_fourier_by_hand():
    """φ = 90°: cos nφ = 0, -1, 0 and sin nφ = 1, 0, -1."""
    assert values(dihedral, [np.pi / 2])[0] == pytest.approx(0.2 - 0.5 - 0.1, abs=1e-12)
    assert values(dihedral, [np.pi]) == pytest.approx(values(dihedral, [-np.pi]))


def test_periodic_sum_by_hand_and_as_a_fourier_series():
    """n = 1 alone at φ = γ is 2 k; k (cos γ, sin γ) is the same curve but for Σ k."""
    k, gamma = jnp.asarray(SERIES[0]), jnp.asarray([0.4, -2.0, 3.0])
    assert float(forms.periodic_sum(jnp.asarray(0.4), k[:1], gamma[:1])) == pytest.approx(2 * 0.3)
    phi = jnp.linspace(-np.pi, np.pi, 50)
    series = forms.fourier(phi, jnp.tile(k * jnp.cos(gamma), (50, 1)), jnp.tile(k * jnp.sin(gamma), (50, 1)))
    summed = forms.periodic_sum(phi, jnp.tile(k, (50, 1)), jnp.tile(gamma, (50, 1)))
    assert np.allclose(summed - series, float(k.sum()), rtol=1e-12)


def test_periodic_spline_is_a_periodic_cubic_b_spline():
    """Against scipy's, on coefficients repeated over three periods; 1e-12 of order one."""
    n = ROWS.shape[1]
    width = 2 * np.pi / n
    reference = BSpline(-np.pi - n * width + width * np.arange(-3, 3 * n + 1), np.tile(ROWS[1], 3), 3)
    phi = np.linspace(-np.pi, np.pi, 101)
    assert np.allclose(values(periodic_spline, phi), reference(phi), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [dihedral, periodic_sum, periodic_spline])
def test_torsion_forms_have_the_period_of_a_turn(form):
    phi = np.array([-3.0, -0.7, 0.2, 1.9, np.pi])
    for turn in (-2 * np.pi, 2 * np.pi):
        assert np.allclose(values(form, phi + turn), values(form, phi), rtol=1e-12, atol=1e-12)
        assert np.allclose(slopes(form, phi + turn), slopes(form, phi), rtol=1e-10, atol=1e-10)


def test_iupac_sign_on_an_ideal_helix_and_strand():
    """Right-handed α-helix near +50°, strand near -170°: a sine term tells both from their mirror images."""
    helix = ideal_helix(8)
    strand = chain_from_internal(np.full(7, 3.8), np.full(6, 2.1), np.full(5, np.deg2rad(-170.0)))
    quads = (np.arange(5)[:, None] + np.arange(4)).astype(np.int32)
    helical, extended = (np.asarray(geometry.dihedrals(jnp.asarray(x), quads)) for x in (helix, strand))
    assert np.allclose(np.rad2deg(helical), 50.0, atol=2.0)
    assert np.allclose(np.rad2deg(extended), -170.0, atol=1e-6)
    mirrored = geometry.dihedrals(jnp.asarray(helix * [1.0, 1.0, -1.0]), quads)
    one = jnp.ones((5, 1))
    favoured = forms.fourier(jnp.asarray(helical), 0.0 * one, -one)
    assert np.allclose(favoured, -np.sin(np.deg2rad(50.0)), atol=0.03)
    assert np.allclose(forms.fourier(mirrored, 0.0 * one, -one), -favoured, atol=1e-12)


def test_wca_by_hand():
    """ε at σ, zero from 2^(1/6) σ on, 4·4032 + 1 times ε at σ/2 (with the core below)."""
    at = values(wca, [SIGMA, WCA_END, WCA_END + 0.1, SIGMA / 2])
    assert at == pytest.approx([1.5, 0.0, 0.0, 1.5 * (4 * (4096 - 64) + 1)], rel=1e-12, abs=1e-12)
    assert slopes(wca, [SIGMA])[0] == pytest.approx(-1.5 * 24 / SIGMA, rel=1e-12)
    core = slopes(wca, [SIGMA / 2])[0]
    assert slopes(wca, [0.0, SIGMA / 8]) == pytest.approx([0.0, 0.25 * core], rel=1e-12)


def test_debye_huckel_by_hand():
    """-332.0637/78.5 [e^-1/8 - e^-3/24 (1 - (1/24 + 1/8)(8 - 24))] for opposite charges at 8 Å."""
    end = np.exp(-3.0) / 24.0
    expected = -332.0637 / 78.5 * (np.exp(-1.0) / 8.0 - end * (1.0 - (1 / 24 + 1 / 8) * (8.0 - 24.0)))
    assert values(charged, [8.0])[0] == pytest.approx(expected, rel=1e-6)
    assert pytest.approx(332.06371, rel=1e-7) == units.COULOMB
    assert values(charged, [FAR, FAR + 1.0, 1e6]) == pytest.approx(0.0, abs=0.0)
    assert slopes(charged, [0.0, 0.5]) == pytest.approx(slopes(charged, [1.0])[0] * np.array([0.0, 0.5]))


def test_repulsion_by_hand():
    """Second-order shift of n = 12, σ = 3.8 at a cutoff of 6.5 Å: (3.8/6.5)¹² = 1.5932e-3."""
    edge = (3.8 / 6.5) ** 12
    assert edge == pytest.approx(1.5932e-3, rel=1e-3)
    for r, bare in ((3.0, 17.07), (3.5, 2.683), (3.8, 1.0), (4.5, 0.1314)):
        u = 1.0 - (r / 6.5) ** 2
        expected = 1.5 * ((3.8 / r) ** 12 - edge * (1.0 + 6.0 * u + 21.0 * u**2))
        assert values(repulsion, [r])[0] == pytest.approx(expected, rel=1e-12)
        assert (3.8 / r) ** 12 == pytest.approx(bare, rel=1e-3)


def test_repulsion_ends_at_the_cutoff():
    r = [CUTOFF, CUTOFF + 1e-9, 7.0, 1e6]
    assert np.all(values(repulsion, r) == 0.0)
    assert np.all(slopes(repulsion, r) == 0.0)
    assert float(repulsion(jnp.asarray(CUTOFF - 1e-3))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("exponent", [4, 9, 12])
def test_curvature_of_the_repulsion_does_not_jump_at_the_cutoff(exponent):
    """The third derivative there is -n (n+2) (n+4) ε (σ/r_c)ⁿ/r_c³: so the curvature rises within."""

    def form(r):
        return forms.shifted_repulsion(r, jnp.asarray(SIGMA), 1.5, exponent, CUTOFF)

    curvature = jax.grad(jax.grad(form))

    third = 1.5 * exponent * (exponent + 2) * (exponent + 4) * (SIGMA / CUTOFF) ** exponent / CUTOFF**3
    h = 1e-4
    assert float(curvature(jnp.asarray(CUTOFF - h))) == pytest.approx(third * h, rel=1e-2)
    assert float(curvature(jnp.asarray(CUTOFF + 1e-9))) == 0.0


def test_repulsion_is_a_parabola_in_the_core_and_finite_in_float32():
    """Slope below σ/2 is that at σ/2 times r/(σ/2); no overflow down to contact, nor in the gradient to σ."""
    slope = slopes(repulsion, [0.0, SIGMA / 8, SIGMA / 2])
    assert np.allclose(slope, slope[2] * np.array([0.0, 0.25, 1.0]), rtol=1e-12)
    small = jnp.asarray(np.array([0.0, 1e-6, 0.3]), jnp.float32)
    assert np.all(np.isfinite(repulsion(small))) and repulsion(small).dtype == jnp.float32

    def of_sigma(sigma):
        return forms.shifted_repulsion(small, jnp.full(3, sigma), 1.5, 12, CUTOFF).sum()

    assert np.isfinite(float(jax.jit(jax.grad(of_sigma))(jnp.asarray(3.8, jnp.float32))))


@pytest.mark.parametrize(("form", "end"), [(repulsion, CUTOFF), (wca, WCA_END)])
def test_repulsion_always_pushes_apart(form, end):
    assert np.all(slopes(form, np.linspace(1e-3, end - 1e-3, 128)) < 0.0)


@pytest.mark.parametrize("name", FORMS)
def test_finite_in_float32(name):
    """Values and slopes in single precision, from contact to far outside every range."""
    form, _ = FORMS[name]
    x = jnp.asarray(np.array([-4.0, 0.0, 1e-30, 1e-6, 0.3, 3.0, 1e3, 1e6]), jnp.float32)
    x = x if name in ("fourier", "periodic sum", "periodic spline") else jnp.abs(x)
    value, slope = compiled(form)(x)
    assert value.dtype == slope.dtype == jnp.float32
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(slope))
