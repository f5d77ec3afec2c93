"""Replica exchange: the averages of every temperature, who may swap, and the statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine.sim.exchange import ladders, rescaled, statistics, swapped
from cgrefine.sim.langevin import Langevin
from tests import analytic
from tests.dynamics import KEY, deviations, evaluate_with, graphs_of

KT = np.array([0.35, 0.6, 1.0])
A, B, LADDERS, ROUNDS = 1.5, 0.3, 300, 160


def tempered(wrong=1.0):
    """⟨x⟩ (ladders, rungs) of one particle a replica in tilted double wells that all start on the wrong side,
    and the rungs (rounds + 1, g). wrong: factor of the energies that the swaps see."""
    n = 3 * LADDERS
    sets, rung = ladders(KT, n)
    graphs = graphs_of(n, 1)
    evaluate = evaluate_with(analytic.asymmetric)
    params = {"a": A, "b": B}

    def mover(rung):
        return Langevin(0.3, 0.5).pair(evaluate, jnp.full((n, 1), 5.0), sets.kT[rung][:, None])

    def one_round(carry, index):
        state, rung = carry
        keys = jax.random.split(jax.random.fold_in(KEY, index), 9)
        for key in keys[:8]:
            state = mover(rung).step(key, state, params)
        seen = sets.ladder * 3 + rung
        x = jnp.zeros(n).at[seen].set(state.positions.mean(1)).reshape(-1, 3)
        alive = jnp.ones(n, bool)
        new = swapped(keys[8], sets, rung, wrong * state.at.energies, alive, index)
        state = rescaled(state, sets.kT[new] / sets.kT[rung], graphs)
        return (state, new), (x, new)

    rung = jnp.asarray(rung)
    first = mover(rung).init(KEY, -jnp.ones((n, 3)), params)
    _, (x, rungs) = jax.lax.scan(one_round, (first, rung), jnp.arange(ROUNDS))
    return np.asarray(x)[ROUNDS // 2 :].mean(0), np.concatenate([rung[None], rungs])


def test_every_temperature_has_its_own_average():
    """⟨x⟩ at each rung within 3 standard errors over the ladders, and swaps are common."""
    means, rungs = tempered()
    for k, kT in enumerate(KT):
        assert abs(deviations(means[:, k], analytic.asymmetric_moment(A, B, kT, 1))) < 3.0
    found = statistics(rungs, np.ones((ROUNDS, rungs.shape[1]), bool), 3)
    assert (found.acceptance > 0.3).all() and (found.acceptance < 1.0).all()
    assert found.trips.sum() > 1000 and found.rounds_a_trip >= 4.0


def test_swaps_with_the_wrong_sign_are_found():
    means, _ = tempered(wrong=-1.0)
    assert (
        max(abs(deviations(means[:, k], analytic.asymmetric_moment(A, B, kT, 1))) for k, kT in enumerate(KT))
        > 5
    )


def test_swaps_follow_the_rule_and_leave_out_the_dead():
    """A swap that lowers the energy of the cold is sure, one against 50 kT is not made, the dead never."""
    sets, rung = ladders(KT, 6)
    potential = jnp.array([100.0, 0.0, 0.0, 0.0, 100.0, 0.0])
    for alive, expected in ((True, [1, 0, 2, 0, 1, 2]), (False, [0, 1, 2, 0, 1, 2])):
        lives = jnp.ones(6, bool).at[0].set(alive)
        after = swapped(KEY, sets, jnp.asarray(rung), potential, lives, jnp.asarray(0))
        assert list(after) == expected
    odd = swapped(KEY, sets, jnp.asarray(rung), potential, jnp.ones(6, bool), jnp.asarray(1))
    assert list(odd[3:]) == [0, 2, 1] and int(odd[0]) == 0


def test_the_acceptance_is_that_of_metropolis():
    """exp(Δ) of 2000 pairs with Δ = (β₀ - β₁)(U₀ - U₁) = -1: four standard errors."""
    kT = np.array([0.5, 1.0])
    sets, rung = ladders(kT, 4000)
    potential = jnp.where(jnp.asarray(rung) == 0, 0.0, 1.0)
    after = swapped(KEY, sets, jnp.asarray(rung), potential, jnp.ones(4000, bool), jnp.asarray(0))
    p = np.exp(-1.0)
    assert abs((np.asarray(after)[::2] == 1).mean() - p) < 4 * np.sqrt(p * (1 - p) / 2000)


def test_round_trips_are_counted_by_hand():
    track = np.array([[0, 1, 2, 1, 0, 0, 1, 0, 1, 2, 2, 1, 0], [2, 2, 1, 2, 2, 2, 2, 2, 2, 1, 1, 2, 2]]).T
    found = statistics(np.column_stack([track, 3 - track.sum(1)]), np.ones((12, 3), bool), 3)
    assert found.trips[0] == 2 and found.trips[1] == 0


@pytest.mark.parametrize(("kT", "graphs"), [([1.0], 2), ([1.0, 0.5], 2), ([0.5, 1.0], 3)])
def test_bad_ladders_are_refused(kT, graphs):
    with pytest.raises(ValueError, match="ladder"):
        ladders(np.array(kT), graphs)
