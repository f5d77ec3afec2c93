"""Replica exchange over temperatures: neighbours on a ladder of temperatures swap them, by Metropolis' rule.

Replicas keep their positions and swap temperatures: with rungs k and k+1 of one ladder held by i and j,

    accept with probability min(1, exp((β_k - β_{k+1})(U_i - U_j))),    p ← p sqrt(T_new/T_old)

Pairs (0, 1), (2, 3), ... are tried in even rounds and (1, 2), (3, 4), ... in odd ones: stationary, and faster
up and down the ladder than random pairs. Sugita & Okamoto, Chem. Phys. Lett. 314, 141 (1999); Lingenheil et
al., Chem. Phys. Lett. 478, 80 (2009).

The potential energies are those already known at a frame. The energy must be the same at all temperatures: a
network that is conditioned on temperature has no place here. A replica that failed keeps its rung.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cgrefine.sim.langevin import Graphs, State
from cgrefine.system import System


class Ladders(NamedTuple):
    """kT (k,) kcal/mol of the rungs in rising order; ladder (g,) int32: which one each graph belongs to.

    Each ladder has k graphs. Graphs of one ladder are replicas of the same molecule.
    """

    kT: Array
    ladder: Array


class RoundTrips(NamedTuple):
    """accepted, tried (k - 1,) of each pair of neighbours; trips (g,) from the lowest rung to the highest and
    back; rounds_a_trip: mean length of one in rounds, NaN when there was none."""

    accepted: np.ndarray
    tried: np.ndarray
    trips: np.ndarray
    rounds_a_trip: float

    @property
    def acceptance(self) -> np.ndarray:
        """Fraction accepted (k - 1,); NaN for a pair that was never tried."""
        return np.where(self.tried > 0, self.accepted / np.maximum(self.tried, 1), np.nan)


def ladders(kT: np.ndarray, n_graphs: int) -> tuple[Ladders, np.ndarray]:
    """Ladders of consecutive graphs, and the rung (g,) that each starts at.

    Raises ValueError when the thermal energies do not rise, or do not divide the graphs.
    """
    rungs = len(kT)
    if rungs < 2 or not (np.diff(kT) > 0).all():
        raise ValueError(f"a ladder needs two or more rising temperatures, found kT = {list(kT)}")
    if n_graphs % rungs:
        raise ValueError(f"{n_graphs} replicas are not whole ladders of {rungs} temperatures")
    graph = np.arange(n_graphs, dtype=np.int32)
    return Ladders(jnp.asarray(kT), jnp.asarray(graph // rungs)), graph % rungs


def ladders_of(
    kT: Float[np.ndarray, " graphs"], system: System, rungs: int
) -> tuple[Ladders, Int[np.ndarray, " graphs"]]:
    """Ladders of the graphs of a packed system, `rungs` at a time, with the thermal energies that they have.

    One rung: a ladder of each graph by itself, and rung 0. Raises ValueError when ladders differ in their
    thermal energies, or graphs of one ladder in their beads.
    """
    if rungs == 1:
        none = np.zeros(len(kT), np.int32)
        return Ladders(jnp.asarray(kT), jnp.asarray(none)), none
    found = ladders(np.asarray(kT[:rungs]), len(kT))
    if (kT.reshape(-1, rungs) != kT[:rungs]).any():
        raise ValueError(f"ladders of {rungs} replicas start at different thermal energies: {list(kT)}")
    beads = [np.stack([system.species, system.mass])[:, system.graph_id == g] for g in range(len(kT))]
    for g in range(len(kT)):
        if not np.array_equal(beads[g], beads[g - g % rungs]):
            raise ValueError(f"replicas {g - g % rungs} and {g} of one ladder are not the same molecule")
    return found


def swapped(
    key: Array,
    ladders: Ladders,
    rung: Int[Array, " graphs"],
    potential: Float[Array, " graphs"],
    alive: Bool[Array, " graphs"],
    round: Int[Array, ""],
) -> Int[Array, " graphs"]:
    """The rung of each graph after one round of swaps. potential: kcal/mol."""
    rungs = ladders.kT.shape[0]
    n_ladders = rung.shape[0] // rungs
    place = ladders.ladder * rungs + rung
    holder = jnp.zeros_like(place).at[place].set(jnp.arange(place.shape[0], dtype=place.dtype))
    table = holder.reshape(n_ladders, rungs)
    beta, energy, lives = 1.0 / ladders.kT, potential[table], alive[table]
    advantage = (beta[:-1] - beta[1:]) * (energy[:, :-1] - energy[:, 1:])
    chance = jnp.log(jax.random.uniform(key, advantage.shape, advantage.dtype))
    turn = jnp.arange(rungs - 1) % 2 == round % 2
    accept = turn & lives[:, :-1] & lives[:, 1:] & (chance < advantage)
    none = jnp.zeros((n_ladders, 1), bool)
    up, down = jnp.append(accept, none, 1), jnp.append(none, accept, 1)
    after = jnp.arange(rungs, dtype=rung.dtype) + up.astype(rung.dtype) - down.astype(rung.dtype)
    return rung.at[table.ravel()].set(after.ravel())


def rescaled(state: State, ratio: Float[Array, " graphs"], graphs: Graphs) -> State:
    """Momenta times sqrt(ratio), with ratio = T_new/T_old of each graph."""
    return state._replace(momenta=state.momenta * graphs.spread(jnp.sqrt(ratio)))


class Tally(NamedTuple):
    """What has been counted of the rounds so far. rung (g,): after them; rounds: how many; accepted, tried
    (k - 1,) see `RoundTrips`; begin (g,): the round at which each graph last was on the lowest rung, -1 for
    never; reached (g,): whether it has been on the highest since; trips (g,); trip_rounds: of all of them.
    """

    rung: np.ndarray
    rounds: int
    accepted: np.ndarray
    tried: np.ndarray
    begin: np.ndarray
    reached: np.ndarray
    trips: np.ndarray
    trip_rounds: int


def begun(rung: np.ndarray, rungs: int) -> Tally:
    """Nothing counted, the graphs being on the rungs (g,) that they start at."""
    none = np.zeros(rungs - 1, int)
    begin = np.where(rung == 0, 0, -1)
    return Tally(rung, 0, none, none, begin, rung == rungs - 1, np.zeros(len(rung), int), 0)


def tallied(tally: Tally, rung: np.ndarray, alive: np.ndarray) -> Tally:
    """With more rounds: rung (s, g) after each, alive (s, g) at it; graphs are consecutive in ladders."""
    now, rounds, accepted, tried, begin, reached, trips, trip_rounds = tally
    accepted, tried, trips, rungs = accepted.copy(), tried.copy(), trips.copy(), len(accepted) + 1
    for after, lives in zip(rung, alive, strict=True):
        for low in range(rounds % 2, rungs - 1, 2):
            tried[low] += int((lives[now == low] & lives[now == low + 1]).sum())
            accepted[low] += int((after[now == low] == low + 1).sum())
        rounds, now = rounds + 1, after
        lowest = now == 0
        done = lowest & reached & (begin >= 0)
        trips += done
        trip_rounds += int((rounds - begin[done]).sum())
        begin, reached = np.where(lowest, rounds, begin), (reached | (now == rungs - 1)) & ~lowest
    return Tally(now, rounds, accepted, tried, begin, reached, trips, trip_rounds)


def summary(tallies: Sequence[Tally]) -> RoundTrips:
    """Acceptance and round trips of all rounds that were counted, of ladders of the same number of rungs."""
    trips = np.concatenate([t.trips for t in tallies])
    rounds, n = sum(t.trip_rounds for t in tallies), int(trips.sum())
    accepted, tried = (np.sum([getattr(t, name) for t in tallies], axis=0) for name in ("accepted", "tried"))
    return RoundTrips(accepted, tried, trips, rounds / n if n else float("nan"))


def statistics(rung: np.ndarray, alive: np.ndarray, rungs: int) -> RoundTrips:
    """What the rungs (s + 1, g) before, between and after s rounds, from round 0, say of the exchange.

    alive (s, g): at each round. Graphs are consecutive in their ladders, see `ladders`.
    """
    return summary([tallied(begun(rung[0], rungs), rung[1:], alive)])
