"""The replica loop: freezing, isolation, regrowing, tracing, padding."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import units
from cgrefine.config.running import Criteria
from cgrefine.energy import BondedTerm, PairTerm, SumOfTerms
from cgrefine.sim import forces
from cgrefine.sim.kernels import advance
from cgrefine.sim.langevin import Integrator, Langevin
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.rollout import Settings, rollout, settings
from cgrefine.sim.stability import checks
from cgrefine.status import Status
from cgrefine.system import Capacity, exact_capacity, pack, topology_from_species
from tests.chains import ideal_helix

N = 9
TOPOLOGY = topology_from_species([0] * N)
DT = units.from_fs(5.0)
LANGEVIN = Langevin(DT, units.from_per_ps(1.0))


def _spring(params, r, kind):
    return 0.5 * params["k"] * (r - 3.8) ** 2


def _soft(params, r, a, b):
    return params["e"] * (1.0 - (r / 8.0) ** 2) ** 3


MODEL = SumOfTerms((BondedTerm("bond", "bond", _spring), PairTerm("pair", 8.0, 3, _soft)))
PARAMS = {"bond": {"k": 100.0}, "pair": {"e": 1.0}}
RUN = Settings(n_frames=6, stride=5, chunk_frames=2, cutoff_A=8.0)


def go(
    x,
    graphs=3,
    system=None,
    run=RUN,
    model=MODEL,
    params=PARAMS,
    mover: Integrator = LANGEVIN,
    criteria=None,
    kT: Any = 0.6,
    resume=None,
):
    system = pack([TOPOLOGY] * graphs) if system is None else system
    limits = checks(system, np.full(len(system.bond_mask), 3.8), criteria or Criteria(size_limits=False))
    return list(
        rollout(
            model, params, system, x, np.broadcast_to(kT, len(system.graph_mask)), jax.random.key(4), mover,
            run, limits, resume=resume,
        )
    )  # fmt: skip


def joined(chunks, field):
    return np.concatenate([getattr(c, field) for c in chunks])


def starts(graphs=3):
    return np.concatenate([ideal_helix(N)] * graphs)


@pytest.fixture(scope="module")
def healthy():
    """Three replicas that stay whole."""
    return go(starts())


def bad_start(kind):
    """Three replicas of which the middle one will fail: by a fold onto itself that gives NaN, or a bond."""
    x = starts()
    if kind == "overlap":
        x[N + 5] = x[N] + 1e-3
    else:
        x[N + 8] *= 1e30
    return x


@pytest.mark.parametrize("kind", ["overlap", "overflow"])
def test_a_failed_replica_is_frozen_and_leaves_the_others_bitwise(kind, healthy):
    broken = go(bad_start(kind))
    assert broken[-1].status[1] != Status.OK and broken[-1].fail_step[1] == 0
    assert list(healthy[-1].status) == [0, 0, 0]
    a, b = joined(healthy, "positions"), joined(broken, "positions")
    others = np.r_[0:N, 2 * N : 3 * N]
    assert np.array_equal(a[:, others], b[:, others])
    assert np.all(b[:, N : 2 * N] == np.float32(bad_start(kind)[N : 2 * N]))
    assert not joined(broken, "alive")[:, 1].any() and joined(broken, "alive")[:, [0, 2]].all()


def _hole(params, r, kind):
    """A spring that tears to NaN beyond 4.1 Å, in replicas whose beads are prolines."""
    torn = (kind % 20 == 14) & (r > params["tear"])
    return jnp.where(torn, jnp.nan, 0.5 * params["k"] * (r - 3.8) ** 2)


def test_nan_during_the_run_stops_one_replica_at_its_last_good_state():
    """The energy turns NaN in the middle replica: NON_FINITE with its step, the others untouched."""
    fragile = topology_from_species([14] * N)
    system = pack([TOPOLOGY, fragile, TOPOLOGY])
    model = SumOfTerms((BondedTerm("bond", "bond", _hole), *MODEL.terms[1:]))
    torn, whole = (
        go(starts(), system=system, model=model, params={**PARAMS, "bond": {"k": 100.0, "tear": tear}})
        for tear in (3.85, 99.0)
    )
    assert list(torn[-1].status) == [Status.OK, Status.NON_FINITE, Status.OK]
    step = int(torn[-1].fail_step[1])
    assert 0 < step < RUN.n_frames * RUN.stride
    a, b = joined(whole, "positions"), joined(torn, "positions")
    others = np.r_[0:N, 2 * N : 3 * N]
    assert np.array_equal(a[:, others], b[:, others])
    assert np.isfinite(b).all()
    good = joined(torn, "alive")[:, 1]
    assert good.sum() == (step - 1) // RUN.stride
    assert np.array_equal(a[good, N : 2 * N], b[good, N : 2 * N])
    for field in ("potential", "kinetic", "temperature_K"):
        assert np.isfinite(joined(torn, field)).all()


def test_an_overfull_list_is_run_again_with_room(monkeypatch, healthy):
    """Room for the edges of the start alone, and beads i, i+5 (8.656 Å) about to come within the cutoff:
    grown and counted; the trajectory is that of a list that was never too small."""
    monkeypatch.setattr(forces, "CAPACITY_STEP", 1)
    small = go(starts(), run=Settings(6, 5, 2, 8.65, headroom=1.0))
    assert small[-1].regrown > 0 and healthy[-1].regrown == 0
    np.testing.assert_allclose(joined(small, "positions"), joined(healthy, "positions"), atol=1e-6)


def test_a_start_that_does_not_fit_is_evaluated_again(monkeypatch, healthy):
    """The very first forces are not those of a cut list."""
    monkeypatch.setattr(forces, "CAPACITY_STEP", 1)
    small = go(starts(), run=Settings(6, 5, 2, 8.0, headroom=0.9))
    assert small[-1].regrown > 0
    np.testing.assert_allclose(joined(small, "positions"), joined(healthy, "positions"), atol=1e-6)


def test_chunks_join_without_a_seam(healthy):
    one = go(starts(), run=Settings(6, 5, 6, 8.0))
    assert len(one) == 1 and len(healthy) == 3
    np.testing.assert_array_equal(joined(one, "positions"), joined(healthy, "positions"))
    np.testing.assert_allclose(joined(healthy, "time_ps"), 0.025 * np.arange(1, 7))


def test_new_parameters_do_not_trace_again(healthy):
    """Parameters, kT and the length of the run are arguments; they also take effect."""
    compiled = getattr(advance, "_cache_size")  # noqa: B009  (JAX has no typed name for it)
    before = compiled()
    other = go(starts(), params={**PARAMS, "pair": {"e": 2.0}}, kT=0.7, run=replace(RUN, n_frames=4))
    assert before > 0 and compiled() == before
    assert not np.array_equal(other[0].positions, healthy[0].positions)


def test_padding_changes_nothing_and_stays():
    """More beads, tuples and an empty graph: the padding never moves, and the rest conserves its energy."""
    cap = Capacity(*map(sum, zip(exact_capacity([TOPOLOGY] * 2), (4, 1, 3, 3, 3), strict=True)))
    padded = pack([TOPOLOGY] * 2, cap)
    x = np.concatenate([starts(2), np.full((4, 3), 7.0)])
    run = Settings(2, 5, 2, 8.0)
    chunks = go(x, system=padded, run=run, mover=VelocityVerlet(DT))
    assert list(chunks[-1].status) == [0, 0, 0]
    assert np.all(chunks[-1].positions[:, 2 * N :] == 7.0)
    assert np.all(chunks[-1].kinetic[:, 2] == 0) and np.all(chunks[-1].kinetic[:, :2] > 0)
    total = chunks[-1].kinetic[:, :2] + chunks[-1].potential[:, :2]
    assert np.ptp(total, axis=0).max() < 0.02 * chunks[-1].kinetic.max()


def test_kinetic_temperature_is_that_of_the_bath():
    """Mean over 40 replicas; 27 momenta each, correlated over about 1 ps: four standard errors."""
    run = Settings(n_frames=10, stride=40, chunk_frames=5, cutoff_A=0.0)
    model, params = MODEL.only(("bond",)), {"bond": PARAMS["bond"]}
    kT = units.thermal_energy(320.0)
    loose = Criteria(size_limits=False, bond_deviation_A=9, second_neighbor_min_A=1e-3, overlap_min_A=1e-3)
    chunks = go(starts(40), graphs=40, run=run, model=model, params=params, criteria=loose, kT=kT)
    per_replica = joined(chunks, "temperature_K").mean(axis=0)
    stderr = per_replica.std(ddof=1) / np.sqrt(40)
    assert stderr < 10.0
    assert abs(per_replica.mean() - 320.0) < 4 * stderr


def test_ends_when_all_have_failed():
    x = starts()
    x[[8, 17, 26]] += 5.0
    chunks = go(x)
    assert len(chunks) == 1 and list(chunks[0].fail_step) == [0, 0, 0]


def test_single_precision_smoke():
    chunks = go(np.float32(starts()), criteria=Criteria())
    assert chunks[-1].potential.dtype == np.float32 and not chunks[-1].status.any()


def test_settings_round_to_whole_steps_and_chunks():
    run = settings(duration=20.0, interval=0.5, dt=0.004, cutoff_A=0.0)
    assert (run.n_frames, run.stride, run.chunk_frames) == (40, 125, 10)
    assert settings(7.0, 1.0, 0.3, 0.0).stride == 3


def test_bad_starts_are_refused():
    x = starts()
    x[4] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        go(x)


def test_another_time_step_and_friction_do_not_trace_again(healthy):
    """Nor do they give the same run: a stiffer bath and half the step end elsewhere."""
    compiled = getattr(advance, "_cache_size")  # noqa: B009  (JAX has no typed name for it)
    before = compiled()
    other = go(starts(), mover=Langevin(0.5 * DT, units.from_per_ps(3.0)))
    assert before > 0 and compiled() == before
    assert not np.array_equal(other[-1].positions, healthy[-1].positions)
    np.testing.assert_allclose(joined(other, "time_ps"), 0.5 * joined(healthy, "time_ps"))
