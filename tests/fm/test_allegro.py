"""The parts of Allegro: couplings against e3nn-jax, radial functions by hand, agreement of the sums."""

import e3nn_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.fm.models import layers
from cgrefine.fm.models import tensor_product as tp


def unit_vectors(n=7):
    v = np.random.default_rng(0).normal(size=(n, 3))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def joined(features):
    return np.concatenate([np.asarray(c) for tensor in features for c in tensor], axis=1)


def test_spherical_harmonics_are_those_of_e3nn():
    """Same order, sign and norm; e3nn-jax works in float64 here, its constants to about 1e-7."""
    v = unit_vectors()
    expected = e3nn_jax.spherical_harmonics(
        e3nn_jax.Irreps("0e + 1o + 2e + 3o"), jnp.asarray(v), True, "component"
    ).array
    assert np.allclose(joined(tp.spherical_harmonics(jnp.asarray(v), 3)), expected, atol=2e-6)


@pytest.mark.parametrize("parity, count", [("o3", 11), ("so3", 15)])
def test_number_of_paths(parity, count):
    assert len(tp.paths(2, parity)) == count
    assert len(tp.paths(2, parity, l_out=0)) == 3


@pytest.mark.parametrize("path", tp.paths(3, "so3"), ids=str)
def test_product_commutes_with_rotation(path):
    """D3 (a ⊗ b) = (D1 a) ⊗ (D2 b) with Wigner matrices of e3nn-jax."""
    rng = np.random.default_rng(1)
    alpha, beta, gamma = (jnp.asarray(angle) for angle in (0.3, 1.1, -0.7))

    def turned(ell, rows):
        matrix = e3nn_jax.Irreps([(1, (ell, 1))]).D_from_angles(alpha, beta, gamma)
        return np.asarray(matrix) @ rows

    a, b = rng.normal(size=(2 * path.l1 + 1, 4)), rng.normal(size=(2 * path.l2 + 1, 4))
    first = turned(path.l3, np.stack(tp.product(path, list(jnp.asarray(a)), list(jnp.asarray(b)))))
    rotated = (list(jnp.asarray(turned(ell, rows))) for ell, rows in ((path.l1, a), (path.l2, b)))
    second = np.stack(tp.product(path, *rotated))
    assert np.allclose(first, second, atol=1e-5 * np.abs(first).max())


def test_product_is_that_of_e3nn():
    path = tp.Path(1, 2, 2)
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    cg = np.asarray(e3nn_jax.clebsch_gordan(1, 2, 2)) * np.sqrt(5)
    expected = np.einsum("abc,ae,be->ce", cg, a, b)
    assert np.allclose(np.stack(tp.product(path, list(jnp.asarray(a)), list(jnp.asarray(b)))), expected)


def test_envelope_by_hand():
    """p = 2: 1 - 6x² + 8x³ - 3x⁴, which is 5/16 at 1/2; value, slope and curvature vanish at 1."""

    def u(x):
        return layers.envelope(x[None], 2)[0]

    assert float(u(jnp.asarray(0.5))) == pytest.approx(1 - 6 / 4 + 8 / 8 - 3 / 16)
    edge = jnp.asarray(1.0 - 1e-9)
    for order, derivative in enumerate((u, jax.jit(jax.grad(u)), jax.jit(jax.grad(jax.grad(u))))):
        assert abs(float(derivative(edge))) < 1e-7, order
    assert float(u(jnp.asarray(1.2))) == 0.0 and float(u(jnp.asarray(0.0))) == 1.0


def test_bessel_by_hand():
    """At r = rc/2: sin(nπ/2) · 2/√2 = √2, 0, -√2."""
    found = layers.bessel(jnp.asarray([6.0]), 12.0, 3)
    assert np.allclose(found, [[np.sqrt(2), 0, -np.sqrt(2)]], atol=1e-12)
