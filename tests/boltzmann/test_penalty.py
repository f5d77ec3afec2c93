"""The bounded strain of a frame: values by hand, smoothness where it begins and ends, and what it ignores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.boltzmann.penalty import strain
from cgrefine.config.running import Criteria, Unusual
from cgrefine.residues import PRO
from cgrefine.sim.stability import checks
from cgrefine.system import Capacity, pack, topology_from_species
from tests.chains import chain_from_internal, random_chain

FATAL, WARN = Criteria(), Unusual()
BOND_WIDTH_A = FATAL.bond_deviation_A - WARN.bond_deviation_A


def observable(n, proline=(), capacity=None, warn=WARN, fatal=FATAL):
    species = [PRO if i in proline else 0 for i in range(n)]
    system = pack([topology_from_species(species)], capacity)
    return strain(checks(system, np.full(len(system.bond_mask), 3.8), fatal), warn, fatal)


def value(x, **kwargs):
    return np.asarray(observable(len(x), **kwargs).of_frames(jnp.asarray(x)[None])[0])


def chain(bonds, angles=None, dihedrals=None):
    n = len(bonds) + 1
    angles = np.full(n - 2, 2.0) if angles is None else np.asarray(angles)
    dihedrals = np.full(max(n - 3, 0), np.pi) if dihedrals is None else np.asarray(dihedrals)
    return chain_from_internal(np.asarray(bonds), angles, dihedrals)


def bond_at(u, sign=1.0):
    """A length that far between the threshold of warning (0) and that of failure (1)."""
    return 3.8 + sign * (WARN.bond_deviation_A + u * BOND_WIDTH_A)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_bonds_add_up_each_by_3u2_minus_2u3(sign):
    """u = 1/4 gives 10/64 and 1/2 gives 1/2; what warns of nothing gives 0, what is past failure 1."""
    x = chain([bond_at(0.25, sign), 3.8, bond_at(0.5, sign), bond_at(-0.1, sign), bond_at(4.0, sign)])
    np.testing.assert_allclose(value(x), [10 / 64 + 1 / 2 + 1, 0.0, 0.0], atol=1e-12)


def test_second_neighbours_and_overlaps_by_hand():
    """A quarter of the way each: of i and i+2 by the angle, of i and i+3 by a flat trapezoid."""
    close = WARN.second_neighbor_min_A - 0.25 * (WARN.second_neighbor_min_A - FATAL.second_neighbor_min_A)
    x = chain([3.8, 3.8], [2.0 * np.arcsin(0.5 * close / 3.8)])
    np.testing.assert_allclose(value(x), [0.0, 10 / 64, 0.0], atol=1e-12)
    near = WARN.overlap_min_A - 0.25 * (WARN.overlap_min_A - FATAL.overlap_min_A)
    x = chain([3.8, 3.8, 3.8], np.full(2, np.arccos(0.5 * (1.0 - near / 3.8))), [0.0])
    np.testing.assert_allclose(np.linalg.norm(x[3] - x[0]), near)
    np.testing.assert_allclose(value(x), [0.0, 0.0, 10 / 64], atol=1e-12)


def test_nothing_counts_without_bound():
    """All beads in one place: each bond, second neighbour and pair is 1; and a torn chain its bonds."""
    n = 7
    np.testing.assert_array_equal(value(np.zeros((n, 3))), [n - 1, n - 2, (n - 3) * (n - 2) / 2])
    np.testing.assert_array_equal(value(50.0 * random_chain(n, 0)), [n - 1, 0, 0])
    np.testing.assert_array_equal(value(chain([3.8] * 6)), [0, 0, 0])


@pytest.mark.parametrize(
    ("length", "proline", "expected"),
    [(2.95, True, 0.0), (2.95, False, 1.0), (3.375, True, 0.216), (2.35, True, 1.0), (2.5375, True, 10 / 64)],
)
def test_a_bond_to_proline_may_be_cis(length, proline, expected):
    """Between 2.95 and 3.80 Å the nearer one counts: both are 0.425 Å away at 3.375, u = 0.3."""
    x = chain([3.8, length, 3.8], [2.2, 2.2])
    assert value(x, proline=(2,) if proline else ())[0] == pytest.approx(expected, abs=1e-12)


def test_its_slope_has_no_step():
    """6u(1 - u)/w in between, 0 outside, and the differences of values say the same at both thresholds."""
    of = observable(2)

    @jax.jit
    @jax.vmap
    def first(r):
        return of.per_frame(jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]) * r)[0]

    u = np.array([-0.2, 0.0, 1e-4, 0.3, 0.5, 0.9, 1.0 - 1e-4, 1.0, 1.3])
    r, h = bond_at(u), 1e-6
    slope = jax.vmap(jax.grad(lambda r: first(r[None])[0]))(jnp.asarray(r))
    within = np.clip(u, 0.0, 1.0)
    np.testing.assert_allclose(slope, 6.0 * within * (1.0 - within) / BOND_WIDTH_A, atol=1e-9)
    differences = (first(jnp.asarray(r + h)) - first(jnp.asarray(r - h))) / (2.0 * h)
    np.testing.assert_allclose(differences, slope, atol=6.0 * h / BOND_WIDTH_A**2)


def test_turned_and_shifted_frames_are_strained_alike():
    x = 0.75 * random_chain(12, 3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    own = value(x)
    assert (own > 0.01).all()
    np.testing.assert_allclose(value(x @ turn.T + 30.0), own, rtol=1e-9)


def test_padding_is_not_strained():
    """Padded bonds and angles have both ends in one bead."""
    x = chain([bond_at(0.25), 3.8, 3.8])
    np.testing.assert_allclose(value(x, capacity=Capacity(4, 1, 6, 6, 4)), value(x), atol=1e-15)


@pytest.mark.parametrize(
    ("name", "warned"),
    [("bond_deviation_A", 0.6), ("second_neighbor_min_A", 3.7), ("overlap_min_A", 2.8)],
)
def test_a_warning_that_comes_with_the_failure_is_refused(name, warned):
    with pytest.raises(ValueError, match=rf"refine\.warn\.{name} = {warned:g}.*sim\.criteria\.{name} = "):
        observable(4, warn=Unusual(**{name: warned}))
