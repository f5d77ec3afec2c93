"""Rollouts with fast forces: the same dynamics as with edges; failures are seen at each look, and alone."""

import jax
import numpy as np
import pytest

from cgrefine import dense, units
from cgrefine.config.running import Criteria
from cgrefine.sim.kernels import Fast
from cgrefine.sim.langevin import Langevin
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.rollout import rollout, settings
from cgrefine.sim.stability import checks
from cgrefine.status import Status
from cgrefine.system import pack, topology_from_species
from tests.chains import ideal_helix
from tests.test_dense import PARAMS, model_of

N = 9
CHAIN = topology_from_species([0] * N)
MODEL = model_of("bond", "repulsion")
"""Terms whose dense forces are exact: the table of a harmonic bond's force is a line."""

DT = units.from_fs(2.0)


def go(x, replicas, mover, fast=True, check_every=5, n_frames=4, criteria=None, params=PARAMS):
    system = pack([CHAIN] * replicas)
    limits = checks(system, np.full(len(system.bonds), 3.8), criteria or Criteria(size_limits=False))
    run = settings(20 * n_frames * DT, 20 * DT, DT, MODEL.cutoff_A, 2, check_every if fast else 1)
    given = Fast(*dense.dense(MODEL, params, CHAIN, x.dtype)) if fast else None
    kT = np.full(replicas, 0.6)
    return list(rollout(MODEL, params, system, x, kT, jax.random.key(3), mover, run, limits, given))


def starts(replicas: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([ideal_helix(N) + rng.normal(scale=0.05, size=(N, 3)) for _ in range(replicas)])


def joined(chunks, name):
    return np.concatenate([getattr(c, name) for c in chunks])


def test_the_same_trajectory_as_with_edges():
    """Velocity Verlet in float64 over 80 steps: only rounding tells the two apart."""
    with jax.enable_x64(True):
        slow, fast = (go(starts(4), 4, VelocityVerlet(DT), fast=f) for f in (False, True))
    assert np.allclose(joined(slow, "positions"), joined(fast, "positions"), rtol=0.0, atol=1e-9)
    assert np.allclose(joined(slow, "potential"), joined(fast, "potential"), rtol=0.0, atol=1e-9)
    assert np.array_equal(joined(slow, "time_ps"), joined(fast, "time_ps"))


def test_a_failed_replica_is_frozen_and_the_others_do_not_notice():
    x = starts(3).astype(np.float32)
    bad = x.copy()
    bad[N + 4] += 40.0  # breaks two bonds of the middle replica
    whole, broken = (go(start, 3, Langevin(DT, 0.05)) for start in (x, bad))
    assert list(whole[-1].status) == [Status.OK] * 3
    assert list(broken[-1].status) == [Status.OK, Status.BOND, Status.OK]
    a, b = joined(whole, "positions"), joined(broken, "positions")
    others = np.r_[0:N, 2 * N : 3 * N]
    assert np.array_equal(a[:, others], b[:, others])
    assert np.array_equal(b[-1, N : 2 * N], bad[N : 2 * N])


def test_a_failure_is_seen_at_the_next_look():
    """Beads without bonds fly apart, so that one of their distances stays wrong from some step on."""
    free = {**PARAMS, "bond": {**PARAMS["bond"], "k": np.zeros(3)}}
    far = Criteria(size_limits=False, bond_deviation_A=0.25)
    with jax.enable_x64(True):
        slow, fast = (
            go(starts(4), 4, VelocityVerlet(DT), fast=f, criteria=far, params=free)[-1].fail_step
            for f in (False, True)
        )
    assert (slow > 0).all() and (slow % 5 != 0).any()
    assert np.array_equal(fast, 5 * -(-slow // 5))


def test_looks_need_fast_forces():
    with pytest.raises(ValueError, match="every 5 steps need fast forces"):
        run = settings(DT * 20, DT * 20, DT, 8.0, check_every=5)
        system = pack([CHAIN])
        limits = checks(system, np.full(len(system.bonds), 3.8), Criteria())
        next(
            rollout(
                MODEL,
                PARAMS,
                system,
                starts(1),
                np.ones(1),
                jax.random.key(0),
                Langevin(DT, 1.0),
                run,
                limits,
            )
        )
