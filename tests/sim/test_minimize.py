"""FIRE reaches minima that are known, each graph on its own, and says how each ended."""

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.energy import BondedTerm, PairTerm, SumOfTerms
from cgrefine.sim.minimize import Fire, Outcome, minimized
from cgrefine.system import Capacity, exact_capacity, pack, topology_from_species
from tests import analytic
from tests.chains import random_chain


def _spring(params, r, kind):
    return 0.5 * params["k"] * (r - 3.8) ** 2


def _repulsion(params, r, a, b):
    return params["e"] * (1.0 - (r / 8.0) ** 2) ** 3


CHAIN = SumOfTerms((BondedTerm("bond", "bond", _spring), PairTerm("pair", 8.0, 2, _repulsion)))
PARAMS = {"bond": {"k": 100.0}, "pair": {"e": 2.0}}


def test_each_bead_reaches_its_side_of_the_double_well():
    """The minima of a(x² - 1)² - bx: roots of 4a(x³ - x) = b, from starts on either side."""
    a, b = 3.0, 0.6
    roots = np.sort(np.roots([4 * a, 0.0, -4 * a, -b]).real)
    starts = np.array([[-1.6, -0.7, 1.5], [0.9, 1.4, -1.2], [1.0, 1.0, 1.0]])
    system = analytic.free_beads(3)
    found = minimized(analytic.asymmetric, {"a": a, "b": b}, system, starts, 0.0, Fire(1e-8))
    assert (found.outcome == Outcome.CONVERGED).all() and (found.max_force <= 1e-8).all()
    np.testing.assert_allclose(found.positions, np.where(starts > 0, roots[2], roots[0]), atol=1e-8)
    assert len(set(found.steps)) > 1


@pytest.mark.slow
def test_a_chain_relaxes_and_the_energy_falls_the_others_notwithstanding():
    """Two chains in one packed graph, with padding, give what each gives alone; bonds come to 3.8 Å."""
    tops = [topology_from_species([0] * n) for n in (6, 8)]
    x = [1.15 * random_chain(n, n) for n in (6, 8)]
    fire = Fire(0.5)
    need = exact_capacity(tops)
    system = pack(tops, Capacity(need.beads + 2, 3, need.bonds + 1, need.angles, need.dihedrals))
    both = minimized(CHAIN, PARAMS, system, np.concatenate([*x, np.full((2, 3), 7.0)]), 8.0, fire)
    assert (both.outcome == Outcome.CONVERGED).all()
    assert (both.positions[-2:] == 7.0).all()
    for g, (top, start, rows) in enumerate(zip(tops, x, (slice(0, 6), slice(6, 14)), strict=True)):
        alone = minimized(CHAIN, PARAMS, pack([top]), start, 8.0, fire)
        np.testing.assert_allclose(both.positions[rows], alone.positions, atol=1e-9)
        assert both.steps[g] == alone.steps[0]
        r = np.linalg.norm(np.diff(alone.positions, axis=0), axis=1)
        # tensions of a few kcal/mol/Å against k = 100; the start is 0.57 Å off
        assert np.abs(r - 3.8).max() < 0.1
        bare = minimized(CHAIN, PARAMS, pack([top]), start, 8.0, Fire(0.5, max_steps=0))
        assert bare.outcome[0] == Outcome.UNFINISHED and alone.potential[0] < bare.potential[0]


def test_no_bead_moves_further_than_allowed():
    """One step from a start with huge forces."""
    x = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    system = pack([topology_from_species([0, 0])])
    fire = Fire(1e-3, max_steps=1, max_move_A=0.07, step=0.1)
    found = minimized(CHAIN.only(("bond",)), {"bond": {"k": 1e6}}, system, x, 0.0, fire)
    np.testing.assert_allclose(np.linalg.norm(found.positions - x, axis=1), 0.07)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_start_that_is_not_finite_is_reported_and_the_others_converge(value):
    starts = np.ones((3, 3))
    starts[1, 2] = value
    found = minimized(analytic.harmonic, {"k": 2.0}, analytic.free_beads(3), starts, 0.0, Fire(1e-6))
    assert list(found.outcome) == [Outcome.CONVERGED, Outcome.NON_FINITE_START, Outcome.CONVERGED]
    assert np.array_equal(found.positions[1], starts[1], equal_nan=True)
    np.testing.assert_allclose(found.positions[[0, 2]], 0.0, atol=1e-6)


def test_an_energy_that_turns_nan_on_the_way_is_reported_at_the_last_good_place():
    """√x falls towards 0 and is NaN beyond it."""

    def root(params, positions, system, neighbors):
        return jnp.sum(jnp.sqrt(positions), axis=1)

    found = minimized(root, {}, analytic.free_beads(1), np.full((1, 3), 0.3), 0.0, Fire(1e-6))
    assert found.outcome[0] == Outcome.NON_FINITE
    assert np.isfinite(found.positions).all() and np.isfinite(found.potential).all()
