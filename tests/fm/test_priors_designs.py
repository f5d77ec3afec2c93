"""The columns of a design times parameters are the energies of `forms`; curvatures are second derivatives."""

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.fm.priors import designs, forms

LOW, HIGH = 1.4, 2.6
THETA, PHI = np.linspace(LOW, HIGH, 101), np.linspace(-np.pi, np.pi, 100, endpoint=False)


def test_splines():
    c = np.random.default_rng(0).normal(size=(1, 9))
    row = jnp.zeros(len(THETA), int)
    found = designs.spline_design(THETA, LOW, HIGH, 9) @ c[0]
    assert found == pytest.approx(
        np.asarray(forms.spline(jnp.asarray(THETA), row, jnp.asarray(c), LOW, HIGH))
    )
    row = jnp.zeros(len(PHI), int)
    found = designs.periodic_design(PHI, 9) @ c[0]
    assert found == pytest.approx(np.asarray(forms.periodic_spline(jnp.asarray(PHI), row, jnp.asarray(c))))


def test_series():
    """Without the constant, which comes first."""
    a, b = np.random.default_rng(1).normal(size=(2, 4))
    powers, series = designs.cosine_powers(THETA, 4)[0], designs.waves(PHI, 4)[0]
    expected = forms.cosine_polynomial(jnp.asarray(THETA), jnp.asarray(a))
    assert powers[:, 1:] @ a == pytest.approx(np.asarray(expected))
    expected = forms.fourier(jnp.asarray(PHI), jnp.asarray(a), jnp.asarray(b))
    assert series[:, 1:] @ np.concatenate([a, b]) == pytest.approx(np.asarray(expected))
    assert np.all(powers[:, 0] == 1.0) and np.all(series[:, 0] == 1.0)


@pytest.mark.parametrize("columns", [designs.cosine_powers, designs.waves])
def test_curvatures(columns):
    """Second differences of h = 1e-3: error h²/12 of the fourth derivative, below 4⁴ for four harmonics."""
    h = 1e-3
    middle, after, before = (columns(THETA + step, 4)[0] for step in (0.0, h, -h))
    assert columns(THETA, 4)[1] == pytest.approx((after + before - 2 * middle) / h**2, abs=1e-4)
