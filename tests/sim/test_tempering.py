"""Rollouts with replica exchange: averages of every temperature, resuming, who may swap, what is refused."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from cgrefine.config.running import Criteria
from cgrefine.sim import kernels
from cgrefine.sim.exchange import statistics
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.nose_hoover import NoseHoover
from cgrefine.sim.rollout import Settings, rollout, settings
from cgrefine.sim.stability import checks
from cgrefine.status import Status
from cgrefine.system import pack, topology_from_species
from tests import analytic
from tests.dynamics import deviations
from tests.sim.test_resume import on_disk, same
from tests.sim.test_rollout import LANGEVIN, TOPOLOGY, N, bad_start, go, starts

KT = np.array([0.35, 0.6, 1.0])
A, B, LADDERS = 1.5, 0.3, 100
RUN = Settings(n_frames=400, stride=10, chunk_frames=100, cutoff_A=0.0, rungs=3)
SHORT = Settings(n_frames=6, stride=6, chunk_frames=2, cutoff_A=8.0, rungs=3, rounds=3)
LADDER = np.array([0.5, 0.6, 0.72])


def wells(run=RUN, planted=1.0, seed=11):
    """(⟨x⟩, ⟨K⟩/KT) of each ladder and rung: (LADDERS, 3) each, over the later half of runs of one particle
    a replica in tilted double wells, all of which start on the wrong side; and the chunks.

    planted: factor of all kT."""
    n = 3 * LADDERS
    system = analytic.free_beads(n)
    system = system._replace(mass=np.full_like(system.mass, 5.0))
    limits = checks(system, np.zeros(0), Criteria(size_limits=False))
    every = np.tile(planted * KT, LADDERS)
    chunks = list(
        rollout(
            analytic.asymmetric, {"a": A, "b": B}, system, -np.ones((n, 3)), every, jax.random.key(seed),
            Langevin(0.1, 0.2), run, limits,
        )
    )  # fmt: skip
    later = chunks[len(chunks) // 2 :]
    x, kinetic, rung = (
        np.concatenate([part(c) for c in later])
        for part in (
            lambda c: c.positions.mean(-1, dtype=float),
            lambda c: c.kinetic,
            lambda c: c.rung[:, -1],
        )
    )
    order = rung.reshape(len(x), LADDERS, 3).argsort(-1)
    x, kinetic = (np.take_along_axis(v.reshape(order.shape), order, -1).mean(0) for v in (x, kinetic))
    return x, kinetic / (1.5 * KT), chunks


@pytest.fixture(scope="module")
def exchanged():
    return wells()


def off(means, expected):
    """The largest deviation of a rung, in standard errors over the ladders."""
    return max(abs(deviations(means[:, k], expected[k])) for k in range(3))


EXPECTED = [analytic.asymmetric_moment(A, B, kT, 1) for kT in KT]


@pytest.mark.slow
def test_every_temperature_has_its_own_average(exchanged):
    """⟨x⟩ and ⟨K⟩ of each rung within 3 standard errors (false alarm 1.6 % over six means; the key is
    fixed), and replicas go up and down the whole ladder. ⟨K⟩ is low by (ωh)²/4 < 0.7 % (BAOAB)."""
    x, kinetic, chunks = exchanged
    assert off(x, EXPECTED) < 3.0 and off(kinetic, np.ones(3)) < 3.0
    rung = np.concatenate([c.rung[:, 0] for c in chunks])
    first = np.tile(np.arange(3), LADDERS)
    found = statistics(np.r_[first[None], rung], np.ones(rung.shape, bool), 3)
    assert (found.acceptance > 0.3).all() and (found.acceptance < 1.0).all()
    assert found.trips.sum() > 300


@pytest.mark.slow
def test_a_wrong_rule_is_found(monkeypatch):
    """The sign of the exponent turned round, and momenta that are not rescaled: both are seen by far."""
    rule = kernels.swapped
    forget = getattr(kernels.advance, "clear_cache")  # noqa: B009  (JAX has no typed name for it)
    plants = {
        "swapped": lambda key, sets, rung, potential, alive, number: rule(
            key, sets, rung, -potential, alive, number
        ),
        "rescaled": lambda state, ratio, graphs: state,
    }
    for name, plant in plants.items():
        forget()
        with monkeypatch.context() as patch:
            patch.setattr(kernels, name, plant)
            x, kinetic, _ = wells()
        assert max(off(x, EXPECTED), off(kinetic, np.ones(3))) > 6.0
    forget()


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_factor_of_two_of_kT_is_found(factor):
    """By both averages, each on its own."""
    x, kinetic, _ = wells(planted=factor)
    assert off(x, EXPECTED) > 6.0 and off(kinetic, np.ones(3)) > 6.0


def rungs(chunks):
    """(rounds + 1, g), those of the start among them."""
    every = np.concatenate([c.rung.reshape(-1, c.rung.shape[-1]) for c in chunks])
    return np.r_[np.tile(np.arange(3), every.shape[1] // 3)[None], every]


@pytest.fixture(scope="module")
def short():
    """Two ladders of three short chains."""
    return go(starts(6), graphs=6, run=SHORT, kT=np.tile(LADDER, 2))


def test_goes_on_bit_for_bit_from_every_chunk(tmp_path, short):
    """The rungs are part of the snapshot: without them a run would begin its ladder anew."""
    told = rungs(short)
    assert (np.sort(told.reshape(-1, 2, 3)) == np.arange(3)).all() and (told[6] != told[0]).any()
    for done in (1, 2):
        resume = on_disk(short[done - 1], tmp_path)
        rest = go(starts(6), graphs=6, run=SHORT, kT=np.tile(LADDER, 2), resume=resume)
        assert all(same(a, b) for a, b in zip(rest, short[done:], strict=True))


def test_the_dead_keep_their_rung_and_the_others_go_on(short):
    """Replica 1, in the middle of the first ladder, is dead from the start: nobody in it can swap; the second
    ladder does not notice by a bit."""
    x = starts(6)
    x[N : 2 * N] = bad_start("overlap")[N : 2 * N]
    broken = go(x, graphs=6, run=SHORT, kT=np.tile(LADDER, 2))
    assert broken[-1].status[1] != Status.OK
    found = rungs(broken)
    assert (found[:, :3] == np.arange(3)).all()
    np.testing.assert_array_equal(found[:, 3:], rungs(short)[:, 3:])
    for a, b in zip(broken, short, strict=True):
        np.testing.assert_array_equal(a.positions[:, 3 * N :], b.positions[:, 3 * N :])
    assert np.isfinite(np.concatenate([c.kinetic for c in broken])).all()


def test_momenta_are_rescaled_and_the_bath_is_that_of_the_rung():
    """One step a round, so short and weakly damped that momenta move by swaps alone: the kinetic energy of a
    replica over the kT of its rung stays what it was."""
    run = Settings(n_frames=4, stride=1, chunk_frames=4, cutoff_A=8.0, rungs=3)
    (chunk,) = go(starts(6), graphs=6, run=run, kT=np.tile(LADDER, 2), mover=Langevin(1e-7, 1e-7))
    rung = chunk.rung[:, -1]
    assert (rung != rung[0]).any()
    per_kT = chunk.kinetic / LADDER[rung]
    np.testing.assert_allclose(per_kT, np.broadcast_to(per_kT[0], per_kT.shape), rtol=1e-4)


def test_ladders_that_are_none_are_refused():
    kT = np.tile(LADDER, 2)
    with pytest.raises(ValueError, match="rising"):
        go(starts(6), graphs=6, run=SHORT, kT=kT[::-1].copy())
    with pytest.raises(ValueError, match="start at different thermal energies"):
        go(starts(6), graphs=6, run=SHORT, kT=np.r_[LADDER, 2 * LADDER])
    with pytest.raises(ValueError, match="not whole ladders of 3"):
        go(starts(4), graphs=4, run=SHORT, kT=np.r_[LADDER, LADDER[:1]])
    other = pack([TOPOLOGY, TOPOLOGY, topology_from_species([3] * N)])
    with pytest.raises(ValueError, match="replicas 0 and 2 of one ladder are not the same molecule"):
        go(starts(3), system=other, run=SHORT, kT=LADDER)
    with pytest.raises(ValueError, match="needs the integrator Langevin, found NoseHoover"):
        go(starts(3), run=SHORT, kT=LADDER, mover=NoseHoover(LANGEVIN.dt, 10.0))
    with pytest.raises(ValueError, match="not a multiple"):
        replace(SHORT, rounds=4)


def test_settings_divide_a_frame_into_rounds():
    """125 steps a frame, exchanges wanted every 30: every 25 are five rounds, and looks divide them."""
    run = settings(20.0, 0.5, 0.004, 0.0, check_every=10, rungs=4, exchange_interval=0.12)
    assert (run.stride, run.rounds, run.check_every, run.rungs) == (125, 5, 5, 4)
    assert settings(20.0, 0.5, 0.004, 0.0, rungs=4).rounds == 1
