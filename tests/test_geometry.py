"""Internal coordinates: values by hand, the IUPAC sign, and gradients at the singular points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import geometry

STRAIGHT = jnp.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])


def test_lengths_and_angles_by_hand():
    x = jnp.array([[3.0, 0, 0], [0, 0, 0], [0, 4.0, 0]])
    assert geometry.bond_lengths(x, jnp.array([[0, 2]]))[0] == pytest.approx(5.0)
    assert geometry.bond_angles(x, jnp.array([[0, 1, 2]]))[0] == pytest.approx(np.pi / 2)


def test_dihedral_is_positive_for_a_right_handed_turn():
    """Looking from j to k, l is turned clockwise from i by 60°: +60°."""
    angle = np.deg2rad(60.0)
    clockwise = [1.0, np.cos(angle), np.sin(angle)]  # the axis j → k is +x, i points along +y
    x = jnp.array([[0.0, 1, 0], [0, 0, 0], [1, 0, 0], clockwise])
    assert geometry.dihedrals(x, jnp.array([[0, 1, 2, 3]]))[0] == pytest.approx(angle)


def test_trans_is_plus_pi():
    x = jnp.array([[0.0, 1, 0], [0, 0, 0], [1, 0, 0], [1, -1, 0]])
    assert abs(geometry.dihedrals(x, jnp.array([[0, 1, 2, 3]]))[0]) == pytest.approx(np.pi)


@pytest.mark.parametrize(
    ("measure", "tuples"),
    [
        (geometry.bond_lengths, [[0, 1]]),
        (geometry.bond_angles, [[0, 1, 2]]),
        (geometry.dihedrals, [[0, 1, 2, 3]]),
    ],
)
@pytest.mark.parametrize("positions", [STRAIGHT, jnp.zeros((4, 3))], ids=["in a line", "coincident"])
def test_gradients_are_finite_at_singular_points(measure, tuples, positions):
    gradient = jax.grad(lambda x: jnp.sum(measure(x, jnp.array(tuples))))(positions)
    assert jnp.all(jnp.isfinite(gradient))


def test_masked_displacements_hide_nan_from_value_and_gradient():
    x = jnp.array([[0.0, 0, 0], [1, 2, 2], [jnp.nan] * 3])
    senders, receivers, mask = jnp.array([0, 0]), jnp.array([1, 2]), jnp.array([True, False])

    def summed(x):
        return jnp.sum(geometry.safe_norm(geometry.displacements(x, senders, receivers, mask)) * mask)

    assert summed(x) == pytest.approx(3.0)
    assert jnp.all(jnp.isfinite(jax.grad(summed)(x)))


@pytest.mark.parametrize("size", [1e-7, 1e-3, 1e6])
def test_gradients_follow_the_scale_in_single_precision(size):
    """An angle and a torsion do not change when all is made smaller, and their gradients go as 1/size.

    float32, 1e-5 relative: x² + y² of the atan2 would be size⁸ and out of its range.
    """
    x = np.array([[0.1, 1.0, 0.2], [0.0, 0.0, 0.0], [1.0, 0.1, 0.0], [1.2, 0.8, 0.7]], np.float32)
    for measure, tuples in ((geometry.bond_angles, [[0, 1, 2]]), (geometry.dihedrals, [[0, 1, 2, 3]])):
        both = jax.jit(jax.value_and_grad(lambda y, of=measure, at=tuples: of(y, jnp.array(at))[0]))
        (usual, slope), (value, gradient) = both(jnp.asarray(x)), both(jnp.asarray(np.float32(size) * x))
        assert gradient.dtype == jnp.float32
        assert float(value) == pytest.approx(float(usual), rel=1e-5)
        assert np.allclose(gradient * size, slope, rtol=1e-5, atol=1e-5)
