"""A run goes on from a snapshot bit for bit; the state that failed is kept as it was proposed."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from cgrefine import checkpoint
from cgrefine.energy import BondedTerm, SumOfTerms
from cgrefine.sim import forces
from cgrefine.sim.nve import VelocityVerlet
from cgrefine.sim.rollout import Chunk, Settings
from cgrefine.status import Status
from cgrefine.system import pack, topology_from_species
from tests.sim.test_rollout import DT, MODEL, PARAMS, RUN, TOPOLOGY, N, bad_start, go, joined, starts

MIDDLE = np.s_[N : 2 * N]
OTHERS = np.r_[0:N, 2 * N : 3 * N]


def on_disk(chunk: Chunk, path) -> dict:
    checkpoint.save_params(path / "state.npz", checkpoint.named_leaves(chunk.snapshot))
    return checkpoint.load_params(path / "state.npz")


def same(a: Chunk, b: Chunk) -> bool:
    """All numbers of two chunks and of their snapshots, to the last bit, NaN included."""
    left, right = (
        {**checkpoint.named_leaves(c._asdict()), **checkpoint.named_leaves(c.snapshot)} for c in (a, b)
    )
    return all(np.array_equal(left[name], right[name], equal_nan=True) for name in left | right)


def torn(params, r, kind):
    """A spring whose energy is NaN beyond params["tear"], between prolines."""
    lost = (kind % 20 == 14) & (r > params["tear"])
    return jnp.where(lost, jnp.nan, 0.5 * params["k"] * (r - 3.8) ** 2)


@pytest.mark.parametrize("mover", [None, VelocityVerlet(DT)], ids=["langevin", "nve"])
def test_goes_on_bit_for_bit_from_every_chunk(tmp_path, mover):
    """With a replica that failed and a list that was regrown on the way: both are part of the state."""
    options = {} if mover is None else {"mover": mover}
    whole = go(bad_start("overlap"), **options)
    for done in range(1, len(whole)):
        rest = go(bad_start("overlap"), resume=on_disk(whole[done - 1], tmp_path), **options)
        assert len(rest) == len(whole) - done
        assert all(same(a, b) for a, b in zip(rest, whole[done:], strict=True))
    assert go(bad_start("overlap"), resume=on_disk(whole[-1], tmp_path), **options) == []


def test_a_grown_list_is_part_of_the_state(monkeypatch, tmp_path):
    """A list that grew in the first chunk: the size of the buffer decides about rounding."""
    monkeypatch.setattr(forces, "CAPACITY_STEP", 1)
    run = Settings(6, 5, 2, 8.65, headroom=1.0)
    whole = go(starts(), run=run)
    assert whole[0].regrown > 0
    rest = go(starts(), run=run, resume=on_disk(whole[0], tmp_path))
    assert all(same(a, b) for a, b in zip(rest, whole[1:], strict=True))
    assert rest[0].edge_capacity == whole[1].edge_capacity


def test_an_end_of_all_replicas_stays_the_end(tmp_path):
    x = starts()
    x[[8, 17, 26]] += 5.0
    ended = go(x)
    assert len(ended) == 1 and go(x, resume=on_disk(ended[0], tmp_path)) == []


def test_a_snapshot_of_another_run_is_refused():
    """Other sizes, another precision, and a part that is missing."""
    named = checkpoint.named_leaves(go(starts())[0].snapshot)
    with pytest.raises(ValueError, match="progress/state/positions of the saved tree is"):
        go(starts(4), graphs=4, resume=named)
    with pytest.raises(ValueError, match="float64"):
        go(np.float32(starts()), resume=named)
    del named["progress/step"]
    with pytest.raises(ValueError, match="the saved tree holds"):
        go(starts(), resume=named)


def test_the_state_that_failed_is_kept_as_proposed():
    """The middle replica's energy turns NaN at one step: its positions there are those of a whole spring,
    its energy is NaN; the state it is frozen in is that of the step before. The others have none."""
    system = pack([TOPOLOGY, topology_from_species([14] * N), TOPOLOGY])
    model = SumOfTerms((BondedTerm("bond", "bond", torn), *MODEL.terms[1:]))
    broken, whole = (
        go(starts(), system=system, model=model, run=run, params={**PARAMS, "bond": {"k": 100.0, "tear": at}})
        for at, run in ((3.85, RUN), (99.0, Settings(30, 1, 30, 8.0)))
    )
    step, last = int(broken[-1].fail_step[1]), broken[-1].snapshot.progress
    every = whole[0].positions
    assert broken[-1].status[1] == Status.NON_FINITE and step > 1
    np.testing.assert_array_equal(np.float32(last.failed.positions[MIDDLE]), every[step - 1, MIDDLE])
    np.testing.assert_array_equal(np.float32(last.state.positions[MIDDLE]), every[step - 2, MIDDLE])
    assert np.isnan(last.failed.energies[MIDDLE]).any()
    assert all(not np.any(part[OTHERS]) for part in last.failed)


def test_the_failed_state_is_the_first_one():
    """A start with a torn bond fails at step 0, and what comes later does not touch the record."""
    x = starts()
    x[N + 8] += 5.0
    short, long = (go(x, run=replace(RUN, n_frames=n)) for n in (2, 6))
    for chunks in (short, long):
        failed = chunks[-1].snapshot.progress.failed
        np.testing.assert_array_equal(failed.positions[MIDDLE], x[MIDDLE])
        np.testing.assert_array_equal(failed.momenta, short[0].snapshot.progress.failed.momenta)
    assert np.any(failed.momenta[MIDDLE]) and not np.any(failed.momenta[OTHERS])
    assert np.isfinite(joined(long, "potential")).all()


FAULTS = {
    "overlap": ("positions", lambda x, rng: x[rng.permutation(N)[:1]] + 1e-3),
    "thrown": ("positions", lambda x, rng: x[:1] + 10.0 ** rng.uniform(1, 30)),
    "momentum": ("momenta", lambda p, rng: p[:1] + rng.choice([np.nan, np.inf, 1e30, 1e4])),
    "force": ("at/forces", lambda f, rng: f[:1] + rng.choice([np.nan, -np.inf, 1e25, 1e6])),
}
"""Part of the state, and what comes to stand in one row of it."""


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_at_a_random_moment_ends_one_replica_and_touches_no_other(kind):
    """Put into a random bead of a random replica between two chunks: it fails in the next, and is frozen; the
    others are those of the undisturbed run bit for bit."""
    rng, whole = np.random.default_rng(list(FAULTS).index(kind)), go(starts())
    name, fault = FAULTS[kind]
    for _ in range(6):
        done, victim, bead = int(rng.integers(1, 3)), int(rng.integers(3)), int(rng.integers(N))
        named = dict(checkpoint.named_leaves(whole[done - 1].snapshot))
        part = named[f"progress/state/{name}"] = named[f"progress/state/{name}"].copy()
        mine = part[victim * N : (victim + 1) * N]
        others = np.delete(mine, bead, axis=0)
        mine[bead] = fault(others, rng)[0]
        broken = go(starts(), resume=named)
        assert len(broken) == len(whole) - done
        first = done * RUN.chunk_frames * RUN.stride
        for g, (status, step) in enumerate(zip(broken[-1].status, broken[-1].fail_step, strict=True)):
            assert (status != Status.OK) == (g == victim)
            assert step == -1 if g != victim else first < step <= first + RUN.stride
        rows = np.delete(np.arange(3 * N), np.s_[victim * N : (victim + 1) * N])
        for chunk, undisturbed in zip(broken, whole[done:], strict=True):
            np.testing.assert_array_equal(chunk.positions[:, rows], undisturbed.positions[:, rows])
            for values in ("potential", "kinetic", "temperature_K", "alive"):
                a, b = (np.delete(getattr(c, values), victim, axis=1) for c in (chunk, undisturbed))
                np.testing.assert_array_equal(a, b)
            assert not chunk.alive[:, victim].any()
