"""Two gradients into one: the formula of each way, by hand on trees of three numbers."""

import math

import numpy as np
import pytest

from cgrefine.boltzmann.combine import SMOOTHING, START, Way, combined, cosine, norm, with_multiplier


def tree(a, b, c):
    return {"x": np.array([a, b], np.float32), "y": {"z": np.asarray(c, np.float32)}}


def flat(of):
    return np.array([*of["x"], of["y"]["z"]], np.float64)


OWN, FORCES, AGAINST = tree(3.0, 0.0, 4.0), tree(0.0, 2.0, 0.0), tree(-4.0, 6.0, 1.5)
"""At right angles, of norms 5 and 2; and one of cosine -6/36.6 with the first."""
BALANCE = START._replace(own=np.asarray(10.0), forces=np.asarray(1.0), multiplier=np.asarray(0.5))


def test_norm_and_cosine_are_of_all_leaves():
    assert norm(OWN) == 5.0
    assert cosine(OWN, FORCES) == 0.0
    assert cosine(OWN, AGAINST) == pytest.approx(-6.0 / (5.0 * math.sqrt(54.25)))
    assert cosine(OWN, OWN) == pytest.approx(1.0)
    assert math.isnan(cosine(OWN, tree(0.0, 0.0, 0.0)))


def test_ways_without_norms():
    """g_own + w g_forces as they are, or g_own alone; nothing is carried on."""
    cases: list[tuple[Way, dict | None, np.ndarray]] = [
        ("weighted", AGAINST, flat(OWN) + 0.25 * flat(AGAINST)),
        ("none", AGAINST, flat(OWN)),
        ("constraint", None, flat(OWN)),
    ]
    for way, forces, expected in cases:
        found, balance = combined(way, OWN, forces, BALANCE, 0.25)
        np.testing.assert_allclose(flat(found), expected)
        assert balance is BALANCE


def test_running_norms_begin_with_the_first():
    _, balance = combined("constraint", OWN, FORCES, START, 1.0)
    assert (float(balance.own), float(balance.forces)) == (5.0, 2.0)
    _, balance = combined("projection", OWN, FORCES, BALANCE, 1.0)
    expected = [SMOOTHING * 10.0 + (1.0 - SMOOTHING) * 5.0, SMOOTHING + (1.0 - SMOOTHING) * 2.0]
    np.testing.assert_allclose([balance.own, balance.forces], expected)
    assert float(balance.multiplier) == 0.5


def test_constraint_adds_forces_by_the_multiplier():
    """Over the running norms 9 and 1.2, which the norms of this update are part of; weight has no say."""
    found, _ = combined("constraint", OWN, FORCES, BALANCE, 7.0)
    np.testing.assert_allclose(flat(found), flat(OWN) / 9.0 + 0.5 * flat(FORCES) / 1.2, rtol=1e-6)
    assert all(leaf.dtype == np.float32 for leaf in (found["x"], found["y"]["z"]))


def test_projection_takes_out_what_is_against_the_forces():
    """ĝ_forces + w ĝ_own, the latter at right angles to the former where their cosine is negative."""
    weight = 0.3
    found, balance = combined("projection", OWN, AGAINST, BALANCE, weight)
    unit_forces = flat(AGAINST) / float(balance.forces)
    rest = (flat(found) - unit_forces) / weight
    assert abs(rest @ unit_forces) < 1e-6 * np.linalg.norm(rest) * np.linalg.norm(unit_forces)
    own = flat(OWN) / 9.0
    np.testing.assert_allclose(
        rest, own - (own @ unit_forces) / (unit_forces @ unit_forces) * unit_forces, rtol=1e-5
    )


@pytest.mark.parametrize("forces", [FORCES, tree(4.0, -6.0, -1.5)])
def test_and_nothing_where_both_agree(forces):
    found, balance = combined("projection", OWN, forces, BALANCE, 0.3)
    np.testing.assert_allclose(
        flat(found), flat(forces) / float(balance.forces) + 0.3 * flat(OWN) / 9.0, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("way", ["constraint", "projection"])
def test_a_gradient_of_zero_adds_nothing(way):
    zero = tree(0.0, 0.0, 0.0)
    for own, forces in ((OWN, zero), (zero, FORCES), (zero, zero)):
        found, balance = combined(way, own, forces, START, 1.0)
        expected = flat(own) / (norm(own) or 1.0) + flat(forces) / (norm(forces) or 1.0)
        np.testing.assert_allclose(flat(found), expected, rtol=1e-6)
        assert (float(balance.own), float(balance.forces)) == (norm(own), norm(forces))


@pytest.mark.parametrize(
    ("growth", "expected"), [(0.03, 0.5), (0.06, 0.7), (0.0, 0.3), (-0.03, 0.1), (-0.6, 0.0)]
)
def test_the_multiplier_rises_while_the_loss_has_grown_too_much(growth, expected):
    """λ + 0.2 (growth/0.03 - 1), never below 0."""
    found = with_multiplier(BALANCE, growth, 0.03, 0.2)
    assert float(found.multiplier) == pytest.approx(expected)
    assert (found.own, found.forces) == (BALANCE.own, BALANCE.forces)
