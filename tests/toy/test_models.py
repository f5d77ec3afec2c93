"""Energies of the toy: slopes, what a ReLU cannot learn, a force without an energy, and the prior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.energy import FieldTerm
from cgrefine.toy import models
from cgrefine.toy.fitting import force_of
from cgrefine.toy.potentials import EDGE_A, plane

X = np.array([-4.9, -2.3, 0.15, 3.3, 4.8])
FORMS = {
    "silu": models.network("silu", (5, 4)),
    "fourier": models.network("silu", (6,), harmonics=3),
    "spline": models.spline(9),
    "polynomial": models.polynomial(4),
}


def some(term, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(term.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)


def energy(term, params, x):
    return np.asarray(jax.jit(term.scalar)(params, plane(x, 0.0 * x)))


@pytest.mark.parametrize("name", FORMS)
def test_the_force_is_minus_the_slope(name):
    term, h = FORMS[name], 1e-4
    params = some(term)
    slope = (energy(term, params, X + h) - energy(term, params, X - h)) / (2.0 * h)
    assert force_of(term, params, X) == pytest.approx(-slope, rel=1e-5, abs=1e-5)


def test_slopes_of_fourier_features_are_of_one_size():
    """Each of them has a root mean square of q/√2 over a period, however high its harmonic."""
    x = np.linspace(0.0, models.PERIOD_A, 1200, endpoint=False)
    term = models.network("silu", (), harmonics=40)
    params = [{"w": np.zeros((81, 1)), "b": np.zeros(1)}]
    for row in (1, 17, 40, 41, 80):
        params[0]["w"] = np.eye(81)[:, row : row + 1]
        expected = 2.0 * np.pi / models.PERIOD_A / np.sqrt(2.0)
        assert np.sqrt(np.mean(force_of(term, params, x) ** 2)) == pytest.approx(expected, rel=1e-6)


def loss_gradient(term, params):
    """Of the mean square of the force less a straight line."""
    positions = jnp.asarray(plane(X, 0.0 * X))

    def loss(p):
        force = -jax.grad(lambda r: jnp.sum(term.scalar(p, r)))(positions)[:, 0]
        return jnp.mean((force - X) ** 2)

    return jax.jit(jax.grad(loss))(params)


@pytest.mark.parametrize(("name", "moves"), [("relu", False), ("silu", True)])
def test_forces_tell_a_relu_nothing_of_its_kinks(name, moves):
    """Its force is constant between kinks, so the biases, which say where these are, have no gradient."""
    term = models.network(name, (7, 6))
    params = some(term)
    biases = [np.abs(np.asarray(layer["b"])).max() for layer in loss_gradient(term, params)[:-1]]
    assert [b > 0.0 for b in biases] == [moves, moves]
    x = np.linspace(-EDGE_A, EDGE_A, 4001)
    values = np.unique(np.round(force_of(term, params, x), 9))
    assert (len(values) > 1000) == moves


def test_a_direct_force_is_matched_without_an_energy():
    term = models.direct("tanh", (5,))
    params = some(term)
    twin = models.network("tanh", (5,))
    assert force_of(term, params, X) == pytest.approx(energy(twin, params, X))
    assert not energy(term, params, X).any()
    positions = jnp.asarray(plane(X, 0.0 * X))
    expected = jax.jit(jax.grad(lambda p: jnp.mean((twin.scalar(p, positions) - X) ** 2)))(params)
    for one, other in zip(
        jax.tree.leaves(loss_gradient(term, params)), jax.tree.leaves(expected), strict=True
    ):
        assert np.asarray(one) == pytest.approx(np.asarray(other), rel=1e-9)


def test_the_prior_is_zero_on_data_and_harmonic_beyond():
    term = models.wall(50.0)
    x = np.array([-EDGE_A, 0.0, EDGE_A, EDGE_A + 0.2, -EDGE_A - 0.4])
    assert isinstance(term, FieldTerm)
    params = models.wall_params(50.0)["wall"]
    assert energy(term, params, x) == pytest.approx(np.array([0.0, 0.0, 0.0, 1.0, 4.0]))
    assert force_of(term, params, x) == pytest.approx(np.array([0.0, 0.0, 0.0, -10.0, 20.0]))
